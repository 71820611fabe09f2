"""A success and a failure of each configuration, as film strips."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np

from robomimic_frozen.evaluation.evaluate import evaluate, finished_episodes
from robomimic_frozen.executors.processes import Processes
from robomimic_frozen.files import complete_or_absent
from robomimic_frozen.study.results import Results

_FRAMES, _HEIGHT = 6, 128


class Film(NamedTuple):
    """The picture of an episode, and what it is of."""

    configuration: str
    demos: int
    training_seed: int
    episode: dict[str, Any]
    video: Path
    strip: Path


def films(results: Results) -> list[Film]:
    """For each configuration an episode of either outcome, where there is one, after training on most demonstrations.

    The episodes are rolled out once more, with a video, into `videos/` of the study.
    """
    return [film for name in results.configurations for outcome in (True, False) for film in _first(results, name, outcome)]


def _first(results: Results, name: str, outcome: bool) -> Iterator[Film]:
    runs = [run for run in results.runs if run["configuration"] == name]
    for run in sorted(runs, key=lambda run: run["demos"], reverse=True):
        evaluation, checkpoint = run["evaluation"], results.folder / run["checkpoints"][-1]["file"]
        episodes = finished_episodes(
            checkpoint, evaluation["episodes"], evaluation["horizon"], evaluation["seed"],
            results.folder / "runs" / run["folder"] / "evaluation",
        )
        found = next((episode for episode in episodes if episode["success"] is outcome), None)
        if found is not None:
            yield _film(results, run, checkpoint, found)
            return


def _film(results: Results, run: dict[str, Any], checkpoint: Path, episode: dict[str, Any]) -> Film:
    out = results.folder / "videos" / run["folder"]
    evaluate([checkpoint], 1, episode["horizon"], Processes(1), episode["seed"], out, num_videos=1)
    outcome = "success" if episode["success"] else "failure"
    # The first part of the path names the checkpoint, of which there is one in the folder of a run.
    (video,) = out.glob(f"*/horizon_{episode['horizon']}/videos/{outcome}/seed_{episode['seed']}.mp4")
    strip = video.with_suffix(".jpg")
    if not strip.exists():
        _write_strip(video, strip)
    return Film(run["configuration"], run["demos"], run["seed"], episode, video, strip)


def _write_strip(video: Path, strip: Path) -> None:
    frames = iio.imread(video)
    chosen = frames[np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)]
    smaller = max(1, round(chosen.shape[1] / _HEIGHT))
    with complete_or_absent(strip) as beside:
        iio.imwrite(beside, np.concatenate(list(chosen), axis=1)[::smaller, ::smaller])
