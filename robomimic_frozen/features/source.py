"""robomimic's datasets: which demos one has, whether it is what a config needs, and its images, demo by demo."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from robomimic_frozen.errors import DatasetError, did_you_mean
from robomimic_frozen.utils import hdf5


def demos_in(path: str | Path, filter_key: str | None = None) -> tuple[str, ...]:
    """Return the demos of a filter key, or all, by their numbers: those and the order that robomimic's SequenceDataset has."""
    with hdf5.opened(path) as file:
        names = hdf5.members(hdf5.group_in(file, "data")) if filter_key is None else _demos_of(path, file, filter_key)
    return tuple(sorted(names, key=lambda name: int(name.rpartition("_")[2])))


def _demos_of(path: str | Path, file: h5py.File, filter_key: str) -> list[str]:
    mask = hdf5.find_group(file, "mask")
    known = [] if mask is None else hdf5.members(mask)
    if mask is None or filter_key not in known:
        raise DatasetError(f"dataset {path} has no filter key {filter_key!r}; it has: {', '.join(known) or 'none'}")
    return hdf5.strings(hdf5.array_in(mask, filter_key))


def check_dataset(path: str | Path, obs_keys: Iterable[str], filter_keys: Iterable[str]) -> None:
    """Raise DatasetError unless `path` is a robomimic dataset with these observations and filter keys."""
    obs_keys = list(obs_keys)
    with hdf5.opened(path) as file:
        data = hdf5.find_group(file, "data")
        demos = [] if data is None else hdf5.members(data)
        if data is None or not demos or hdf5.attribute(data, "env_args") is None:
            raise DatasetError(f"dataset {path} is not a robomimic dataset: it has no demos under 'data' with 'env_args'")
        for demo in demos:
            _check_demo(path, hdf5.group_in(data, demo), demo, obs_keys)
        for filter_key in filter_keys:
            _demos_of(path, file, filter_key)


def _check_demo(path: str | Path, demo: h5py.Group, name: str, obs_keys: list[str]) -> None:
    obs = hdf5.find_group(demo, "obs")
    present = [] if obs is None else hdf5.members(obs)
    for key in obs_keys:
        if obs is None or key not in present:
            hint = did_you_mean(key, present, f"it has: {', '.join(present) or 'none'}")
            raise DatasetError(
                f"dataset {path} has no obs key {key!r} in {name}; {hint} "
                "(set observation.modalities.obs, or render the images with robomimic-frozen data)"
            )
        hdf5.array_in(obs, key)


@dataclass(frozen=True)
class ImageSource:
    """The images of one obs key, in some demos of one file."""

    path: str | Path  # the HDF5 dataset, which may be at a URL
    demos: tuple[str, ...]  # their names, in the order in which the features are stored
    key: str  # 'obs/<obs key>' or 'next_obs/<obs key>'

    def read(self, demo: str, most: int | None = None) -> np.ndarray:
        """Return the images [T, H, W, 3] uint8 of one demo, or the first so many of them.

        Raises:
            DatasetError: the file cannot be read, lacks the key, or holds something else than uint8 RGB images.
        """
        with hdf5.opened(self.path) as file:
            try:
                return self._array(file, demo)[:most]
            except OSError as error:
                raise DatasetError(f"{self.path}: cannot read {self.place_of(demo)} ({error}); the file is damaged") from error

    def lengths(self) -> list[int]:
        """Return the number of frames of each demo. Raises as `read`."""
        with hdf5.opened(self.path) as file:
            return [len(self._array(file, demo)) for demo in self.demos]

    def image_shape(self) -> tuple[int, int, int]:
        """Return (3, H, W). Raises as `read`."""
        with hdf5.opened(self.path) as file:
            height, width, channels = self._array(file, self.demos[0]).shape[1:]
        return channels, height, width

    def place_of(self, demo: str) -> str:
        """Return where the images of a demo are in the file, for which its crop positions are drawn."""
        return f"{demo}/{self.key}"

    def _array(self, file: h5py.File, demo: str) -> h5py.Dataset:
        array = file.get(f"data/{self.place_of(demo)}")
        if not isinstance(array, h5py.Dataset):
            raise DatasetError(f"{self.path} has no {self.key!r} in {demo}; set observation.modalities to what it has")
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
            raise DatasetError(f"{self.path}: {self.place_of(demo)} is {array.dtype} {array.shape}; images are uint8 (T, H, W, 3)")
        return array


def image_digest(images: np.ndarray) -> str:
    """Return the sha256 of shape and pixels."""
    result = hashlib.sha256(str(images.shape).encode())
    result.update(np.ascontiguousarray(images).data)
    return result.hexdigest()


def crop_positions(seed: int, frames: str, num_frames: int, crops: int, choices: tuple[int, int]) -> np.ndarray:
    """Return (top, left) of every cached random crop of one camera's frames in a demo, [num_frames, crops, 2].

    A counter-based generator (Philox; Salmon et al. 2011) draws them, keyed by seed and `frames`, which names demo and obs key, so that
    neither the order of extraction nor the number of processes changes them. `choices` are how many tops and how many lefts there are.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(frames.encode())]))
    return generator.integers(0, choices, size=(num_frames, crops, 2))
