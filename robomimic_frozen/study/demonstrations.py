"""The demonstrations of a study: a robomimic dataset with a filter key for each number of them, which copies nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from robomimic_frozen.errors import DatasetError
from robomimic_frozen.files import complete_or_absent

_SHUFFLE_SEED = 0


def filter_key(num_demos: int) -> str:
    """Of the dataset that `link_demonstrations` writes."""
    return f"{num_demos}_demos"


def link_demonstrations(dataset: Path, numbers: Sequence[int], path: Path) -> None:
    """Write a dataset to `path` whose demos are links into `dataset`, with filter keys for these numbers of them.

    The demos are drawn from the filter key `train`, where there is one, and the smaller sets are part of the larger ones.

    Raises:
        DatasetError: there are too few.
    """
    with h5py.File(dataset, "r") as source:
        names = _training_demos(source)
        if max(numbers) > len(names):
            raise DatasetError(f"dataset {dataset} has {len(names)} demonstrations for training; the study asks for {max(numbers)}")
        shuffled = np.random.default_rng(_SHUFFLE_SEED).permutation(names)
        with complete_or_absent(path) as beside, h5py.File(beside, "w") as file:
            data = file.create_group("data")
            data.attrs.update(source["data"].attrs)
            for name in source["data"]:
                data[name] = h5py.ExternalLink(str(dataset.absolute()), f"/data/{name}")
            for number in numbers:
                file[f"mask/{filter_key(number)}"] = np.array(sorted(shuffled[:number]), dtype="S")


def _training_demos(source: h5py.File) -> list[str]:
    masked = source.get("mask/train")
    names = list(source["data"]) if masked is None else [name.decode() for name in masked]
    # As robomimic sorts them; h5py's order is that of the letters.
    return sorted(names, key=lambda name: int(name.rpartition("_")[2]))
