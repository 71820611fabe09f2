"""Training runs, each by robomimic's train.py in a process of its own, and what they took."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel
from robomimic.config.config import Config

from robomimic_frozen.errors import RobomimicFrozenError
from robomimic_frozen.evaluation.history import EPOCH_MINUTES, MEMORY, read_history
from robomimic_frozen.features.store import METADATA
from robomimic_frozen.integration.training import STATE_FILE
from robomimic_frozen.policies.checkpoints import checkpoints_in, count_parameters, read_checkpoint
from robomimic_frozen.policies.states import networks
from robomimic_frozen.study.plan import FEWEST_STEPS_IN_AN_EPOCH, Budget
from robomimic_frozen.utils.files import write_json

_MOST_STEPS_IN_AN_EPOCH: Final = 500  # after each, the state is saved with which an interrupted run goes on
_CALIBRATION_EPOCHS, _CALIBRATION_STEPS = 4, 5


class StudyError(RobomimicFrozenError):
    """Training or rollouts failed; the message names their log."""


class Checkpoint(BaseModel):
    """A checkpoint and what it took to get there."""

    file: str  # relative to the folder of the study
    steps: int
    seconds: float  # of feature extraction and of training, without loading libraries, data and rollouts


class Training(BaseModel):
    """What a training run took."""

    checkpoints: list[Checkpoint]  # in the order of their epochs
    extraction_seconds: float  # 0 where pixels were read
    seconds_per_step: float  # data loading included
    memory_mb: float  # the most that the process had resident after an epoch
    parameters: int  # what cameras share counted once
    trainable: int


def run_stock_train(config: Config, folder: Path, interrupted: Path | None = None) -> Path:
    """Run robomimic's train.py with `config` in a process of its own, and return the folder of the run that it made.

    Config and log go to `folder`, as `config.json` and `train.log`. `interrupted` is the folder of a run with this config to go on with.

    Raises:
        StudyError: it failed; the message ends in its last line.
    """
    runs, config_file, log = Path(config.train.output_dir, config.experiment.name), folder / "config.json", folder / "train.log"
    earlier = set(runs.glob("*")) - {interrupted}
    folder.mkdir(parents=True, exist_ok=True)
    config_file.write_text(config.dump() + "\n")
    which = ["--config", str(config_file)] if interrupted is None else ["--resume", str(interrupted)]
    with log.open("w" if interrupted is None else "a") as output:
        command = [sys.executable, "-m", "robomimic_frozen.cli", "train", *which]
        code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT).returncode
    if code != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise StudyError(f"training failed ({' '.join(last)}); see {log}")
    (run,) = set(runs.glob("*")) - earlier
    return run


def train(config: Config, budget: Budget, checkpoints: int | tuple[int, ...], folder: Path, shared: Path) -> Training:
    """Train with `config`, which is completed here, within the budget, and return what it took.

    All goes to `folder`, last of it `training.json`, which says that this was done and need not be done again.

    Args:
        checkpoints: how many, or after which steps.
        shared: folder of the features for all seeds and, for a budget in seconds, of what calibration finds.

    Raises:
        StudyError: training failed, or the budget is too small for so many checkpoints.
    """
    if (folder / "training.json").exists():
        return Training.model_validate_json((folder / "training.json").read_text())
    if isinstance(checkpoints, int):
        steps = budget.steps or steps_within(budget, config, checkpoints, shared)
        epochs = math.ceil(steps / checkpoints / _MOST_STEPS_IN_AN_EPOCH)
        steps_per_epoch, saved = steps // (checkpoints * epochs), [epochs * number for number in range(1, checkpoints + 1)]
    else:
        between = math.gcd(*checkpoints)
        short = [each for each in range(FEWEST_STEPS_IN_AN_EPOCH, _MOST_STEPS_IN_AN_EPOCH + 1) if between % each == 0]
        steps_per_epoch = max(short, default=between)
        saved = [step // steps_per_epoch for step in checkpoints]
    run = _run(config, steps_per_epoch, saved, folder, shared)
    training = _measure(run, folder, shared)
    write_json(folder / "training.json", training.model_dump())
    return training


def _calibrate(config: Config, shared: Path) -> float:
    """Extract the features that training with `config`, which is completed here, reads, and return the seconds that a step of it takes.

    What `shared/calibration.json` says was measured before and is not measured again. Raises StudyError if training fails.
    """
    found = shared / "calibration.json"
    if not found.exists():
        run = _run(config, _CALIBRATION_STEPS, [], shared / "calibration", shared)
        minutes = list(read_history(run).scalars[EPOCH_MINUTES].values())[1:]  # the first epoch allocates
        write_json(found, {"seconds_per_step": 60 * statistics.median(minutes) / _CALIBRATION_STEPS})
    return json.loads(found.read_text())["seconds_per_step"]


def steps_within(budget: Budget, config: Config, checkpoints: int, shared: Path) -> int:
    """Calibrate, and return how many steps fit into a budget in seconds. Raises StudyError if there are fewer than checkpoints."""
    seconds_per_step, extraction = _calibrate(config, shared), _extraction_seconds(shared)
    assert budget.seconds is not None
    steps = max(0, int((budget.seconds - extraction) / seconds_per_step))
    if steps < checkpoints:
        raise StudyError(
            f"{steps} gradient steps fit into the budget, too few for {checkpoints} checkpoints "
            f"(extracting the features took {extraction:.0f} s, a step {seconds_per_step:.2g} s); raise the budget"
        )
    return steps


def _run(config: Config, steps_per_epoch: int, saved: Sequence[int], folder: Path, shared: Path) -> Path:
    """Return the folder of a run in `folder` that saves checkpoints after epochs of these numbers; one that was interrupted goes on."""
    with config.values_unlocked():
        config.train.output_dir = str(folder.absolute())
        config.train.num_epochs = max(saved, default=_CALIBRATION_EPOCHS)
        config.experiment.epoch_every_n_steps = steps_per_epoch
        config.experiment.save.enabled, config.experiment.save.every_n_epochs = bool(saved), None
        config.experiment.save.epochs = list(saved)
        if "feature_cache" in config.algo:
            config.algo.feature_cache.dir = str((shared / "features").absolute())
    states = folder.absolute().glob(f"{config.experiment.name}/*/{STATE_FILE}") if saved else ()
    interrupted = next((state.parent for state in states), None)
    if interrupted is None:
        shutil.rmtree(folder, ignore_errors=True)
    return run_stock_train(config, folder, interrupted)


def _measure(run: Path, folder: Path, shared: Path) -> Training:
    history, extraction = read_history(run), _extraction_seconds(shared)
    steps_per_epoch, minutes = history.steps_per_epoch or 0, history.scalars[EPOCH_MINUTES]
    by_epoch = {int(file.stem.removeprefix("model_epoch_")): file for file in map(Path, checkpoints_in(run, "the run"))}
    parameters, trainable = count_parameters(networks(read_checkpoint(by_epoch[max(by_epoch)], "the run")["model"]))
    return Training(
        checkpoints=[
            Checkpoint(
                file=str(file.relative_to(folder.parent.parent)),
                steps=epoch * steps_per_epoch,
                seconds=extraction + 60 * sum(minutes[each] for each in minutes if each <= epoch),
            )
            for epoch, file in sorted(by_epoch.items())
        ],
        extraction_seconds=extraction,
        seconds_per_step=60 * sum(minutes.values()) / (len(minutes) * steps_per_epoch),
        memory_mb=max(history.scalars[MEMORY].values()),
        parameters=parameters,
        trainable=trainable,
    )


def _extraction_seconds(shared: Path) -> float:
    return sum(json.loads(file.read_text())["seconds"] for file in (shared / "features").glob(f"*/{METADATA}"))
