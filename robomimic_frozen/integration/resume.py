"""Training runs that go on where they were interrupted, on a robomimic that cannot do so itself (before 0.5)."""

from __future__ import annotations

import builtins
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.policies.checkpoints import read_archive
from robomimic_frozen.utils.files import atomic_write

STATE_FILE = "resume.pth"
_SEEDS_OF_A_RUN = 100_003


class ResumableEpochs:
    """Takes the place of `range` over the epochs of robomimic's training loop; saves the state of the run after each.

    The state is networks, averages, optimizers and schedules. Random numbers need no saving: each epoch draws its own from
    the seed of the run and its number, so that rollouts, which may take longer or shorter, do not shift them either. An
    interrupted run ends in the same weights as an uninterrupted one (on a CPU; GPU kernels need not repeat themselves).

    Attributes:
        run_dir: folder of the run, in which the state is kept. To be set before the first epoch, as is `model`.
        model: the robomimic algo that is trained.

    Args:
        seed: of the run.
        resume_from: folder of the run to go on with, or None.

    Raises:
        ConfigError: there is nothing to resume in that folder, or its state cannot be read.
    """

    def __init__(self, seed: int, resume_from: Path | None) -> None:
        self.seed = seed
        self.run_dir: Path = resume_from or Path()
        self.model: Any = None
        self._state = None if resume_from is None else _read(resume_from / STATE_FILE)

    def __call__(self, first: int, stop: int) -> Iterator[int]:
        if self._state is not None:
            _restore(self.model, self._state)
            first = self._state["epoch"] + 1
        for epoch in builtins.range(first, stop):
            self._seed(epoch)
            yield epoch
            _save(self.run_dir / STATE_FILE, {"epoch": epoch, **_state_of(self.model)})

    def _seed(self, epoch: int) -> None:
        seed = (self.seed * _SEEDS_OF_A_RUN + epoch) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)


def _state_of(model: Any) -> dict[str, Any]:
    return {
        "nets": model.nets.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in model.optimizers.items()},
        "lr_schedulers": {name: scheduler.state_dict() for name, scheduler in model.lr_schedulers.items() if scheduler},
    }


def _restore(model: Any, state: dict[str, Any]) -> None:
    model.on_epoch_end(state["epoch"])  # what this changed in the model (say, what is frozen) has to be changed again
    model.nets.load_state_dict(state["nets"])
    for name, optimizer in model.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    for name, scheduler in state["lr_schedulers"].items():
        model.lr_schedulers[name].load_state_dict(scheduler)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(
            f"nothing to resume: {path} does not exist; give the folder of a run of `robomimic-frozen train`, the one with "
            "config.json in it, after its first epoch"
        )
    try:
        return read_archive(path)
    except Exception as error:  # a damaged archive or pickle raises almost anything
        raise ConfigError(f"{path} cannot be read ({first_line(error)}); train again from the start") from error


def _save(path: Path, state: dict[str, Any]) -> None:
    with atomic_write(path) as beside:
        torch.save(state, beside)
