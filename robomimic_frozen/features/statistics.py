"""Mean, spread and range of the numbers that a policy is trained on: low-dim observations and actions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import h5py
import numpy as np

from robomimic_frozen.config import Selection
from robomimic_frozen.errors import MalformedError
from robomimic_frozen.features.rules import num_samples, shape_fault
from robomimic_frozen.features.source import each_demo
from robomimic_frozen.utils import hdf5

_ROUNDING: Final = 1e-3
"""Of stored rotations; those that robomimic's extract_action_dict.py writes are float32."""


@dataclass(frozen=True)
class Statistics:
    """Of each dimension of a key, over all steps; float64, of the shape that one step has."""

    mean: np.ndarray
    std: np.ndarray
    low: np.ndarray
    high: np.ndarray


def statistics(datasets: Iterable[Selection], keys: Sequence[str]) -> dict[str, Statistics]:
    """Return the statistics of these arrays of a demo, such as 'obs/robot0_eef_pos' or 'actions', every step counted once.

    Raises:
        DatasetError: a demo lacks one, has it in another shape than the first demo, or with numbers that are not finite.
    """
    sums = {key: _Sum() for key in keys}
    for demo in _demos_of(datasets):
        for key in keys:
            sums[key].add(demo, key)
    return {key: each.statistics() for key, each in sums.items()}


def check_rotations(datasets: Iterable[Selection], key: str) -> None:
    """Raise DatasetError unless an array holds two rows of a rotation matrix for each step, as robomimic's 'rot_6d' does.

    The representation is that of Zhou et al. 2019 (https://arxiv.org/abs/1812.07035).
    """
    for demo in _demos_of(datasets):
        values = steps_of(demo, key)
        rows = values.reshape(-1, 2, 3) if values.shape[1:] == (6,) else np.zeros((1, 2, 3))
        if np.abs(rows @ rows.transpose(0, 2, 1) - np.eye(2)).max() > _ROUNDING:
            what = "has format rot_6d in train.action_config, and is not two rows of a rotation matrix"
            remedy = "write it with robomimic-frozen data --absolute-actions, or set its format to null"
            raise _malformed(demo, key, what, remedy)


def steps_of(demo: h5py.Group, key: str) -> np.ndarray:
    """Return one of a demo's arrays [T, ...] as float64, without what lies behind its last step. Raises DatasetError."""
    array = hdf5.array_in(demo, key)
    values = np.concatenate([np.empty((0, *array.shape[1:])), *hdf5.blocks(array)])
    return values[: num_samples(demo)]


def _demos_of(datasets: Iterable[Selection]) -> Iterator[h5py.Group]:
    return itertools.chain.from_iterable(map(each_demo, datasets))


def _malformed(demo: h5py.Group, key: str, what: str, remedy: str) -> MalformedError:
    return MalformedError(demo.file.filename, f"{key} of {str(demo.name).rpartition('/')[2]}", what, remedy)


class _Sum:
    """Adds up demo by demo (Chan et al. 1979, "Updating formulae and a pairwise algorithm for computing sample variances")."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = self.low = self.high = np.empty(0)

    def add(self, demo: h5py.Group, key: str) -> None:
        values = steps_of(demo, key)
        if not np.isfinite(values).all():
            remedy = "leave this demo out with a filter key; robomimic-frozen doctor finds all such demos"
            raise _malformed(demo, key, "holds NaN or infinite numbers", remedy)
        if not self.count:
            self.mean = self.squares = np.zeros(values.shape[1:])
            self.low, self.high = np.full(values.shape[1:], np.inf), np.full(values.shape[1:], -np.inf)
        elif (fault := shape_fault(values.shape[1:], self.mean.shape, "earlier demos")) is not None:
            raise _malformed(demo, key, fault.what, fault.remedy)
        if not len(values):
            return
        total = self.count + len(values)
        mean = values.mean(axis=0)
        step = mean - self.mean
        self.squares = self.squares + ((values - mean) ** 2).sum(axis=0) + step**2 * (self.count * len(values) / total)
        self.mean = self.mean + step * (len(values) / total)
        self.low, self.high = np.minimum(self.low, values.min(axis=0)), np.maximum(self.high, values.max(axis=0))
        self.count = total

    def statistics(self) -> Statistics:
        return Statistics(self.mean, np.sqrt(self.squares / max(1, self.count)), self.low, self.high)
