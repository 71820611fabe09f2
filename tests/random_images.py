"""Datasets of random images, where what they show is no matter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from robomimic_frozen.features.source import ImageSource

KEY = "obs/agentview_image"


def write_random_images(path: Path, lengths: Sequence[int], size: int) -> ImageSource:
    """Demos of so many square images."""
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for demo, length in enumerate(lengths):
            file.create_group(f"data/demo_{demo}").attrs["num_samples"] = length
            file[f"data/demo_{demo}/{KEY}"] = generator.integers(0, 256, (length, size, size, 3), dtype=np.uint8)
    return ImageSource(path, tuple(f"demo_{demo}" for demo in range(len(lengths))), KEY)
