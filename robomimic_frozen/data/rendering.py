"""Image datasets of raw files, made and checked in parallel: what robomimic's dataset_states_to_obs.py writes, bit for bit."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np

from robomimic_frozen.data.parts import finished_parts, hdf5_in_memory, merge
from robomimic_frozen.data.raw_file import RawFile, read_raw_file
from robomimic_frozen.errors import DatasetError, MalformedError
from robomimic_frozen.simulation import gl, tasks
from robomimic_frozen.simulation.absolute_actions import action_dict
from robomimic_frozen.utils import files, hdf5
from robomimic_frozen.utils.machine import PACKAGES, installed_version
from robomimic_frozen.utils.parallel import Executor, ordered_map, worker_state
from robomimic_frozen.utils.urls import local_path

if TYPE_CHECKING:
    from robomimic_frozen.data.playback import Playback

# Room on the disk for what is small beside the images, as a part of them.
_SPARE_PART: Final = 0.1
# What a check looks at: so many demos, and so many steps of each.
_CHECKED_DEMOS: Final = 8
_CHECKED_STEPS: Final = 6
_IMAGE: Final = "_image"


@dataclass(frozen=True)
class View:
    """What is written of every state: each `<camera>_image`, its height and width in pixels, and whether `next_obs`, too.

    With `absolute_actions` also, as robomimic's scripts do, `actions_abs`, and of one arm their parts in `action_dict`.
    """

    cameras: tuple[str, ...]
    image_size: int
    next_obs: bool = False
    absolute_actions: bool = False


def render_dataset(raw: RawFile, out: Path, view: View, executor: Executor | None = None, progress: bool = True) -> None:
    """Write the image dataset of a raw file, its filter keys included.

    The file appears under its name only when it is complete. Demos that are finished lie in a hidden folder beside it until then,
    from which a later call with the same arguments and versions goes on.

    Args:
        out: HDF5 file to write.
        executor: of the rendering; its workers read the raw file.
        progress: whether to show a progress bar on stderr.

    Raises:
        ConfigError: a camera is unknown, the folder cannot be written to, or another process is writing this file.
        DatasetError: the file exists already, the disk is full, or the raw file cannot be played back, here where a package is missing.
        RenderingError: no OpenGL backend works on this machine.
    """
    raw.check_cameras(view.cameras)
    files.refuse_existing(out)  # before OpenGL is looked for
    files.require_writable(out.parent)
    backend = gl.select_gl_backend()  # for the workers, too, which inherit its choice
    raw.check_environment()
    parts = {name: f"{name}.hdf5" for name in raw.steps}

    def room(missing: list[str]) -> int:
        steps = sum(raw.steps.values()) + sum(raw.steps[name] for name in missing)
        images = steps * len(view.cameras) * (1 + view.next_obs)
        return int((1 + _SPARE_PART) * images * 3 * view.image_size**2)

    def complete(file: h5py.File) -> None:
        file["data"].attrs["total"] = sum(raw.steps.values())
        with hdf5.opened(raw.path) as source:
            if "mask" in source:
                source.copy("mask", file)

    render = functools.partial(_render_demo, raw.path, view)
    with finished_parts(out, parts, render, _fingerprint(raw, view, backend), room, executor, progress) as folder:
        merge({name: folder / part for name, part in parts.items()}, out, complete)


def _fingerprint(raw: RawFile, view: View, backend: str) -> str:
    """Name what the demos are made from, and by what."""
    versions = [installed_version(package) for package in PACKAGES]
    return files.fingerprint(files.sha256_of(local_path(raw.path)), asdict(view), backend, versions)[:16]


def _render_demo(raw_path: str | Path, view: View, name: str) -> dict[str, bytes]:
    """Return an HDF5 file of one demo, by its name."""
    playback = worker_state(_make_playback, raw_path, view.cameras, view.image_size, view.image_size, view.next_obs)
    with hdf5.opened(raw_path) as source, hdf5_in_memory() as (file, image):
        demo = source["data"][name]
        trajectory, cameras = playback.trajectory(demo)
        data = file.create_group("data")
        data.attrs["env_args"] = playback.env_args
        group = data.create_group(name)
        for key in ("actions", "states", "rewards", "dones"):
            group[key] = trajectory[key]
        for parent in trajectory.keys() & {"obs", "next_obs"}:
            for key, values in trajectory[parent].items():
                group[f"{parent}/{key}"] = values
        for key in demo.keys() & {"actions_abs", "action_dict"}:
            demo.copy(key, group)
        if view.absolute_actions:
            _add_absolute_actions(group, playback, demo)
        group.attrs["model_file"] = tasks.portable_model(demo.attrs["model_file"])
        if "ep_meta" in demo.attrs:
            group.attrs["ep_meta"] = demo.attrs["ep_meta"]
        if cameras is not None:
            group.attrs["camera_info"] = json.dumps(cameras, indent=4)
        group.attrs["num_samples"] = len(trajectory["actions"])
        return {f"{name}.hdf5": image()}


def _add_absolute_actions(group: h5py.Group, playback: Playback, demo: h5py.Group) -> None:
    if "actions_abs" not in group:
        group["actions_abs"] = playback.absolute_actions(demo)
    absolute = group["actions_abs"][()]
    if absolute.shape[1] == 7:
        parts = group.require_group("action_dict")
        for name, values in action_dict(absolute, "abs_").items():
            if name not in parts:
                parts[name] = values


def _make_playback(raw_path: str | Path, cameras: tuple[str, ...], height: int, width: int, next_obs: bool = False) -> Playback:
    gl.limit_rendering_threads()
    from robomimic_frozen.data.playback import Playback

    return Playback(read_raw_file(raw_path), cameras, height, width, next_obs)


def check_images(raw: RawFile, path: str | Path, executor: Executor | None = None) -> int:
    """Render a sample of steps again, spread over demos and time, compare them with the dataset at a path or URL, and return their number.

    Raises:
        DatasetError: an image differs, the dataset is not of this raw file, or it has no images.
        RenderingError: no OpenGL backend works on this machine.
    """
    with hdf5.opened(path) as file:
        demos = hdf5.members(hdf5.group_in(file, "data"))
        foreign = sorted(set(demos) - raw.steps.keys())
        if foreign or not demos:
            raise DatasetError(f"{path} is not rendered from {raw.path}: {', '.join(foreign[:1]) or 'every demo'} is only in one of them")
        obs = hdf5.group_in(hdf5.group_in(file["data"], demos[0]), "obs")
        cameras = tuple(key.removesuffix(_IMAGE) for key in hdf5.members(obs) if key.endswith(_IMAGE))
        sizes = {hdf5.array_in(obs, f"{camera}{_IMAGE}").shape[1:] for camera in cameras}
    if [len(size) for size in sizes] != [3]:
        raise DatasetError(f"{path} has no images of one size to compare; render it with robomimic-frozen data")
    ((height, width, _),) = sizes
    raw.check_cameras(cameras)
    gl.select_gl_backend()  # for the workers, too, which inherit its choice
    raw.check_environment()
    sample = _spread([name for name in raw.steps if name in demos], _CHECKED_DEMOS)
    return sum(ordered_map(functools.partial(_check_demo, raw.path, path, cameras, height, width), sample, executor))


def _check_demo(raw_path: str | Path, path: str | Path, cameras: tuple[str, ...], height: int, width: int, name: str) -> int:
    """Compare steps of one demo, and return how many they were."""
    playback = worker_state(_make_playback, raw_path, cameras, height, width)
    from robomimic_frozen.data.playback import start_of

    with hdf5.opened(raw_path) as source, hdf5.opened(path) as file:
        states = source["data"][name]["states"][()]
        demo = hdf5.group_in(hdf5.group_in(file, "data"), name)
        if not np.array_equal(hdf5.array_in(demo, "states")[()], states):
            raise DatasetError(f"{path} is not rendered from {raw_path}: {name} has other states")
        images = {f"{camera}{_IMAGE}": hdf5.array_in(hdf5.group_in(demo, "obs"), f"{camera}{_IMAGE}") for camera in cameras}
        for key, stored in images.items():
            if stored.shape != (len(states), height, width, 3):
                raise MalformedError(str(path), f"{name}/obs/{key}", f"is {list(stored.shape)}, not an image of every step")
        playback.reset_to(start_of(source["data"][name]))
        steps = _spread(range(len(states)), _CHECKED_STEPS)
        for step in steps:
            rendered = playback.reset_to({"states": states[step]})
            for key, stored in images.items():
                _compare(f"{path}: {key} of step {step} of {name}", stored[step], rendered[key])
    return len(steps)


def _compare(what: str, stored: np.ndarray, rendered: np.ndarray) -> None:
    if not np.array_equal(stored, rendered):
        pixels = (stored != rendered).any(axis=-1)
        raise DatasetError(
            f"{what} is not what its state renders to here, in {pixels.sum()} of {pixels.size} pixels; if it was rendered with another "
            "graphics driver or robosuite they may differ by a little, otherwise render it again"
        )


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return up to `count` of the items, the first and the last included."""
    return [items[index] for index in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]
