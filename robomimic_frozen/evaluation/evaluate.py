"""Checkpoints x seeds, in parallel processes; what is finished is kept in a folder, and not done again."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
from tqdm import tqdm

from robomimic_frozen.checkpoints import read_checkpoint
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation.statistics import Summary, summarize
from robomimic_frozen.workers import surviving_map

if TYPE_CHECKING:
    from robomimic_frozen.evaluation.episodes import Episode


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
    files = [file for path in checkpoints for file in _checkpoints_in(path)]
    folders = {file: out / f"{file.stem}-{_sha256(file)[:12]}" for file in files}
    horizons = {file: horizon or _horizon_of(file) for file in files}
    tasks = [
        Task(file, seed + number, horizons[file], folders[file] / f"horizon_{horizons[file]}", number < num_videos)
        for file in files
        for number in range(num_episodes)
    ]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(out / ".lock", blocking=False):
            try:
                _roll_out([task for task in tasks if not task.result.exists()], workers)
            finally:
                summaries = [
                    summarize(str(file), [json.loads(task.result.read_text()) for task in tasks if _is_done(task, file)])
                    for file in files
                ]
                _write(out / "results.json", [dataclasses.asdict(summary) for summary in summaries])
    except filelock.Timeout as error:
        raise ConfigError(f"another evaluation is writing to {out}; wait for it, or choose another --out") from error
    return summaries


def _is_done(task: Task, file: Path) -> bool:
    return task.checkpoint == file and task.result.exists()


def _roll_out(tasks: Sequence[Task], workers: int) -> None:
    from robomimic_frozen.evaluation.episodes import Episode

    build = functools.partial(_make_runner, tasks, max(1, (os.cpu_count() or 1) // workers))
    successes = 0
    with tqdm(total=len(tasks), unit="episode", disable=not tasks) as bar:
        for index, result in surviving_map(build, len(tasks), workers):
            task = tasks[index]
            if isinstance(result, Exception):
                result = Episode(task.seed, None, 0, 0.0, 0.0, error=f"{type(result).__name__}: {result}")
            _write(task.result, {"checkpoint": str(task.checkpoint), "horizon": task.horizon, **dataclasses.asdict(result)})
            successes += bool(result.success)
            bar.update()
            bar.set_postfix(successes=successes)


def _make_runner(tasks: Sequence[Task], threads: int) -> Callable[[int], Episode]:
    """In a worker: number of a task -> its episode."""
    # Each software renderer would start a thread for every core.
    os.environ.setdefault("LP_NUM_THREADS", str(threads))
    from robomimic_frozen import compat
    from robomimic_frozen.plugins import register

    compat.select_gl_backend()
    register()
    import torch

    from robomimic_frozen.evaluation.episodes import Rollouts
    from robomimic_frozen.evaluation.video import write_video

    torch.set_num_threads(threads)
    rollouts = functools.lru_cache(maxsize=1)(Rollouts)  # tasks come checkpoint by checkpoint

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


def _checkpoints_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("**/models/*.pth"))
    if not found:
        raise ConfigError(f"{path} holds no checkpoint (models/*.pth); give a checkpoint or the folder of a run")
    return found


def _horizon_of(checkpoint: Path) -> int:
    return json.loads(read_checkpoint(checkpoint, "CKPT")["config"])["experiment"]["rollout"]["horizon"]


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"checkpoint {file} cannot be read ({error.strerror}); correct the path") from error


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
