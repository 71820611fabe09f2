"""Checkpoints x seeds, in parallel processes; what is finished is kept in a folder, not done again, and summed up in a table."""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from scipy.stats import binomtest
from tqdm import tqdm

from robomimic_frozen.errors import RobomimicFrozenError
from robomimic_frozen.integration.registration import register
from robomimic_frozen.integration.rollouts import with_overrides
from robomimic_frozen.policies.checkpoints import checkpoints_in, environments_in, loadable, local_checkpoint, read_checkpoint
from robomimic_frozen.simulation.gl import limit_rendering_threads, select_gl_backend
from robomimic_frozen.utils.files import atomic_write, exclusive_lock, fingerprint, sha256_of, write_json
from robomimic_frozen.utils.parallel import Executor, retrying_map, worker_state

if TYPE_CHECKING:
    from robomimic_frozen.evaluation.episodes import Rollouts

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Task:
    """One episode to roll out; its result and its video go to `folder`."""

    checkpoint: str | Path
    seed: int
    horizon: int
    folder: Path
    with_video: bool
    overrides: tuple[str, ...] = ()  # 'KEY.PATH=VALUE', of the checkpoint's config

    @property
    def result(self) -> Path:
        """Return the file of the result, which exists when the episode is finished."""
        return self.folder / "episodes" / f"seed_{self.seed}.json"


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the episodes of one checkpoint come to. An episode that ended in an error is neither a success nor a failure.

    Attributes:
        episodes: how many ended, in success or failure.
        first_error: that of the first episode that ended in one.
        overrides: 'KEY.PATH=VALUE', which the config of the checkpoint was changed by.
        interval: of the success rate, with 95 % confidence; None without episodes, as is all that is averaged over them.
    """

    checkpoint: str
    episodes: int
    successes: int
    errors: int
    success_rate: float | None
    interval: tuple[float, float] | None
    mean_steps: float | None
    mean_return: float | None
    steps_per_second: float | None
    first_error: str | None = None
    overrides: tuple[str, ...] = ()


class EpisodesFailedError(RobomimicFrozenError):
    """Every episode of a checkpoint ended in an error, so that there is no result."""


def evaluate(
    checkpoints: Sequence[str | Path], num_episodes: int, horizon: int | None, executor: Executor, seed: int, out: Path, num_videos: int,
    progress: bool = True, overrides: Sequence[str] = (),
) -> list[Summary]:
    """Roll out every checkpoint from the same seeds; one folder for each in `out`, and `out/results.json` for all.

    Args:
        checkpoints: files, also by URL, or folders of runs for all checkpoints in them.
        num_episodes: of each; their seeds are `seed`, `seed` + 1, ...
        horizon: steps of an episode; None for what each checkpoint's config says.
        executor: of the rollouts; its workers read the checkpoints.
        num_videos: how many of each checkpoint's episodes to record.
        overrides: 'KEY.PATH=VALUE', applied to the config of each.

    Raises:
        ConfigError: a checkpoint cannot be read or rolled out here; another evaluation is writing to `out`.
    """
    files, settings = [file for place in checkpoints for file in checkpoints_in(place, "CKPT")], tuple(overrides)
    tasks = {file: _tasks(file, num_episodes, horizon, seed, out, num_videos, settings) for file in files}
    with exclusive_lock(out, "evaluation"):
        try:
            _roll_out([task for each in tasks.values() for task in each if not _rolled_out(task)], executor, progress)
        finally:
            summaries = [summarize(str(file), _finished(each), settings) for file, each in tasks.items()]
            write_json(out / "results.json", [dataclasses.asdict(summary) for summary in summaries])
    return summaries


def finished_episodes(checkpoint: Path, num_episodes: int, horizon: int | None, seed: int, out: Path) -> list[dict[str, Any]]:
    """Return what `evaluate` has written to `out` of the episodes it would roll out with these arguments."""
    return _finished(_tasks(checkpoint, num_episodes, horizon, seed, out, 0))


def recorded_episode(checkpoint: Path, horizon: int | None, seed: int, out: Path) -> Path:
    """Return the video that `evaluate` has made of the episode of this seed."""
    (task,) = _tasks(checkpoint, 1, horizon, seed, out, 1)
    (video,) = task.folder.glob(f"videos/*/seed_{seed}.mp4")
    return video


def summarize(checkpoint: str, episodes: Sequence[Mapping[str, Any]], overrides: tuple[str, ...] = ()) -> Summary:
    """Return the summary of episodes as their files hold them."""
    ended = [episode for episode in episodes if episode["error"] is None]
    errors = [episode["error"] for episode in episodes if episode["error"] is not None]
    first_error = next(iter(errors), None)
    if not ended:
        return Summary(checkpoint, 0, 0, len(errors), None, None, None, None, None, first_error, overrides)
    successes, steps = sum(episode["success"] for episode in ended), [episode["steps"] for episode in ended]
    return Summary(
        checkpoint, len(ended), successes, len(errors),
        success_rate=successes / len(ended),
        interval=wilson_interval(successes, len(ended)),
        mean_steps=statistics.mean(steps),
        mean_return=statistics.mean(episode["total_reward"] for episode in ended),
        steps_per_second=sum(steps) / sum(episode["seconds"] for episode in ended),
        first_error=first_error,
        overrides=overrides,
    )


def require_results(summaries: Sequence[Summary], out: Path) -> None:
    """Raise EpisodesFailedError, with the reason, for the first checkpoint of which every episode in `out` ended in an error."""
    for summary in summaries:
        if summary.errors and not summary.episodes:
            what = f"every episode ended in an error, the first in {summary.first_error}"
            raise EpisodesFailedError(f"{summary.checkpoint}: {what}; mend that and try again, with the same folder {out}")


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a success rate (Wilson 1927)."""
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def as_table(summaries: Sequence[Summary]) -> str:
    """Return a table in Markdown, a row for each checkpoint."""
    lines = ["| checkpoint | success | 95 % | episodes | errors | steps | return | steps/s |", "|---|---|---|---|---|---|---|---|"]
    for summary in summaries:
        name = " ".join((summary.checkpoint, *summary.overrides))
        if summary.interval is None:
            lines.append(f"| {name} | - | - | 0 | {summary.errors} | - | - | - |")
            continue
        low, high = summary.interval
        lines.append(
            f"| {name} | {summary.success_rate:.2f} | {low:.2f}-{high:.2f} | {summary.episodes} | {summary.errors} | "
            f"{summary.mean_steps:.1f} | {summary.mean_return:.2f} | {summary.steps_per_second:.1f} |"
        )
    return "\n".join(lines)


