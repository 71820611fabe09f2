"""The results of a study, read back and pooled over seeds."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation.statistics import wilson_interval
from robomimic_frozen.study.study import MANIFEST, RESULT


@dataclasses.dataclass(frozen=True)
class Point:
    """Checkpoints of one configuration, equally far in training on equally many demonstrations, one of each seed.

    Attributes:
        steps, seconds: means over the seeds.
        rates: success rate of each seed.
        successes, episodes: of all seeds together.
        errors: episodes that ended in an error; they count as neither.
    """

    configuration: str
    demos: int
    number: int
    steps: float
    seconds: float
    rates: tuple[float, ...]
    successes: int
    episodes: int
    errors: int

    @property
    def rate(self) -> float:
        """Of all episodes together."""
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """95 %, by Wilson, of all episodes together, as if seeds did not differ."""
        return wilson_interval(self.successes, self.episodes)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What training with a configuration costs: medians over its runs."""

    configuration: str
    steps_per_second: float
    memory_mb: float
    parameters: int
    trainable: int
    extraction_seconds: float


@dataclasses.dataclass(frozen=True)
class Results:
    """The folder of a study.

    Attributes:
        manifest: its plan and what its runs depend on, as `study.json` has them.
        runs: the results of those that are finished, each with the name of its 'folder'.
    """

    folder: Path
    manifest: dict[str, Any]
    runs: tuple[dict[str, Any], ...]

    @property
    def num_planned(self) -> int:
        """How many runs there are to be."""
        return len(self.manifest["runs"])

    @property
    def configurations(self) -> list[str]:
        """In the order of the study file."""
        return [each["name"] for each in self.manifest["plan"]["configurations"]]

    def points(self) -> list[Point]:
        """All checkpoints, pooled over seeds."""
        points: list[Point] = []
        for name in self.configurations:
            for demos in sorted({run["demos"] for run in self.runs}):
                runs = [run for run in self.runs if (run["configuration"], run["demos"]) == (name, demos)]
                for number, checkpoints in enumerate(zip(*(run["checkpoints"] for run in runs), strict=True)):
                    ended = [each for each in checkpoints if each["episodes"]]
                    if ended:
                        points.append(_pooled(name, demos, number, ended))
        return points

    def final_points(self) -> list[Point]:
        """Those at the end of training."""
        last = self.manifest["plan"]["checkpoints"] - 1
        return [point for point in self.points() if point.number == last]

    def costs(self) -> list[Cost]:
        """Of each configuration that has a finished run."""
        costs = []
        for name in self.configurations:
            runs = [run for run in self.runs if run["configuration"] == name]
            if runs:
                costs.append(_cost(name, runs))
        return costs


def read_results(folder: Path) -> Results:
    """The results in the folder of a study. Raises ConfigError if it has none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = [folder / "runs" / name / RESULT for name in manifest["runs"]]
        runs = tuple({**json.loads(file.read_text()), "folder": file.parent.name} for file in files if file.exists())
    except (OSError, ValueError, KeyError) as error:
        hint = f"make one: robomimic-frozen study FILE --out {folder}"
        raise ConfigError(f"{folder} is not the folder of a study ({error}); {hint}") from error
    if not runs:
        raise ConfigError(f"no run of the study in {folder} is finished yet")
    return Results(folder, manifest, runs)


def _pooled(name: str, demos: int, number: int, checkpoints: Sequence[dict[str, Any]]) -> Point:
    return Point(
        name, demos, number,
        steps=statistics.mean(each["steps"] for each in checkpoints),
        seconds=statistics.mean(each["seconds"] for each in checkpoints),
        rates=tuple(each["success_rate"] for each in checkpoints),
        successes=sum(each["successes"] for each in checkpoints),
        episodes=sum(each["episodes"] for each in checkpoints),
        errors=sum(each["errors"] for each in checkpoints),
    )


def _cost(name: str, runs: Sequence[dict[str, Any]]) -> Cost:
    def median(value: Callable[[dict[str, Any]], float]) -> float:
        return statistics.median(value(run) for run in runs)

    return Cost(
        name,
        steps_per_second=median(lambda run: 1 / run["seconds_per_step"]),
        memory_mb=median(lambda run: run["memory_mb"]),
        parameters=runs[0]["parameters"],
        trainable=runs[0]["trainable"],
        extraction_seconds=median(lambda run: run["extraction_seconds"]),
    )
