"""Positions of the random crops that are cached."""

from __future__ import annotations

import zlib

import numpy as np


def crop_positions(seed: int, frames: str, num_frames: int, crops: int, choices: tuple[int, int]) -> np.ndarray:
    """(top, left) of every cached random crop of one camera's frames in a demo, [num_frames, crops, 2].

    Drawn from a counter-based generator (Philox; Salmon et al. 2011) that is keyed by seed and `frames`, so that neither
    the order of extraction nor the number of processes changes them.

    Args:
        frames: names demo and obs key.
        choices: how many tops and how many lefts there are.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(frames.encode())]))
    return generator.integers(0, choices, size=(num_frames, crops, 2))
