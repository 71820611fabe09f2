"""The images of a dataset, demo by demo."""

from __future__ import annotations

import concurrent.futures
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from robomimic_frozen import hdf5
from robomimic_frozen.errors import DatasetError


@dataclass(frozen=True)
class ImageSource:
    """One obs key of some demos of one file.

    Attributes:
        path: the HDF5 dataset.
        demos: names of the demos, in the order in which the features are stored.
        key: 'obs/<obs key>' or 'next_obs/<obs key>'.
    """

    path: Path
    demos: tuple[str, ...]
    key: str

    def images(self) -> Iterator[np.ndarray]:
        """Images [T, H, W, 3] uint8 of each demo; the next demo is read ahead meanwhile.

        Raises:
            DatasetError: the file cannot be read, lacks the key, or holds something else than uint8 RGB images.
        """
        with hdf5.opened(self.path) as file, concurrent.futures.ThreadPoolExecutor(1) as reader:
            ahead = None
            for demo in self.demos:
                following = reader.submit(self._read, file, demo)
                if ahead is not None:
                    yield ahead.result()
                ahead = following
            if ahead is not None:
                yield ahead.result()

    def read(self, demo: str) -> np.ndarray:
        """The images of one demo. Raises as `images`."""
        with hdf5.opened(self.path) as file:
            return self._read(file, demo)

    def lengths(self) -> list[int]:
        """Number of frames of each demo."""
        with hdf5.opened(self.path) as file:
            return [len(self._dataset(file, demo)) for demo in self.demos]

    def digests(self) -> list[str]:
        """sha256 of the images of each demo."""
        return [image_digest(images) for images in self.images()]

    def frames_of(self, demo: str) -> str:
        """Where the images of a demo are in the file: what its crop positions are drawn for."""
        return f"{demo}/{self.key}"

    def image_shape(self) -> tuple[int, int, int]:
        """(3, H, W)"""
        with hdf5.opened(self.path) as file:
            height, width, channels = self._dataset(file, self.demos[0]).shape[1:]
        return channels, height, width

    def _read(self, file: h5py.File, demo: str) -> np.ndarray:
        try:
            return self._dataset(file, demo)[()]
        except OSError as error:
            raise DatasetError(f"{self.path}: cannot read {demo}/{self.key} ({error}); the file is damaged") from error

    def _dataset(self, file: h5py.File, demo: str) -> h5py.Dataset:
        dataset = file.get(f"data/{self.frames_of(demo)}")
        if not isinstance(dataset, h5py.Dataset):
            raise DatasetError(f"{self.path} has no {self.key!r} in {demo}; set observation.modalities to what it has")
        if dataset.dtype != np.uint8 or dataset.ndim != 4 or dataset.shape[-1] != 3:
            raise DatasetError(
                f"{self.path}: {demo}/{self.key} is {dataset.dtype} {dataset.shape}; images are uint8 (T, H, W, 3)"
            )
        return dataset


def image_digest(images: np.ndarray) -> str:
    """sha256 of shape and pixels."""
    result = hashlib.sha256(str(images.shape).encode())
    result.update(np.ascontiguousarray(images).data)
    return result.hexdigest()
