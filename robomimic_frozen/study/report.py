"""A study as one HTML file that needs no network, its figures as PNG files, and its numbers as JSON."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from robomimic_frozen.evaluation.evaluate import finished_episodes
from robomimic_frozen.evaluation.films import film_strip
from robomimic_frozen.study.results import SUCCESS_RATES, Results, read_results
from robomimic_frozen.utils.files import atomic_write, write_json

CAPTIONS: Final = {
    "success_over_seconds": "Success rate against training seconds (feature extraction included); pale: single seeds",
    "success_over_steps": "Success rate against gradient steps; pale: single seeds",
    "success_over_demonstrations": "Success rate at the end of training against the number of demonstrations; pale: single seeds",
    "training_speed": "Gradient steps per second, data loading included",
    "memory": "Resident memory of the training process",
}
# Okabe and Ito 2008: told apart by the colour-blind, on white and in print.
COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS: Final = "osD^vP*X"
_LEGEND_LINE: Final = 0.2  # inches


def write_report(folder: Path, with_films: bool) -> Path:
    """Write `report.html`, `figures/*.png` and `results.json` into the folder of a study, and return the path of the first.

    Args:
        with_films: whether to roll out a success and a failure of each configuration again for their pictures.

    Raises:
        ConfigError: `folder` is not that of a study, or none of its runs is finished.
    """
    results = read_results(folder)
    write_json(folder / "results.json", {**results.manifest, "runs": results.runs})
    templates = jinja2.Environment(loader=jinja2.PackageLoader("robomimic_frozen.study"), autoescape=True, undefined=jinja2.StrictUndefined)
    html = templates.get_template("report.html.j2").render(
        results=results,
        provenance=list(_provenance(results)),
        numbers=sorted({run["demos"] for run in results.runs}),
        final={(point.configuration, point.demos): point for point in results.final_points().itertuples()},
        seconds_to={rate: results.seconds_to(rate) for rate in SUCCESS_RATES},
        pictures={name: _embedded(path, "png") for name, path in write_figures(results).items()},
        captions=CAPTIONS,
        films=list(_films(results)) if with_films else [],
    )
    report = folder / "report.html"
    with atomic_write(report) as beside:
        beside.write_text(html, encoding="utf-8")
    return report


def write_figures(results: Results) -> dict[str, Path]:
    """Write `figures/*.png` into the folder of a study, and return name -> path."""
    paths = {}
    for name, figure in _figures(results).items():
        paths[name] = results.folder / "figures" / f"{name}.png"
        with atomic_write(paths[name]) as beside:
            figure.savefig(beside, dpi=130)
    return paths


def _embedded(picture: Path, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def _provenance(results: Results) -> Iterator[tuple[str, str]]:
    environment, data = results.manifest["environment"], results.manifest["data"]
    yield "code", environment["code"]
    yield from {"python": environment["python"], **environment["packages"]}.items()
    yield "dataset", Path(data["dataset"]).name
    yield "sha256 of the dataset", data["sha256"]
    for name, digest in results.manifest["weights_sha256"].items():
        yield f"sha256 of the weights, {name}", digest or "drawn by the training seed"


def _films(results: Results) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """Yield (run, episode, picture) of an episode of either outcome for each configuration, after training on most demonstrations.

    The episodes are rolled out once more, with a video, into `videos/` of the study.
    """
    by_demos = sorted(results.runs, key=lambda run: run["demos"], reverse=True)
    for name, outcome in itertools.product(results.configurations, (True, False)):
        for run in (run for run in by_demos if run["configuration"] == name):
            evaluation, checkpoint = run["evaluation"], results.folder / run["checkpoints"][-1]["file"]
            rolled_out = results.folder / "runs" / run["folder"] / "evaluation"
            episodes = finished_episodes(checkpoint, evaluation["episodes"], evaluation["horizon"], evaluation["seed"], rolled_out)
            episode = next((episode for episode in episodes if episode["success"] is outcome), None)
            if episode is not None:
                yield run, episode, _embedded(film_strip(checkpoint, episode, results.folder / "videos" / run["folder"]), "jpeg")
                break


def _figures(results: Results) -> dict[str, Figure]:
    """Return name -> figure; those that show the course of training only where there is more than one checkpoint."""
    figures = {}
    if results.num_checkpoints > 1:
        figures["success_over_seconds"] = _over_training(results, "seconds", "training seconds")
        figures["success_over_steps"] = _over_training(results, "steps", "gradient steps")
    figures["success_over_demonstrations"] = _over_demonstrations(results)
    figures["training_speed"] = _bars(results, "steps_per_second", "gradient steps per second")
    figures["memory"] = _bars(results, "memory_mb", "resident memory in training (MB)")
    return figures


def _over_training(results: Results, column: str, label: str) -> Figure:
    points = results.points()
    numbers = sorted(points["demos"].unique())
    figure = Figure(figsize=(3.4 * len(numbers) + 1, 3.6), layout="constrained")
    for axes, demos in zip(figure.subplots(1, len(numbers), squeeze=False, sharey=True)[0], numbers, strict=True):
        _draw(axes, results, points[points["demos"] == demos], column)
        axes.set(xlabel=label, title=f"{demos} demonstrations")
        axes.set_xscale("log", subs=[2, 5])
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    return _finished(figure)


def _over_demonstrations(results: Results) -> Figure:
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes, points = figure.subplots(), results.final_points()
    _draw(axes, results, points, "demos")
    axes.set(xlabel="demonstrations", xscale="log")
    numbers = sorted(points["demos"].unique())
    axes.set_xticks(numbers, map(str, numbers))
    axes.minorticks_off()
    return _finished(figure)


def _draw(axes: Axes, results: Results, points: pd.DataFrame, column: str) -> None:
    """Draw a curve of success rates for each configuration, and pale the rates of each seed."""
    for name, curve in points.groupby("configuration", observed=True):
        number = results.configurations.index(str(name))
        style: dict[str, Any] = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
        errors = np.abs(np.array(curve["interval"].tolist()).T - curve["rate"].to_numpy())
        axes.errorbar(curve[column], curve["rate"], yerr=errors, label=name, capsize=3, markersize=5, linewidth=1.5, **style)
        rates = curve.explode("rates")
        axes.plot(rates[column], rates["rates"], linestyle="none", alpha=0.35, markersize=3, **style)


def _finished(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("success rate")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * len(labels))
    figure.legend(handles, labels, loc="outside lower center", frameon=False, fontsize="small")  # one column: names are long
    return figure


def _bars(results: Results, column: str, label: str) -> Figure:
    costs = results.costs()
    values, names = costs[column], list(costs["configuration"])
    log = bool(values.max() > 10 * values.min())  # where bars from zero would leave some of them invisible
    figure = Figure(figsize=(6.5, 0.6 + 0.5 * len(costs)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, values, color=[COLORS[results.configurations.index(name) % len(COLORS)] for name in names], log=log)
    axes.bar_label(bars, fmt="{:.3g}" if log else "{:.0f}", padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    return figure
