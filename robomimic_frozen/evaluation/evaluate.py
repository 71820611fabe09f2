"""Checkpoints x seeds, in parallel processes; what is finished is kept in a folder, and not done again."""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from robomimic_frozen import compat
from robomimic_frozen.checkpoints import checkpoints_in, read_checkpoint
from robomimic_frozen.evaluation.statistics import Episode, Summary, summarize
from robomimic_frozen.executors.executor import Executor, surviving_map
from robomimic_frozen.files import complete_or_absent, sha256_of, sole_writer, write_json


@dataclasses.dataclass(frozen=True)
class Task:
    """One episode to roll out.

    Attributes:
        checkpoint: its file.
        seed: of environment and policy.
        horizon: in steps.
        folder: where the result goes.
        with_video: whether to record it.
    """

    checkpoint: Path
    seed: int
    horizon: int
    folder: Path
    with_video: bool

    @property
    def result(self) -> Path:
        """The file of the result; it exists when the episode is finished."""
        return self.folder / "episodes" / f"seed_{self.seed}.json"


def evaluate(
    checkpoints: Sequence[Path], num_episodes: int, horizon: int | None, executor: Executor, seed: int, out: Path, num_videos: int,
    progress: bool = True,
) -> list[Summary]:
    """Roll out every checkpoint from the same seeds; one folder for each in `out`, and `out/results.json` for all.

    Args:
        checkpoints: files, or folders of runs for all checkpoints in them.
        num_episodes: of each; their seeds are `seed`, `seed` + 1, ...
        horizon: steps of an episode; None for what each checkpoint's config says.
        executor: of the rollouts; its workers read the checkpoints.
        num_videos: how many of each checkpoint's episodes to record.
        progress: whether to show a progress bar on stderr.

    Raises:
        ConfigError: a checkpoint cannot be read or rolled out here; another evaluation is writing to `out`.
    """
    tasks = {
        file: _tasks(file, num_episodes, horizon, seed, out, num_videos)
        for path in checkpoints
        for file in checkpoints_in(path, "CKPT")
    }
    with sole_writer(out, "evaluation"):
        try:
            _roll_out([task for each in tasks.values() for task in each if not _rolled_out(task)], executor, progress)
        finally:
            summaries = [summarize(str(file), _finished(each)) for file, each in tasks.items()]
            write_json(out / "results.json", [dataclasses.asdict(summary) for summary in summaries])
    return summaries


def finished_episodes(checkpoint: Path, num_episodes: int, horizon: int | None, seed: int, out: Path) -> list[dict[str, Any]]:
    """What `evaluate` has written to `out` of the episodes it would roll out with these arguments."""
    return _finished(_tasks(checkpoint, num_episodes, horizon, seed, out, 0))


def _tasks(file: Path, num_episodes: int, horizon: int | None, seed: int, out: Path, num_videos: int) -> list[Task]:
    # Also where its horizon is not asked for: robomimic 0.5 would execute what a malicious file says.
    config = json.loads(read_checkpoint(file, "CKPT")["config"])
    steps = horizon or config["experiment"]["rollout"]["horizon"]
    folder = out / f"{file.stem}-{sha256_of(file)[:12]}" / f"horizon_{steps}"
    return [Task(file, seed + number, steps, folder, number < num_videos) for number in range(num_episodes)]


def _rolled_out(task: Task) -> bool:
    """Whether the episode was rolled out, with no error; one that ended in an error may end otherwise next time."""
    return task.result.exists() and json.loads(task.result.read_text())["error"] is None


def _finished(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    return [json.loads(task.result.read_text()) for task in tasks if task.result.exists()]


def _roll_out(tasks: Sequence[Task], executor: Executor, progress: bool) -> None:
    if not tasks:
        return
    compat.select_gl_backend()  # for the workers, too, which inherit its choice
    build = functools.partial(_make_runner, tasks, executor.threads)
    successes = 0
    with tqdm(total=len(tasks), unit="episode", disable=not progress) as bar:
        for index, result in surviving_map(build, len(tasks), executor):
            task = tasks[index]
            if isinstance(result, Exception):
                result = Episode(task.seed, None, 0, 0.0, 0.0, error=f"{type(result).__name__}: {result}"), None
            episode, video = result
            if video is not None:
                with complete_or_absent(task.folder / "videos" / _outcome(episode) / f"seed_{task.seed}.mp4") as beside:
                    beside.write_bytes(video)
            write_json(task.result, {"checkpoint": str(task.checkpoint), "horizon": task.horizon, **dataclasses.asdict(episode)})
            successes += bool(episode.success)
            bar.update()
            bar.set_postfix(successes=successes)


def _make_runner(tasks: Sequence[Task], rendering_threads: int | None) -> Callable[[int], tuple[Episode, bytes | None]]:
    """In a worker: number of a task -> its episode, and its video where one is wanted."""
    if rendering_threads is not None:
        # Each software renderer would start a thread for every core.
        os.environ.setdefault("LP_NUM_THREADS", str(rendering_threads))
    from robomimic_frozen.plugins import register

    register()
    import torch

    from robomimic_frozen.evaluation.episodes import Rollouts
    from robomimic_frozen.evaluation.video import encode_video

    # The last bits of an action, and with them outcomes, depend on how many threads compute it.
    torch.set_num_threads(1)
    rollouts = functools.lru_cache(maxsize=1)(Rollouts)  # tasks come checkpoint by checkpoint
    gc.freeze()  # robosuite collects garbage at each reset, and the libraries are most of what is looked through

    def run(index: int) -> tuple[Episode, bytes | None]:
        task = tasks[index]
        frames: list | None = [] if task.with_video else None
        episode = rollouts(task.checkpoint).run(task.seed, task.horizon, frames)
        if not frames:
            return episode, None
        return episode, encode_video(frames, f"seed {task.seed}: {_outcome(episode)} after {episode.steps} steps")

    return run


def _outcome(episode: Episode) -> str:
    return "success" if episode.success else "failure"
