"""robomimic's datasets: which demos one has, whether it is what a config needs, and its images, demo by demo."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from robomimic_frozen.config import Selection
from robomimic_frozen.errors import DatasetError, MalformedError
from robomimic_frozen.features import rules
from robomimic_frozen.features.rules import ChosenDemos, Needs
from robomimic_frozen.simulation.environments import RECORDING, is_recording
from robomimic_frozen.utils import hdf5


def demos_in(path: str | Path, filter_key: str | None = None) -> tuple[str, ...]:
    """Return the demos of a filter key, or all, in the order that robomimic's SequenceDataset has.

    Raises DatasetError, also for a filter key that names none, one twice, or one that is not there.
    """
    with hdf5.opened(path) as file:
        return _demos_of(file, Selection(str(path), filter_key))


def each_demo(selection: Selection) -> Generator[h5py.Group, None, None]:
    """Yield the groups of the selected demos, in that order, from one open file. Raises DatasetError."""
    with hdf5.opened(selection.path) as file:
        for name in _demos_of(file, selection):
            yield hdf5.group_in(file["data"], name)


def check_dataset(selection: Selection, needs: Needs) -> ChosenDemos:
    """Return what is known of the selected demos; others are not looked at.

    Raises DatasetError, which names the demo, unless they are of a robomimic dataset and have what training needs.
    """
    with hdf5.opened(selection.path) as file:
        return rules.check_demos(hdf5.group_in(file, "data"), _demos_of(file, selection), needs)


def _demos_of(file: h5py.File, selection: Selection) -> tuple[str, ...]:
    path, filter_key, limit = selection
    data = hdf5.find_group(file, "data")
    names = present = [] if data is None else hdf5.members(data)
    if data is None or not present or hdf5.attribute(data, "env_args") is None:
        if data is not None and is_recording(data):
            raise MalformedError(str(path), "data", *RECORDING)
        raise DatasetError(f"dataset {path} is not a robomimic dataset: it has no demos under 'data' with 'env_args'")
    if filter_key is not None:
        names = _named_by(path, file, filter_key)
        for fault in rules.filter_key_faults(names, present):
            raise fault.error(str(path), f"filter key {filter_key}")
    for name, fault in rules.name_faults(names):
        raise fault.error(str(path), f"data/{name}")
    return tuple(names[place] for place in rules.order_of(names))[:limit]


def _named_by(path: str | Path, file: h5py.File, filter_key: str) -> list[str]:
    mask = hdf5.find_group(file, "mask")
    known = [] if mask is None else hdf5.members(mask)
    if mask is None or filter_key not in known:
        raise DatasetError(f"dataset {path} has no filter key {filter_key!r}; it has: {', '.join(known) or 'none'}")
    return hdf5.strings(hdf5.array_in(mask, filter_key))


@dataclass(frozen=True)
class ImageSource:
    """The images of one obs key, in some demos of one file."""

    path: str | Path  # the HDF5 dataset, which may be at a URL
    demos: tuple[str, ...]  # their names, in the order in which the features are stored
    key: str  # 'obs/<obs key>' or 'next_obs/<obs key>'

    def read(self, demo: str, most: int | None = None) -> np.ndarray:
        """Return the images [T, H, W, 3] uint8 of one demo, or the first so many of them.

        Raises:
            DatasetError: the file cannot be read, lacks the key, has fewer images than the demo has steps, or holds something else than
                uint8 RGB images.
        """
        with hdf5.opened(self.path) as file:
            array, steps = self._array(file, demo)
            try:
                return array[: steps if most is None else min(most, steps)]
            except OSError as error:
                raise DatasetError(f"{self.path}: cannot read {self.place_of(demo)} ({error}); the file is damaged") from error

    def lengths(self) -> list[int]:
        """Return the number of images of each demo: one for each step, where there may be more in the file. Raises as `read`."""
        with hdf5.opened(self.path) as file:
            return [self._array(file, demo)[1] for demo in self.demos]

    def image_shape(self) -> tuple[int, int, int]:
        """Return (3, H, W). Raises as `read`."""
        with hdf5.opened(self.path) as file:
            height, width, channels = self._array(file, self.demos[0])[0].shape[1:]
        return channels, height, width

    def place_of(self, demo: str) -> str:
        """Return where the images of a demo are in the file, for which its crop positions are drawn."""
        return f"{demo}/{self.key}"

    def _array(self, file: h5py.File, demo: str) -> tuple[h5py.Dataset, int]:
        needs = Needs(observations=(self.key,), images=frozenset([self.key]), actions=())
        steps = rules.check_demos(hdf5.group_in(file, "data"), [demo], needs).steps[demo]
        return file[f"data/{self.place_of(demo)}"], steps


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
