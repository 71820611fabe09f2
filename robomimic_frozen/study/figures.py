"""The figures of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from robomimic_frozen.study.results import Cost, Point, Results

# Okabe and Ito 2008: told apart by the colour-blind, on white and in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vP*X"


def draw(results: Results) -> dict[str, Figure]:
    """Name -> figure; those that show the course of training only where there is more than one checkpoint."""
    points, costs = results.points(), results.costs()
    figures = {}
    if results.manifest["plan"]["checkpoints"] > 1:
        figures["success_over_seconds"] = _over(points, results, "training seconds", lambda point: point.seconds, log=False)
        figures["success_over_steps"] = _over(points, results, "gradient steps", lambda point: point.steps, log=True)
    figures["success_over_demonstrations"] = _over_demonstrations(results)
    figures["training_speed"] = _bars(costs, results, "gradient steps per second", lambda cost: cost.steps_per_second)
    figures["memory"] = _bars(costs, results, "resident memory in training (MB)", lambda cost: cost.memory_mb)
    return figures


def _over(points: Sequence[Point], results: Results, label: str, x_of: Callable[[Point], float], log: bool) -> Figure:
    numbers = sorted({point.demos for point in points})
    figure = Figure(figsize=(3.4 * len(numbers) + 1, 3.6), layout="constrained")
    for axes, demos in zip(figure.subplots(1, len(numbers), squeeze=False, sharey=True)[0], numbers, strict=True):
        for name in results.configurations:
            _draw(axes, results, name, [point for point in points if (point.configuration, point.demos) == (name, demos)], x_of)
        axes.set(xlabel=label, title=f"{demos} demonstrations")
        if log:
            axes.set_xscale("log", subs=[2, 5])
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:.0f}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(left=0)
    return _finished(figure)


def _over_demonstrations(results: Results) -> Figure:
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes, points = figure.subplots(), results.final_points()
    for name in results.configurations:
        _draw(axes, results, name, [point for point in points if point.configuration == name], lambda point: point.demos)
    axes.set(xlabel="demonstrations", xscale="log")
    numbers = sorted({point.demos for point in points})
    axes.set_xticks(numbers, map(str, numbers))
    axes.minorticks_off()
    return _finished(figure)


def _draw(axes: Axes, results: Results, name: str, points: Sequence[Point], x_of: Callable[[Point], float]) -> None:
    if not points:
        return
    number = results.configurations.index(name)
    style: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
    x, y = np.array([x_of(point) for point in points]), np.array([point.rate for point in points])
    bounds = np.array([point.interval for point in points]).T
    axes.errorbar(x, y, yerr=np.abs(bounds - y), label=name, capsize=3, markersize=5, linewidth=1.5, **style)
    for place, point in zip(x, points, strict=True):
        axes.plot([place] * len(point.rates), point.rates, linestyle="none", alpha=0.35, markersize=3, **style)


def _finished(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("success rate")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    return figure


def _bars(costs: Sequence[Cost], results: Results, label: str, value_of: Callable[[Cost], float]) -> Figure:
    values = [value_of(cost) for cost in costs]
    log = max(values) > 10 * min(values)  # where bars from zero would leave some of them invisible
    figure = Figure(figsize=(6.5, 0.6 + 0.5 * len(costs)), layout="constrained")
    axes = figure.subplots()
    colors = [COLORS[results.configurations.index(cost.configuration) % len(COLORS)] for cost in costs]
    bars = axes.barh([cost.configuration for cost in costs], values, color=colors, log=log)
    axes.bar_label(bars, fmt="{:.3g}" if log else "{:.0f}", padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return figure
