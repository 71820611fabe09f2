"""Sets of scripted Lift demonstrations as robomimic HDF5 files: the command `robomimic-frozen demos`."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tqdm

from robomimic_frozen.data.episodes import EpisodeMaker
from robomimic_frozen.data.robomimic_hdf5 import DemoFile
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.executors.executor import ordered_map
from robomimic_frozen.executors.processes import Processes, usable_cores
from robomimic_frozen.files import new_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DemoSummary:
    """What a generated set holds.

    Attributes:
        path: the HDF5 file.
        num_demos: number of demonstrations, all successful.
        num_frames: environment steps of all of them.
        attempts: episodes simulated for them, failed ones included.
        frames_per_group: steps of the operators of each proficiency: better, okay, worse.
        attempts_per_operator: episodes simulated for each operator.
        demos_per_operator: demonstrations of each operator.
    """

    path: Path
    num_demos: int
    num_frames: int
    attempts: int
    frames_per_group: Mapping[str, int]
    attempts_per_operator: Mapping[str, int]
    demos_per_operator: Mapping[str, int]


def generate_demos(
    path: Path,
    num_demos: int = 60,
    seed: int = 0,
    workers: int | None = None,
    camera_names: Sequence[str] = ("agentview", "robot0_eye_in_hand"),
    image_size: int = 84,
    next_obs: bool = False,
    progress: bool = True,
) -> DemoSummary:
    """Write a set of successful Lift demonstrations by operators of different proficiency.

    The file depends on all arguments but `path`, `workers` and `progress`, bit for bit (on one machine: OpenGL drivers
    differ in the last bits of an image). It appears under its name only when it is complete.

    Args:
        path: HDF5 file to write; its folder is made if need be.
        num_demos: number of demonstrations, at least 1, shared evenly by the groups better, okay and worse.
        seed: non-negative; demonstration i of a seed is the same in a larger set.
        workers: number of processes, of 2 GB each; one per core that this process may use when None.
        camera_names: cameras of the scene whose images are recorded as `<camera>_image`.
        image_size: height and width of the images in pixels.
        next_obs: whether to write `next_obs` as well, which doubles the file.
        progress: whether to show a progress bar on stderr.

    Raises:
        ConfigError: a number is out of range, or the scene has no such camera.
        DatasetError: the file exists already or cannot be written, the disk is full, or an operator fails too often.
        RenderingError: no OpenGL backend works on this machine.
        RobomimicFrozenError: a worker process died.
    """
    path = Path(path)
    workers = usable_cores() if workers is None else workers
    _check_numbers(num_demos=(num_demos, 1), workers=(workers, 1), image_size=(image_size, 1), seed=(seed, 0))
    build = functools.partial(EpisodeMaker, tuple(camera_names), image_size, seed)
    demos_of: Counter[str] = Counter()
    attempts_of: Counter[str] = Counter()
    frames_in: Counter[str] = Counter()
    with new_file(path) as partial, DemoFile(partial, seed, next_obs) as file:
        episodes = ordered_map(build, num_demos, Processes(workers))
        with contextlib.closing(episodes):
            for episode in tqdm.tqdm(episodes, "demonstrations", num_demos, unit="demo", disable=not progress):
                file.append(episode)
                demos_of[episode.operator.name] += 1
                attempts_of[episode.operator.name] += episode.attempts
                frames_in[episode.operator.group] += len(episode.actions)
    logger.info("wrote %d demonstrations to %s", num_demos, path)
    return DemoSummary(
        path=path,
        num_demos=num_demos,
        num_frames=sum(frames_in.values()),
        attempts=sum(attempts_of.values()),
        frames_per_group=dict(frames_in),
        attempts_per_operator=dict(attempts_of),
        demos_per_operator=dict(demos_of),
    )


def _check_numbers(**values_and_minima: tuple[int, int]) -> None:
    for name, (value, minimum) in values_and_minima.items():
        if value < minimum:
            raise ConfigError(f"{name} must be at least {minimum}, not {value}")
