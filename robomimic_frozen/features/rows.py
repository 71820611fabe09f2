"""Rows of arrays that may be larger than memory."""

from __future__ import annotations

import mmap
from typing import Final

import numpy as np

_FITS_IN_MEMORY: Final = 2**30
"""Of so many bytes of a file the system has most in memory; what is larger may have to be read from the disk."""


def take_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows [...] of an array [N, F] as [..., F]; those of a large mapped file are read side by side."""
    if isinstance(array, np.memmap) and array.nbytes > _FITS_IN_MEMORY:
        _read_ahead(array, rows)
    return np.take(array, rows, axis=0)


def _read_ahead(array: np.memmap, rows: np.ndarray) -> None:
    """Tell the system which rows are about to be read. Otherwise it reads one after the other, each when it is missed."""
    mapped: mmap.mmap = array._mmap  # type: ignore[attr-defined]  # of numpy's; views of an array have it, too
    start = array.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    size = array.strides[0]
    for row in rows.flat:
        first = start + int(row) * size
        page = first - first % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, first + size - page)
