"""What a training run logged: the scalars that robomimic, stock or not, writes for TensorBoard, and curves of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.utils.files import atomic_write

SUCCESS: Final = "Rollout/Success_Rate/"
EPOCH_MINUTES: Final = "Timing_Stats/Train_Epoch"
MEMORY: Final = "System/RAM_Usage__MB_"
"""As TensorBoard spells "System/RAM Usage (MB)"."""
FORMATS: Final = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class History:
    """Scalars of one run.

    Attributes:
        name: experiment and run, as their folders are called.
        steps_per_epoch: gradient steps; None for as many as the dataset has batches.
        scalars: tag -> epoch -> value.
    """

    name: str
    steps_per_epoch: int | None
    scalars: Mapping[str, Mapping[int, float]]


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


def losses(history: History) -> dict[str, Mapping[int, float]]:
    """Return tag -> epoch -> loss, in training and validation."""
    return {
        tag: values for tag, values in history.scalars.items() if tag.startswith(("Train/", "Valid/")) and tag.endswith("Loss")
    }


def success_rates(history: History) -> dict[str, Mapping[int, float]]:
    """Return environment -> epoch -> success rate of the rollouts in training."""
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
    kinds: list[tuple[str, Callable[[History], Mapping[str, Mapping[int, float]]]]] = [("loss", losses)]
    if any(success_rates(history) for history in histories):
        kinds.append(("success rate", success_rates))
    in_steps = all(history.steps_per_epoch for history in histories)
    figure = Figure(figsize=(6 * len(kinds), 4.5), layout="constrained")
    for axes, (label, curves_of) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for number, history in enumerate(histories):
            _draw(axes, history, curves_of(history), f"C{number % 10}", in_steps)
        axes.set(xlabel="gradient steps" if in_steps else "epoch", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.axes[0].set_yscale("log" if _all_positive(histories) else "linear")
    if len(kinds) == 2:
        figure.axes[1].set_ylim(-0.02, 1.02)
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


def _draw(axes: Axes, history: History, curves: Mapping[str, Mapping[int, float]], color: str, in_steps: bool) -> None:
    scale = (history.steps_per_epoch or 1) if in_steps else 1
    for tag, curve in curves.items():
        style = "--" if tag.startswith("Valid/") else "-"
        label = f"{history.name} {tag}" if len(curves) > 1 else history.name
        epochs = list(curve)
        axes.plot([epoch * scale for epoch in epochs], list(curve.values()), style, color=color, label=label, marker=".", markersize=4)


def _all_positive(histories: Sequence[History]) -> bool:
    return all(value > 0 for history in histories for curve in losses(history).values() for value in curve.values())
