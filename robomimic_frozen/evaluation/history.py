"""What a training run logged: the scalars that robomimic, stock or not, writes for TensorBoard, and curves of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.utils.files import atomic_write

SUCCESS: Final = "Rollout/Success_Rate/"
EPOCH_MINUTES: Final = "Timing_Stats/Train_Epoch"
MEMORY: Final = "System/RAM_Usage__MB_"  # as TensorBoard spells "System/RAM Usage (MB)"
FORMATS: Final = (".png", ".svg", ".pdf")
Curve = Mapping[int, float]
"""epoch -> value"""


@dataclass(frozen=True)
class History:
    """The scalars of one run."""

    name: str  # of experiment and run, as their folders are called
    steps_per_epoch: int | None  # gradient steps; None for as many as the dataset has batches
    scalars: Mapping[str, Curve]  # by tag


def read_histories(paths: Sequence[Path]) -> list[History]:
    """Return the histories of all runs in these folders. Raises ConfigError if there are none."""
    return [read_history(run) for path in paths for run in _run_folders(path)]


def read_history(run: Path) -> History:
    """Return the scalars in the folder of a run. Where it was resumed, what a later process wrote of an epoch counts."""
    # TensorBoard takes seconds to import.
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it reports the end of each file it reads
    events = EventAccumulator(str(run / "logs" / "tb"), size_guidance={SCALARS: 0}).Reload()
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()[SCALARS]}
    return History(f"{run.parent.name}/{run.name}", _steps_per_epoch(run / "config.json"), scalars)


def losses(history: History) -> dict[str, Curve]:
    """Return tag -> curve of each loss, in training and validation."""
    return {tag: curve for tag, curve in history.scalars.items() if tag.startswith(("Train/", "Valid/")) and tag.endswith("Loss")}


def success_rates(history: History) -> dict[str, Curve]:
    """Return environment -> success rates of the rollouts in training."""
    tags = [tag for tag in history.scalars if tag.startswith(SUCCESS)]
    # Beside each, robomimic logs its running statistics.
    statistics = {f"{tag}-{name}" for tag in tags for name in ("mean", "std", "min", "max")}
    return {tag.removeprefix(SUCCESS): history.scalars[tag] for tag in tags if tag not in statistics}


def plot_histories(histories: Sequence[History], path: Path) -> None:
    """Draw the loss and, where there were rollouts, the success rate of each run against its gradient steps, into an image file.

    Raises:
        ConfigError: `path` has no suffix of a picture.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path} is no picture; choose a name that ends in {', '.join(FORMATS)}")
    kinds = {"loss": [losses(history) for history in histories], "success rate": [success_rates(history) for history in histories]}
    if not any(kinds["success rate"]):
        del kinds["success rate"]
    in_steps = all(history.steps_per_epoch for history in histories)
    figure = Figure(figsize=(6 * len(kinds), 4.5), layout="constrained")
    for axes, (label, of_runs) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True):
        for number, (history, curves) in enumerate(zip(histories, of_runs, strict=True)):
            _draw(axes, history, curves, f"C{number % 10}", in_steps)
        axes.set(xlabel="gradient steps" if in_steps else "epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        if label == "success rate":
            axes.set_ylim(-0.02, 1.02)
        elif all(value > 0 for curves in of_runs for curve in curves.values() for value in curve.values()):
            axes.set_yscale("log")
    with atomic_write(path) as beside:
        figure.savefig(beside, dpi=150)


def _run_folders(path: Path) -> list[Path]:
    path = path.expanduser()
    found = sorted(log.parent.parent for log in path.glob("**/logs/tb"))
    if not found:
        raise ConfigError(f"{path} holds no TensorBoard logs of a robomimic run (logs/tb); train with experiment.logging.log_tb")
    return found


def _steps_per_epoch(config: Path) -> int | None:
    try:
        return json.loads(config.read_text())["experiment"]["epoch_every_n_steps"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{config} is not the config of a robomimic run ({error}); give the folder of a run") from error


def _draw(axes: Axes, history: History, curves: Mapping[str, Curve], color: str, in_steps: bool) -> None:
    scale = (history.steps_per_epoch or 1) if in_steps else 1
    for tag, curve in curves.items():
        style, label = "--" if tag.startswith("Valid/") else "-", f"{history.name} {tag}" if len(curves) > 1 else history.name
        axes.plot([epoch * scale for epoch in curve], list(curve.values()), style, color=color, label=label, marker=".", markersize=4)
