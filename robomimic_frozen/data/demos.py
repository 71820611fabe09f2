"""Sets of scripted demonstrations, written as robomimic's HDF5 files (https://robomimic.github.io/docs/datasets/overview.html)."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import h5py
import numpy as np
from tqdm import tqdm

from robomimic_frozen.data.episodes import Episode, make_episode
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.simulation.gl import select_gl_backend
from robomimic_frozen.simulation.tasks import get_task
from robomimic_frozen.utils.files import new_file, require_space
from robomimic_frozen.utils.machine import usable_cores
from robomimic_frozen.utils.parallel import Processes, ordered_map

logger = logging.getLogger(__name__)

VALID_SHARE: Final = 0.1
# Keeps the split's random numbers apart from those of the episodes, whose keys have two numbers.
_SPLIT_KEY: Final = (0,)


@dataclass(frozen=True)
class DemoSummary:
    """What a generated set holds: demonstrations that succeeded, and their environment steps; `attempts` counts failed episodes, too."""

    path: Path
    num_demos: int
    num_frames: int
    attempts: int
    frames_per_group: Mapping[str, int]
    attempts_per_operator: Mapping[str, int]


def generate_demos(
    path: Path,
    num_demos: int = 60,
    seed: int = 0,
    workers: int | None = None,
    camera_names: Sequence[str] | None = None,
    image_size: int | None = None,
    next_obs: bool = False,
    progress: bool = True,
    task: str = "lift",
) -> DemoSummary:
    """Write a set of successful demonstrations by operators of different proficiency.

    The file depends on all arguments but `path`, `workers` and `progress`, bit for bit (on one machine: OpenGL drivers
    differ in the last bits of an image). It appears under its name only when it is complete.

    Args:
        path: HDF5 file to write; its folder is made if need be.
        num_demos: number of demonstrations, at least 1, shared evenly by the task's operators.
        seed: non-negative; demonstration i of a seed is the same in a larger set.
        workers: number of processes, of 2 GB each; one per core that this process may use when None.
        camera_names: cameras of the scene whose images are recorded as `<camera>_image`; those of the task when None.
        image_size: height and width of the images in pixels; that of the task when None.
        next_obs: whether to write `next_obs` as well, which doubles the file.
        progress: whether to show a progress bar on stderr.
        task: name of a task that a plugin provides.

    Raises:
        ConfigError: a number is out of range, there is no such task, or its scene has no such camera.
        DatasetError: the file exists already or cannot be written, the disk is full, or an operator fails too often.
        RenderingError: no OpenGL backend works on this machine.
        RobomimicFrozenError: a worker process died.
    """
    path, shown = Path(path), get_task(task)
    workers = usable_cores() if workers is None else workers
    image_size = shown.image_size if image_size is None else image_size
    cameras = shown.cameras if camera_names is None else tuple(camera_names)
    for name, value, minimum in (("num_demos", num_demos, 1), ("workers", workers, 1), ("image_size", image_size, 1), ("seed", seed, 0)):
        if value < minimum:
            raise ConfigError(f"{name} must be at least {minimum}, not {value}")
    make = functools.partial(make_episode, shown, cameras, image_size, seed)
    attempts_of: Counter[str] = Counter()
    frames_in: Counter[str] = Counter()
    groups = tuple(dict.fromkeys(operator.group for operator in shown.operators))
    with new_file(path) as partial, DemoFile(partial, seed, next_obs, groups) as file:
        select_gl_backend()  # for the workers, which inherit its choice
        with contextlib.closing(ordered_map(make, range(num_demos), Processes(workers))) as episodes:
            for episode in tqdm(episodes, "demonstrations", num_demos, unit="demo", disable=not progress):
                file.append(episode)
                attempts_of[episode.operator.name] += episode.attempts
                frames_in[episode.operator.group] += len(episode.actions)
    logger.info("wrote %d demonstrations to %s", num_demos, path)
    return DemoSummary(path, num_demos, frames_in.total(), attempts_of.total(), dict(frames_in), dict(attempts_of))


class DemoFile:
    """A demonstration file being written; the filter keys follow when it is closed without an error.

    Nothing in it depends on the time or the machine, so that the same episodes give the same bytes.

    Args:
        path: file to write; overwritten.
        seed: decides which demonstrations are in `valid`.
        groups: of operators, each of which gets a filter key.
    """

    def __init__(self, path: Path, seed: int, next_obs: bool, groups: Sequence[str]) -> None:
        # A fixed range of format versions: "latest" would change with the HDF5 library.
        self._file = h5py.File(path, "w", libver=("earliest", "v110"))
        self._data = self._file.create_group("data")
        self._data.attrs["total"] = 0
        self._folder, self._seed, self._next_obs = path.parent, seed, next_obs
        self._groups, self._shown_by = groups, list[str]()

    def __enter__(self) -> DemoFile:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            if error_type is None:
                self._write_filter_keys()
        finally:
            self._file.close()

    def append(self, episode: Episode) -> None:
        """Write one episode as the next `demo_<n>`. Raises DatasetError if the disk is full."""
        require_space(self._folder, 2 * sum(values.nbytes for values in episode.obs.values()))
        demo = self._data.create_group(f"demo_{len(self._shown_by)}")
        demo.attrs["num_samples"] = len(episode.actions)
        demo.attrs["model_file"] = episode.model
        demo.attrs["operator"] = episode.operator.name
        dones = (episode.rewards > 0).astype(np.int64)
        dones[-1] = 1  # where the task is solved and at the end, as in robomimic's released sets (`done_mode` 2)
        for key, values in {"actions": episode.actions, "states": episode.states, "rewards": episode.rewards, "dones": dones}.items():
            demo[key] = values
        for parent, steps in {"obs": slice(None, -1), "next_obs": slice(1, None)}.items():
            if parent == "obs" or self._next_obs:
                demo.create_group(parent).update({key: values[steps] for key, values in episode.obs.items()})
        self._data.attrs["env_args"] = episode.env_args
        self._data.attrs["total"] += len(episode.actions)
        self._shown_by.append(episode.operator.group)

    def _write_filter_keys(self) -> None:
        shown_by = np.array(self._shown_by)
        in_valid = np.isin(np.arange(len(shown_by)), _valid_demos(len(shown_by), self._seed))
        keys = {"train": ~in_valid, "valid": in_valid, **{group: shown_by == group for group in self._groups}}
        for key, chosen in keys.items():
            self._file[f"mask/{key}"] = np.array([f"demo_{index}" for index in np.flatnonzero(chosen)], dtype="S")


def _valid_demos(num_demos: int, seed: int) -> np.ndarray:
    """Draw a tenth of the demonstrations, at least one of two or more."""
    num_valid = 0 if num_demos < 2 else max(1, round(VALID_SHARE * num_demos))
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=_SPLIT_KEY))
    return rng.permutation(num_demos)[:num_valid]
