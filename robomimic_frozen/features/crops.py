"""Positions of the random crops that are cached."""

from __future__ import annotations

import zlib

import numpy as np


def crop_positions(seed: int, demo: str, num_frames: int, crops: int, choices: tuple[int, int]) -> np.ndarray:
    """(top, left) of every cached random crop of a demo, [num_frames, crops, 2].

    Drawn from a counter-based generator (Philox; Salmon et al. 2011) that is keyed by seed and demo, so that neither
    the order of extraction nor the number of processes changes them.

    Args:
        choices: how many tops and how many lefts there are.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(demo.encode())]))
    return generator.integers(0, choices, size=(num_frames, crops, 2))
