"""Image datasets from raw files, in parallel processes: what robomimic's dataset_states_to_obs.py writes, bit for bit."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import h5py
from tqdm import tqdm

from robomimic_frozen import __version__, compat, hdf5
from robomimic_frozen.data import lift_env
from robomimic_frozen.data.raw_file import RawFile
from robomimic_frozen.errors import DatasetError, first_line
from robomimic_frozen.executors.executor import Executor, surviving_map
from robomimic_frozen.files import complete_or_absent, refuse_existing, require_space, sha256_of, sole_writer, to_disk
from robomimic_frozen.preflight import check_output_dir

# Room on the disk for what is small beside the images, as a part of them.
_SPARE_PART: Final = 0.1
# What the last bits of an image, or the layout of a file, may depend on.
_PACKAGES: Final = ("robomimic", "robosuite", "mujoco", "h5py")


@dataclass(frozen=True)
class View:
    """What is written of every state.

    Attributes:
        cameras: cameras of the scene whose images are recorded as `<camera>_image`.
        image_size: height and width of the images in pixels.
        next_obs: whether `next_obs` is written as well, which doubles the file.
    """

    cameras: tuple[str, ...]
    image_size: int
    next_obs: bool = False

    @property
    def bytes_per_step(self) -> float:
        images = len(self.cameras) * (1 + self.next_obs)
        return (1 + _SPARE_PART) * images * 3 * self.image_size**2


def render_dataset(raw: RawFile, out: Path, view: View, executor: Executor, progress: bool = True) -> None:
    """Write the image dataset of a raw file, its filter keys included.

    The file appears under its name only when it is complete. Demos that are finished lie in a hidden folder beside it until then,
    from which a later call with the same arguments and versions goes on.

    Args:
        out: HDF5 file to write.
        executor: of the rendering; its workers read the raw file.
        progress: whether to show a progress bar on stderr.

    Raises:
        ConfigError: a camera is unknown, the folder cannot be written to, or another process is writing this file.
        DatasetError: the file exists already, the disk is full, or the raw file cannot be played back.
        RenderingError: no OpenGL backend works on this machine.
    """
    raw.check_cameras(view.cameras)
    refuse_existing(out)
    check_output_dir(out.parent)
    backend = compat.select_gl_backend()  # for the workers, too, which inherit its choice
    hidden = out.with_name(f".{out.name}.partial")
    with _disk_errors_named(out), sole_writer(hidden, "rendering"):
        refuse_existing(out)  # it may have been finished meanwhile
        folder = hidden / _fingerprint(raw, view, backend)
        folder.mkdir(exist_ok=True)
        parts = {name: folder / f"{name}.hdf5" for name in raw.steps}
        missing = [name for name, part in parts.items() if not part.exists()]
        steps = sum(raw.steps.values()) + sum(raw.steps[name] for name in missing)
        require_space(out.parent, int(view.bytes_per_step * steps))
        _render(raw, view, {name: parts[name] for name in missing}, executor, progress)
        _merge(raw, parts, out)
        shutil.rmtree(hidden)


def _fingerprint(raw: RawFile, view: View, backend: str) -> str:
    """Of what the demos are made from, and by what."""
    made_from = {
        "raw": sha256_of(raw.path), "view": asdict(view), "opengl": backend,
        "versions": [__version__, *(importlib.metadata.version(name) for name in _PACKAGES)],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _disk_errors_named(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else first_line(error)
        raise DatasetError(f"cannot write {out} ({reason}); what is rendered is kept: free some space and run again") from error


def _render(raw: RawFile, view: View, parts: Mapping[str, Path], executor: Executor, progress: bool) -> None:
    """Render each demo to a file of its own."""
    demos = list(parts)
    build = functools.partial(_make_renderer, raw, view, demos)
    bar = tqdm(desc="rendering", initial=len(raw.steps) - len(demos), total=len(raw.steps), unit="demo", disable=not progress)
    with bar, contextlib.closing(surviving_map(build, len(demos), executor)) as results:
        for index, result in results:
            if isinstance(result, Exception):
                raise result
            # Written here and not by workers, which may outlive a process that is killed, and its lock.
            with complete_or_absent(parts[demos[index]]) as beside:
                beside.write_bytes(result)
            bar.update()


def _make_renderer(raw: RawFile, view: View, demos: Sequence[str]) -> Callable[[int], bytes]:
    """In a worker: number of a demo -> an HDF5 file of it."""
    # A software renderer would start a thread for every core, and is no faster for it.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.data.playback import Playback

    playback = Playback(raw, view.cameras, view.image_size, view.image_size, view.next_obs)

    def render(index: int) -> bytes:
        with hdf5.opened(raw.path) as file:
            demo = file["data"][demos[index]]
            trajectory, cameras = playback.trajectory(demo)
            return _part(demo, trajectory, cameras, playback.env_args)

    return render


def _part(demo: h5py.Group, trajectory: dict[str, Any], cameras: dict[str, Any] | None, env_args: str) -> bytes:
    """An HDF5 file of one demo, made in memory: of a full disk HDF5 may not tell."""
    with h5py.File("part.hdf5", "w", driver="core", backing_store=False) as file:
        data = file.create_group("data")
        data.attrs["env_args"] = env_args
        group = data.create_group(Path(demo.name).name)
        for key in ("actions", "states", "rewards", "dones"):
            group[key] = trajectory[key]
        for parent in trajectory.keys() & {"obs", "next_obs"}:
            for key, values in trajectory[parent].items():
                group[f"{parent}/{key}"] = values
        for key in demo.keys() & {"actions_abs", "action_dict"}:
            demo.copy(key, group)
        group.attrs["model_file"] = lift_env.portable_model(demo.attrs["model_file"])
        if "ep_meta" in demo.attrs:
            group.attrs["ep_meta"] = demo.attrs["ep_meta"]
        if cameras is not None:
            group.attrs["camera_info"] = json.dumps(cameras, indent=4)
        group.attrs["num_samples"] = len(trajectory["actions"])
        file.flush()
        return file.id.get_file_image()


def _merge(raw: RawFile, parts: Mapping[str, Path], out: Path) -> None:
    with complete_or_absent(out) as beside:
        try:
            _write_merged(raw, parts, beside)
        except RuntimeError as error:  # h5py's word for a copy that could not be written
            raise OSError(first_line(error)) from error


def _write_merged(raw: RawFile, parts: Mapping[str, Path], path: Path) -> None:
    with h5py.File(path, "w") as file, h5py.File(raw.path, "r") as source:
        data = file.create_group("data")
        for name, part_path in parts.items():
            with h5py.File(part_path, "r") as part:
                part.copy(f"data/{name}", data)
                data.attrs["env_args"] = part["data"].attrs["env_args"]
        data.attrs["total"] = sum(raw.steps.values())
        if "mask" in source:
            source.copy("mask", file)
    with path.open("rb+") as written:
        to_disk(written)
