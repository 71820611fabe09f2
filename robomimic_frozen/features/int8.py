"""Features as int8, half as large as float16: a demo's bytes are the scales of its entries, then its vectors in units of these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from robomimic_frozen.features.rows import take_rows

SCALE_ROWS: Final = 4
"""So many rows of F bytes, before the vectors of a demo, are its scales: float32 [F]."""

_LARGEST: Final = 127


def to_int8(features: np.ndarray) -> tuple[bytes, float]:
    """Return the bytes of a demo's features [T, V, F], and their error: root mean square, as a share of that of the features.

    The scale of an entry is that of its largest value in the demo.
    """
    vectors = features.reshape(-1, features.shape[-1]).astype(np.float32)
    scales = np.abs(vectors).max(axis=0) / _LARGEST
    scales[scales == 0] = 1
    numbers = np.rint(vectors / scales).astype(np.int8)
    error = np.sqrt(np.square(numbers * scales - vectors).mean() / max(np.square(vectors).mean(), np.finfo(np.float32).tiny))
    return scales.tobytes() + numbers.tobytes(), float(error)


class Int8Features:
    """Features [frames of all demos, V, F], which are read as float32.

    Args:
        rows: what is stored, int8 [rows, F]: of each demo its scales, then its vectors.
        frames: how many each demo has.
        variants: V, how many vectors there are of a frame.
    """

    def __init__(self, rows: np.ndarray, frames: Sequence[int], variants: int) -> None:
        self.rows, self.frames = rows, frames
        self.shape = (sum(frames), variants, rows.shape[1])
        self.nbytes = rows.nbytes
        self._ends = np.cumsum(frames)
        self._starts = (self._ends - frames) * variants + SCALE_ROWS * np.arange(len(frames))  # rows of scales

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice) -> np.ndarray:
        chosen = np.arange(len(self))[frames]
        return self.take(chosen[:, None], np.arange(self.shape[1]))

    def take(self, frames: np.ndarray, variants: np.ndarray) -> np.ndarray:
        """Return the vectors of frames and variants of these numbers, two arrays that broadcast to a shape [...]: float32 [..., F]."""
        demos = np.searchsorted(self._ends, frames, side="right")
        within = frames - (self._ends - self.frames)[demos]
        vectors = take_rows(self.rows, self._starts[demos] + SCALE_ROWS + within * self.shape[1] + variants)
        scales = np.take(self.rows, self._starts[demos][..., None] + np.arange(SCALE_ROWS), axis=0)
        return vectors * scales.reshape(*demos.shape, -1).view(np.float32)
