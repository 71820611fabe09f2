"""The training runs of a study, each by robomimic's train.py in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

from robomimic.config.config import Config

from robomimic_frozen.checkpoints import checkpoints_in, networks, read_checkpoint
from robomimic_frozen.errors import RobomimicFrozenError
from robomimic_frozen.evaluation.history import EPOCH_MINUTES, MEMORY, read_history, run_folders
from robomimic_frozen.features.store import METADATA
from robomimic_frozen.files import write_json
from robomimic_frozen.info import count_parameters
from robomimic_frozen.study.plan import Budget

_MOST_EPOCHS_BETWEEN_CHECKPOINTS = 5
_FEWEST_STEPS_IN_AN_EPOCH = 20
_CALIBRATION_EPOCHS, _CALIBRATION_STEPS = 4, 5
CALIBRATION = "calibration.json"


class StudyError(RobomimicFrozenError):
    """Runs of a study failed; the message names their logs."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint and what it took to get there.

    Attributes:
        file: relative to the folder of the study.
        steps: gradient steps.
        seconds: of feature extraction and of training, without loading libraries, data and rollouts.
    """

    file: str
    steps: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training run took.

    Attributes:
        checkpoints: in the order of their epochs.
        extraction_seconds: of the features of all images; 0 where pixels were read.
        seconds_per_step: data loading included.
        memory_mb: the most that the process had resident after an epoch.
        parameters, trainable: how many, what cameras share counted once.
    """

    checkpoints: tuple[Checkpoint, ...]
    extraction_seconds: float
    seconds_per_step: float
    memory_mb: float
    parameters: int
    trainable: int


def train(config: Config, budget: Budget, num_checkpoints: int, folder: Path, shared: Path) -> Training:
    """Train with `config`, which is completed here, within the budget; all goes to `folder`, last of it `folder/training.json`.

    Args:
        shared: folder of the features for all seeds and, for a budget in seconds, of what `calibrate` finds.

    Raises:
        StudyError: training failed, or the budget is too small for `num_checkpoints` steps.
    """
    if budget.seconds is not None:
        calibrate(config, shared)
    _use_features_in(shared, config)
    steps = budget.steps or _steps_within(budget.seconds or 0, shared)
    if steps < num_checkpoints:
        raise StudyError(
            f"{max(0, steps)} gradient steps fit into the budget, too few for {num_checkpoints} checkpoints "
            f"(extracting the features took {_extraction_seconds(shared):.0f} s); raise the budget"
        )
    epochs_between = min(_MOST_EPOCHS_BETWEEN_CHECKPOINTS, max(1, steps // (_FEWEST_STEPS_IN_AN_EPOCH * num_checkpoints)))
    epochs = num_checkpoints * epochs_between
    with config.values_unlocked():
        config.experiment.save.enabled = True
        config.experiment.save.every_n_epochs = epochs_between
    run = _run_train(config, epochs, max(1, round(steps / epochs)), folder)
    training = _measure(run, folder, shared)
    write_json(folder / "training.json", dataclasses.asdict(training))
    return training


def finished_training(folder: Path) -> Training | None:
    """What `train` wrote there; None if it did not come to its end."""
    if not (folder / "training.json").exists():
        return None
    content = json.loads((folder / "training.json").read_text())
    return Training(**{**content, "checkpoints": tuple(Checkpoint(**each) for each in content["checkpoints"])})


def calibrate(config: Config, shared: Path) -> None:
    """Extract the features that training with `config`, which is completed here, reads, and measure a few steps of it, unless
    `shared/calibration.json` says that this was done. Raises StudyError if training fails."""
    if (shared / CALIBRATION).exists():
        return
    _use_features_in(shared, config)
    with config.values_unlocked():
        config.experiment.save.enabled = False
    run = _run_train(config, _CALIBRATION_EPOCHS, _CALIBRATION_STEPS, shared / "calibration")
    minutes = list(read_history(run).scalars[EPOCH_MINUTES].values())[1:]  # the first epoch allocates
    write_json(shared / CALIBRATION, {"seconds_per_step": 60 * statistics.median(minutes) / _CALIBRATION_STEPS})


def _use_features_in(shared: Path, config: Config) -> None:
    if "feature_cache" in config.algo:
        with config.values_unlocked():
            config.algo.feature_cache.dir = str((shared / "features").absolute())


def _steps_within(seconds: float, shared: Path) -> int:
    """How many steps fit into the time that the extraction of the features leaves."""
    seconds_per_step = json.loads((shared / CALIBRATION).read_text())["seconds_per_step"]
    return int((seconds - _extraction_seconds(shared)) / seconds_per_step)


def _run_train(config: Config, epochs: int, steps_per_epoch: int, folder: Path) -> Path:
    """The folder of the run, in place of those that did not come to their end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with config.values_unlocked():
        config.train.output_dir = str(folder.absolute())
        config.train.num_epochs = epochs
        config.experiment.epoch_every_n_steps = steps_per_epoch
    (folder / "config.json").write_text(config.dump() + "\n")
    log = folder / "train.log"
    with log.open("w") as output:
        command = [sys.executable, "-m", "robomimic_frozen.cli", "train", "--config", str(folder / "config.json")]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT).returncode
    if code != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise StudyError(f"training failed ({' '.join(last)}); see {log}")
    (run,) = run_folders(folder)
    return run


def _measure(run: Path, folder: Path, shared: Path) -> Training:
    history = read_history(run)
    extraction, elapsed, seconds_at = _extraction_seconds(shared), 0.0, {}
    for epoch, minutes in sorted(history.scalars[EPOCH_MINUTES].items()):
        elapsed += 60 * minutes
        seconds_at[epoch] = extraction + elapsed
    steps_per_epoch = history.steps_per_epoch or 0
    by_epoch = {_epoch_of(file): file for file in checkpoints_in(run, "the run")}
    checkpoints = tuple(
        Checkpoint(str(file.relative_to(folder.parent.parent)), epoch * steps_per_epoch, seconds_at[epoch])
        for epoch, file in sorted(by_epoch.items())
    )
    model = read_checkpoint(by_epoch[max(by_epoch)], "the run")["model"]
    parameters, trainable = count_parameters(networks(model))
    return Training(
        checkpoints, extraction, elapsed / checkpoints[-1].steps, max(history.scalars[MEMORY].values()), parameters, trainable
    )


def _epoch_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("model_epoch_"))


def _extraction_seconds(shared: Path) -> float:
    return sum(json.loads(file.read_text())["seconds"] for file in (shared / "features").glob(f"*/{METADATA}"))
