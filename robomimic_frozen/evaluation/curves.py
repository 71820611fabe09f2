"""Loss and success of training runs, as a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation.history import History, losses, success_rates
from robomimic_frozen.files import complete_or_absent

FORMATS = (".png", ".svg", ".pdf")


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
    with complete_or_absent(path) as beside:
        figure.savefig(beside, dpi=150)


def _draw(axes: Axes, history: History, curves: Mapping[str, Mapping[int, float]], color: str, in_steps: bool) -> None:
    scale = (history.steps_per_epoch or 1) if in_steps else 1
    for tag, curve in curves.items():
        style = "--" if tag.startswith("Valid/") else "-"
        label = f"{history.name} {tag}" if len(curves) > 1 else history.name
        epochs = list(curve)
        axes.plot([epoch * scale for epoch in epochs], list(curve.values()), style, color=color, label=label, marker=".", markersize=4)


def _all_positive(histories: Sequence[History]) -> bool:
    return all(value > 0 for history in histories for curve in losses(history).values() for value in curve.values())
