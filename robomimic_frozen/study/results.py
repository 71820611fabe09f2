"""The results of a study, read back and pooled over seeds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Final

import pandas as pd

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation.evaluate import wilson_interval
from robomimic_frozen.study.study import MANIFEST, RESULT

SUCCESS_RATES: Final = (0.5, 0.8)  # whose seconds are told
_OF_POINT: Final = ["configuration", "demos", "number"]
_OF_CHECKPOINT: Final = ["steps", "seconds", "success_rate", "successes", "episodes", "errors"]


@dataclasses.dataclass(frozen=True)
class Results:
    """The folder of a study."""

    folder: Path
    manifest: dict[str, Any]  # its plan and what its runs depend on, as `study.json` has them
    runs: tuple[dict[str, Any], ...]  # the results of those that are finished, each with the name of its 'folder'

    @property
    def configurations(self) -> list[str]:
        """Return the names of all configurations, in the order of the study file."""
        return list(self.manifest["plan"]["configurations"])

    @property
    def num_checkpoints(self) -> int:
        """Return how many checkpoints each run has."""
        checkpoints = self.manifest["plan"]["checkpoints"]
        return len(checkpoints) if isinstance(checkpoints, list) else checkpoints

    def points(self) -> pd.DataFrame:
        """Return a row for all checkpoints of one configuration that are equally far in training on equally many demonstrations.

        Columns: configuration, demos, number (of the checkpoint in its run); steps and seconds, means over the seeds; rates, the success
        rate of each seed; successes, episodes and errors (episodes that count as neither success nor failure) of all seeds together;
        rate and interval (95 %, by Wilson), of all episodes together, as if seeds did not differ.
        """
        rows = [
            {"configuration": run["configuration"], "demos": run["demos"], "number": number, **checkpoint}
            for run in self.runs
            for number, checkpoint in enumerate(run["checkpoints"])
            if checkpoint["episodes"]
        ]
        table = pd.DataFrame(rows, columns=[*_OF_POINT, *_OF_CHECKPOINT])
        points = self._by(_OF_POINT, table).agg(
            steps=("steps", "mean"), seconds=("seconds", "mean"), rates=("success_rate", tuple),
            successes=("successes", "sum"), episodes=("episodes", "sum"), errors=("errors", "sum"),
        ).reset_index()
        points["rate"] = points["successes"] / points["episodes"]
        points["interval"] = list(map(wilson_interval, points["successes"], points["episodes"]))
        return points

    def final_points(self) -> pd.DataFrame:
        """Return the rows of `points` that tell of the end of training."""
        points = self.points()
        return points[points["number"] == self.num_checkpoints - 1]

    def seconds_to(self, rate: float) -> dict[tuple[str, int], float | None]:
        """Return (configuration, demos) -> training seconds of the first checkpoint with this success rate; None where none has it."""
        by_seconds = self.points().sort_values("seconds")
        return {
            key: next((float(point.seconds) for point in points.itertuples() if point.rate >= rate), None)
            for key, points in by_seconds.groupby(["configuration", "demos"], observed=True)
        }

    def costs(self) -> pd.DataFrame:
        """Return a row for each configuration that has a finished run: medians over its runs of what training costs."""
        table = pd.DataFrame(self.runs)
        table["steps_per_second"] = 1 / table["seconds_per_step"]
        return self._by(["configuration"], table).agg(
            steps_per_second=("steps_per_second", "median"), memory_mb=("memory_mb", "median"), parameters=("parameters", "first"),
            trainable=("trainable", "first"), extraction_seconds=("extraction_seconds", "median"),
        ).reset_index()

    def _by(self, columns: list[str], table: pd.DataFrame) -> Any:
        table["configuration"] = pd.Categorical(table["configuration"], self.configurations)  # which sorts as the file does
        return table.groupby(columns, observed=True)


def read_numbers(file: Path) -> Results:
    """Return the results in the `results.json` of a study's report, of which nothing else need be there."""
    numbers = json.loads(file.read_text())
    return Results(file.parent, numbers, tuple(numbers["runs"]))


def read_results(folder: Path) -> Results:
    """Return the results in the folder of a study. Raises ConfigError if it has none."""
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
