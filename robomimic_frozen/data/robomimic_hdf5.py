"""robomimic's HDF5 format of demonstrations (https://robomimic.github.io/docs/datasets/overview.html)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import h5py
import numpy as np

from robomimic_frozen.data.episodes import Episode
from robomimic_frozen.data.operators import GROUPS
from robomimic_frozen.files import require_space

VALID_SHARE: Final = 0.1
# Keeps the split's random numbers apart from those of the episodes, whose keys have two numbers.
_SPLIT_KEY: Final = (0,)


class DemoFile:
    """A demonstration file being written; the filter keys follow when it is closed without an error.

    Nothing in it depends on the time or the machine, so that the same episodes give the same bytes.

    Args:
        path: file to write; overwritten.
        seed: decides which demonstrations are in `valid`.
        next_obs: whether to write `next_obs` beside `obs`.
    """

    def __init__(self, path: Path, seed: int, next_obs: bool) -> None:
        # A fixed range of format versions: "latest" would change with the HDF5 library.
        self._file = h5py.File(path, "w", libver=("earliest", "v110"))
        self._data = self._file.create_group("data")
        self._data.attrs["total"] = 0
        self._seed = seed
        self._next_obs = next_obs
        self._groups: list[str] = []

    def __enter__(self) -> DemoFile:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            if error_type is None:
                self._write_filter_keys()
        finally:
            self._file.close()

    def append(self, episode: Episode) -> None:
        """Write one episode as the next `demo_<n>`.

        Raises:
            DatasetError: the disk is full.
        """
        require_space(Path(self._file.filename).parent, 2 * sum(values.nbytes for values in episode.obs.values()))
        demo = self._data.create_group(f"demo_{len(self._groups)}")
        demo.attrs["num_samples"] = len(episode.actions)
        demo.attrs["model_file"] = episode.model
        demo.attrs["operator"] = episode.operator.name
        demo["actions"] = episode.actions
        demo["states"] = episode.states
        demo["rewards"] = episode.rewards
        demo["dones"] = _dones(episode.rewards)
        _write_observations(demo.create_group("obs"), episode.obs, slice(None, -1))
        if self._next_obs:
            _write_observations(demo.create_group("next_obs"), episode.obs, slice(1, None))
        self._data.attrs["env_args"] = episode.env_args
        self._data.attrs["total"] += len(episode.actions)
        self._groups.append(episode.operator.group)

    def _write_filter_keys(self) -> None:
        valid = _valid_demos(len(self._groups), self._seed)
        in_valid = [index in valid for index in range(len(self._groups))]
        keys = {"train": [not chosen for chosen in in_valid], "valid": in_valid}
        keys |= {name: [group == name for group in self._groups] for name in GROUPS}
        for key, chosen in keys.items():
            names = [f"demo_{index}" for index in np.flatnonzero(chosen)]
            self._file[f"mask/{key}"] = np.array(names, dtype="S")


def _write_observations(group: h5py.Group, obs: Mapping[str, np.ndarray], steps: slice) -> None:
    for key, values in obs.items():
        group[key] = values[steps]


def _dones(rewards: np.ndarray) -> np.ndarray:
    """1 where the task is solved and at the end, as in robomimic's released sets (`done_mode` 2): [T] int64."""
    dones = (rewards > 0).astype(np.int64)
    dones[-1] = 1
    return dones


def _valid_demos(num_demos: int, seed: int) -> set[int]:
    """A tenth of the demonstrations, at least one of two or more."""
    if num_demos < 2:
        return set()
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_SPLIT_KEY))
    return set(rng.permutation(num_demos)[: max(1, round(VALID_SHARE * num_demos))].tolist())
