"""Print the tables of docs/results.md from the numbers of studies.

    python scripts/results_tables.py docs/results/can_readouts.json
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from robomimic_frozen.study.results import SUCCESS_RATES, Results, read_numbers


def table(file: Path) -> str:
    """Return, as Markdown, the table of a study's `results.json` by demonstrations, or by steps where its runs have several checkpoints."""
    results = read_numbers(file)
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
    reached = [f"to {rate}" for rate in SUCCESS_RATES]
    head = ["configuration", *(f"{each:,.0f} steps" for each in steps), "95 %, at the end", "seconds", *reached]
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    to = [results.seconds_to(rate) for rate in SUCCESS_RATES]
    for key, curve in points.groupby(["configuration", "demos"], observed=True):
        last = list(curve.itertuples())[-1]
        successes = [f"{point.successes}/{point.episodes}" for point in curve.itertuples()]
        cells = [key[0], *successes, _interval(last), f"{last.seconds:,.0f}"]
        cells += ["-" if (seconds := each[key]) is None else f"{seconds:,.0f}" for each in to]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _interval(point: object) -> str:
    return "{:.2f}-{:.2f}".format(*point.interval)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(table(Path(name)))