def _tasks(
    file: str | Path, num_episodes: int, horizon: int | None, seed: int, out: Path, num_videos: int, overrides: tuple[str, ...] = ()
) -> list[Task]:
    copy = local_checkpoint(file)
    # Also where its horizon is not asked for: robomimic 0.5 would execute what a malicious file says.
    checkpoint = read_checkpoint(copy, "CKPT")
    changed = with_overrides(loadable(checkpoint, f"checkpoint {file}"), overrides)
    first = changed["env_metadata"]
    if others := len(environments_in(checkpoint)) - 1:
        where = f"it is rolled out in the environment of the first, {first['env_name']}"
        logger.warning("%s was trained on %d datasets; %s", file, others + 1, where)
    steps = horizon or json.loads(changed["config"])["experiment"]["rollout"]["horizon"]
    settings = f"-{fingerprint(*overrides)[:12]}" if overrides else ""
    folder = out / f"{copy.stem}-{sha256_of(copy)[:12]}{settings}" / f"horizon_{steps}"
    return [Task(file, seed + number, steps, folder, number < num_videos, overrides) for number in range(num_episodes)]


def _rolled_out(task: Task) -> bool:
    """Return whether the episode was rolled out, with no error; one that ended in an error may end otherwise next time."""
    return task.result.exists() and json.loads(task.result.read_text())["error"] is None


def _finished(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    return [json.loads(task.result.read_text()) for task in tasks if task.result.exists()]


def _roll_out(tasks: Sequence[Task], executor: Executor, progress: bool) -> None:
    if not tasks:
        return
    select_gl_backend()  # for the workers, too, which inherit its choice
    successes = 0
    with tqdm(total=len(tasks), unit="episode", disable=not progress) as bar:
        for index, result in retrying_map(functools.partial(_roll_out_one, executor.threads), tasks, executor):
            task = tasks[index]
            if isinstance(result, Exception):
                error = f"{type(result).__name__}: {result}"
                result = {"seed": task.seed, "success": None, "steps": 0, "total_reward": 0.0, "seconds": 0.0, "error": error}, None
            episode, video = result
            if video is not None:
                with atomic_write(task.folder / "videos" / _outcome(episode) / f"seed_{task.seed}.mp4") as beside:
                    beside.write_bytes(video)
            of_task = {"checkpoint": str(task.checkpoint), "overrides": task.overrides, "horizon": task.horizon}
            write_json(task.result, {**of_task, **episode})
            successes += bool(episode["success"])
            bar.update()
            bar.set_postfix(successes=successes)


def _roll_out_one(rendering_threads: int | None, task: Task) -> tuple[dict[str, Any], bytes | None]:
    """Return, in a worker, the episode of a task as its file holds it, and its video where one is wanted."""
    rollouts = worker_state(_make_rollouts, task.checkpoint, task.overrides, rendering_threads)  # tasks come checkpoint by checkpoint
    frames: list | None = [] if task.with_video else None
    episode = {**dataclasses.asdict(rollouts.run(task.seed, task.horizon, frames)), "error": None}
    if not frames:
        return episode, None
    from robomimic_frozen.evaluation.episodes import encode_video

    return episode, encode_video(frames, f"seed {task.seed}: {_outcome(episode)} after {episode['steps']} steps")


def _make_rollouts(checkpoint: str | Path, overrides: tuple[str, ...], rendering_threads: int | None) -> Rollouts:
    _set_up_worker(rendering_threads)
    from robomimic_frozen.evaluation.episodes import Rollouts

    return Rollouts(local_checkpoint(checkpoint), overrides)


def _set_up_worker(rendering_threads: int | None) -> None:
    if rendering_threads is not None:
        limit_rendering_threads(rendering_threads)
    register()
    importlib.import_module("robomimic_frozen.evaluation.episodes")
    # The last bits of an action, and with them outcomes, depend on how many threads compute it.
    torch.set_num_threads(1)
    if not gc.get_freeze_count():
        gc.freeze()  # robosuite collects garbage at each reset, and the libraries are most of what is looked through


def _outcome(episode: Mapping[str, Any]) -> str:
    return "success" if episode["success"] else "failure"
