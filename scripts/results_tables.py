"""Print the tables of docs/results.md from the numbers of studies.

    python scripts/results_tables.py docs/results/can_readouts.json
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import pandas as pd

from robomimic_frozen.study.results import Results


def tables(file: Path) -> str:
    """Return, as Markdown, the table of a study's `results.json` by demonstrations, or by steps where its runs have several checkpoints."""
    numbers = json.loads(file.read_text())
    results = Results(file.parent, numbers, tuple(numbers["runs"]))
    return _by_steps(results) if results.num_checkpoints > 1 else _by_demos(results)


def _by_demos(results: Results) -> str:
    rows = ["| configuration | demonstrations | successes by seed | together | 95 % | spread |", "|---|---|---|---|---|---|"]
    for point in results.final_points().itertuples():
        each = point.episodes // len(point.rates)
        seeds = ", ".join(f"{rate * each:.0f}" for rate in point.rates)
        spread = f"{statistics.stdev(point.rates):.3f}" if len(point.rates) > 1 else "-"
        together = f"{point.successes}/{point.episodes}"
        rows.append(f"| {point.configuration} | {point.demos} | {seeds} of {each} | {together} | {_interval(point)} | {spread} |")
    return "\n".join(rows) + "\n"


def _by_steps(results: Results) -> str:
    points = results.points()
    steps = sorted(points["steps"].unique())
    head = ["configuration", *(f"{each:,.0f} steps" for each in steps), "95 %, at the end", "seconds", "to 0.5", "to 0.8"]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    to = [results.seconds_to(rate) for rate in (0.5, 0.8)]
    for key, curve in points.groupby(["configuration", "demos"], observed=True):
        last = list(curve.itertuples())[-1]
        cells = [key[0], *_successes(curve), _interval(last), f"{last.seconds:,.0f}"]
        cells += ["-" if (seconds := each[key]) is None else f"{seconds:,.0f}" for each in to]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _successes(curve: pd.DataFrame) -> list[str]:
    return [f"{point.successes}/{point.episodes}" for point in curve.itertuples()]


def _interval(point: object) -> str:
    return "{:.2f}-{:.2f}".format(*point.interval)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(tables(Path(name)))
