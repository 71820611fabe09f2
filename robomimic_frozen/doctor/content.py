"""The numbers of an array, summed up in one pass over it."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import h5py
import numpy as np

from robomimic_frozen import hdf5


@dataclass(frozen=True)
class Content:
    """What an array holds of every step.

    Attributes:
        dtype: its name.
        shape: (T, ...).
        low, high: the smallest and the largest finite number; infinities where there is none.
        not_finite: how many numbers are NaN or infinite.
        black: how many steps hold nothing but zeros.
        plain: how many steps hold the same number throughout.
        still: whether all steps are the same.
        sha256: of shape and numbers.
    """

    dtype: str
    shape: tuple[int, ...]
    low: float
    high: float
    not_finite: int
    black: int
    plain: int
    still: bool
    sha256: str

    @property
    def layout(self) -> str:
        """Type and shape of one step."""
        return f"{self.dtype} {list(self.shape[1:])}"


def summarize(array: h5py.Dataset) -> Content:
    """Of an array of real numbers with at least one dimension, read in blocks. Raises MalformedError if it cannot be read."""
    low, high, not_finite, black, plain, still = math.inf, -math.inf, 0, 0, 0, True
    first: np.ndarray | None = None
    digest = hashlib.sha256(str(array.shape).encode())
    for block in hdf5.blocks(array):
        digest.update(np.ascontiguousarray(block).data)
        rows = block.reshape(len(block), -1)
        if not rows.size:
            continue
        first = rows[0].copy() if first is None else first
        still = still and bool((rows == first).all())
        lows, highs = rows.min(axis=1), rows.max(axis=1)
        numbers = np.stack([lows, highs])
        if rows.dtype.kind == "f":
            numbers = rows[np.isfinite(rows)]
            not_finite += rows.size - numbers.size
        if numbers.size:
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
        black += int(((lows == 0) & (highs == 0)).sum())
        plain += int((lows == highs).sum())
    return Content(str(array.dtype), array.shape, low, high, not_finite, black, plain, still, digest.hexdigest())
