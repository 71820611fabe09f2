"""What a training run logged: the scalars that robomimic, stock or not, writes for TensorBoard."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robomimic_frozen.errors import ConfigError

SUCCESS = "Rollout/Success_Rate/"
EPOCH_MINUTES = "Timing_Stats/Train_Epoch"
MEMORY = "System/RAM_Usage__MB_"  # as TensorBoard spells "System/RAM Usage (MB)"


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


def run_folders(path: Path) -> list[Path]:
    """`path`, if it is the folder of a run, or all runs in it, by name. Raises ConfigError if there are none."""
    path = path.expanduser()
    found = sorted(log.parent.parent for log in path.glob("**/logs/tb"))
    if not found:
        raise ConfigError(f"{path} holds no TensorBoard logs of a robomimic run (logs/tb); train with experiment.logging.log_tb")
    return found


def read_history(run: Path) -> History:
    """The scalars in the folder of a run. Where it was resumed, what a later process wrote of an epoch counts."""
    # TensorBoard takes seconds to import.
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.WARNING)  # it reports the end of each file it reads
    events = EventAccumulator(str(run / "logs" / "tb"), size_guidance={SCALARS: 0}).Reload()
    scalars = {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()[SCALARS]}
    return History(f"{run.parent.name}/{run.name}", _steps_per_epoch(run / "config.json"), scalars)


def losses(history: History) -> dict[str, Mapping[int, float]]:
    """Tag -> epoch -> loss, in training and validation."""
    return {
        tag: values for tag, values in history.scalars.items() if tag.startswith(("Train/", "Valid/")) and tag.endswith("Loss")
    }


def success_rates(history: History) -> dict[str, Mapping[int, float]]:
    """Environment -> epoch -> success rate of the rollouts in training."""
    tags = [tag for tag in history.scalars if tag.startswith(SUCCESS)]
    # Beside each, robomimic logs its running statistics.
    statistics = {f"{tag}-{name}" for tag in tags for name in ("mean", "std", "min", "max")}
    return {tag.removeprefix(SUCCESS): history.scalars[tag] for tag in tags if tag not in statistics}


def _steps_per_epoch(config: Path) -> int | None:
    try:
        return json.loads(config.read_text())["experiment"]["epoch_every_n_steps"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{config} is not the config of a robomimic run ({error}); give the folder of a run") from error


def read_histories(paths: Sequence[Path]) -> list[History]:
    """Of all runs in these folders."""
    return [read_history(run) for path in paths for run in run_folders(path)]
