"""Whether the images of a dataset are those that its raw file renders to."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from robomimic_frozen import compat, hdf5
from robomimic_frozen.data.raw_file import RawFile
from robomimic_frozen.errors import DatasetError, MalformedError
from robomimic_frozen.executors.executor import Executor, ordered_map

_DEMOS: Final = 8
_STEPS: Final = 6
_IMAGE: Final = "_image"


def check_images(raw: RawFile, path: Path, executor: Executor) -> int:
    """Render a sample of steps again, spread over demos and time, and compare them with the dataset at `path`.

    Returns:
        How many steps were compared, with all images of each.

    Raises:
        DatasetError: an image differs, the dataset is not of this raw file, or it has no images.
        RenderingError: no OpenGL backend works on this machine.
    """
    with hdf5.opened(path) as file:
        demos = hdf5.members(hdf5.group_in(file, "data"))
        foreign = sorted(set(demos) - raw.steps.keys())
        if foreign or not demos:
            raise DatasetError(f"{path} is not rendered from {raw.path}: {', '.join(foreign[:1]) or 'every demo'} is only in one of them")
        shapes = _image_shapes(path, hdf5.group_in(hdf5.group_in(file["data"], demos[0]), "obs"))
    raw.check_cameras(tuple(shapes))
    sample = _spread([name for name in raw.steps if name in demos], _DEMOS)
    compat.select_gl_backend()  # for the workers, too, which inherit its choice
    with contextlib.closing(ordered_map(functools.partial(_make_checker, raw, path, shapes, sample), len(sample), executor)) as compared:
        return sum(compared)


def _image_shapes(path: Path, obs: h5py.Group) -> dict[str, tuple[int, int]]:
    """Camera -> (height, width) of its images."""
    arrays = {key.removesuffix(_IMAGE): hdf5.array_in(obs, key) for key in hdf5.members(obs) if key.endswith(_IMAGE)}
    shapes = {camera: array.shape[1:3] for camera, array in arrays.items() if array.ndim == 4}
    if len(set(shapes.values())) != 1 or len(shapes) != len(arrays):
        raise DatasetError(f"{path} has no images of one size to compare; render it with robomimic-frozen data")
    return shapes


def _make_checker(raw: RawFile, path: Path, shapes: Mapping[str, tuple[int, int]], demos: list[str]) -> Callable[[int], int]:
    """In a worker: compares steps of the demo of a number; how many they were."""
    os.environ.setdefault("LP_NUM_THREADS", "1")
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.data.playback import Playback, start_of

    height, width = next(iter(shapes.values()))
    playback = Playback(raw, list(shapes), height, width)

    def check(index: int) -> int:
        name = demos[index]
        with hdf5.opened(raw.path) as source, hdf5.opened(path) as file:
            states = source["data"][name]["states"][()]
            demo = hdf5.group_in(hdf5.group_in(file, "data"), name)
            if not np.array_equal(hdf5.array_in(demo, "states")[()], states):
                raise DatasetError(f"{path} is not rendered from {raw.path}: {name} has other states")
            images = {key: hdf5.array_in(hdf5.group_in(demo, "obs"), key) for key in (f"{camera}{_IMAGE}" for camera in shapes)}
            for key, stored in images.items():
                if stored.shape != (len(states), height, width, 3):
                    raise MalformedError(str(path), f"{name}/obs/{key}", f"is {list(stored.shape)}, not an image of every step")
            playback.reset_to(start_of(source["data"][name]))
            steps = _spread(range(len(states)), _STEPS)
            for step in steps:
                rendered = playback.reset_to({"states": states[step]})
                for key, stored in images.items():
                    _compare(f"{path}: {key} of step {step} of {name}", stored[step], rendered[key])
        return len(steps)

    return check


def _compare(what: str, stored: np.ndarray, rendered: np.ndarray) -> None:
    if not np.array_equal(stored, rendered):
        pixels = (stored != rendered).any(axis=-1)
        raise DatasetError(
            f"{what} is not what its state renders to here, in {pixels.sum()} of {pixels.size} pixels; if it was rendered with another "
            "graphics driver or robosuite they may differ by a little, otherwise render it again"
        )


def _spread(items: Iterable, count: int) -> list:
    """Up to `count` of them, the first and the last included."""
    items = list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]
