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
from robomimic_frozen.files import sha256_of, sole_writer, write_json
from robomimic_frozen.workers import surviving_map


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
    checkpoints: Sequence[Path], num_episodes: int, horizon: int | None, workers: int, seed: int, out: Path, num_videos: int
) -> list[Summary]:
    """Roll out every checkpoint from the same seeds; one folder for each in `out`, and `out/results.json` for all.

    Args:
        checkpoints: files, or folders of runs for all checkpoints in them.
        num_episodes: of each; their seeds are `seed`, `seed` + 1, ...
        horizon: steps of an episode; None for what each checkpoint's config says.
        workers: parallel processes.
        num_videos: how many of each checkpoint's episodes to record.

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
            _roll_out([task for each in tasks.values() for task in each if not _rolled_out(task)], workers)
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


def _roll_out(tasks: Sequence[Task], workers: int) -> None:
    if not tasks:
        return
    compat.select_gl_backend()  # for the workers, too, which inherit its choice
    build = functools.partial(_make_runner, tasks, max(1, (os.cpu_count() or 1) // workers))
    successes = 0
    with tqdm(total=len(tasks), unit="episode") as bar:
        for index, result in surviving_map(build, len(tasks), workers):
            task = tasks[index]
            if isinstance(result, Exception):
                result = Episode(task.seed, None, 0, 0.0, 0.0, error=f"{type(result).__name__}: {result}")
            write_json(task.result, {"checkpoint": str(task.checkpoint), "horizon": task.horizon, **dataclasses.asdict(result)})
            successes += bool(result.success)
            bar.update()
            bar.set_postfix(successes=successes)


def _make_runner(tasks: Sequence[Task], rendering_threads: int) -> Callable[[int], Episode]:
    """In a worker: number of a task -> its episode."""
    # Each software renderer would start a thread for every core.
    os.environ.setdefault("LP_NUM_THREADS", str(rendering_threads))
    from robomimic_frozen.plugins import register

    register()
    import torch

    from robomimic_frozen.evaluation.episodes import Rollouts
    from robomimic_frozen.evaluation.video import write_video

    # The last bits of an action, and with them outcomes, depend on how many threads compute it.
    torch.set_num_threads(1)
    rollouts = functools.lru_cache(maxsize=1)(Rollouts)  # tasks come checkpoint by checkpoint
    gc.freeze()  # robosuite collects garbage at each reset, and the libraries are most of what is looked through

    def run(index: int) -> Episode:
        task = tasks[index]
        frames: list | None = [] if task.with_video else None
        episode = rollouts(task.checkpoint).run(task.seed, task.horizon, frames)
        if frames:
            outcome = "success" if episode.success else "failure"
            caption = f"seed {task.seed}: {outcome} after {episode.steps} steps"
            write_video(task.folder / "videos" / outcome / f"seed_{task.seed}.mp4", frames, caption)
        return episode

    return run
