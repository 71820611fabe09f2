"""Bridges to robomimic's train.py and the versions of it, one named function each, with its reason. Others are in `compat`."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from robomimic_frozen.files import complete_or_absent


@contextlib.contextmanager
def seeded_robosuite(seed: int) -> Iterator[None]:
    """Within it, new robosuite environments repeat the same sequence of initial states.

    robosuite 1.5 draws from a generator of its own, seeded only by `robosuite.make(seed=...)`; numpy's global seed,
    which robomimic's `--seed` sets, does not reach it.
    """
    import robosuite

    make = functools.partial(robosuite.make, seed=seed)
    with mock.patch.object(robosuite, "make", make):
        yield


@contextlib.contextmanager
def keeping_existing_runs() -> Iterator[None]:
    """Within it, robomimic adds a run beside the existing ones instead of asking on stdin whether to delete them."""
    with mock.patch("builtins.input", return_value="n"):
        yield


@contextlib.contextmanager
def complete_checkpoints() -> Iterator[None]:
    """Within it, a checkpoint is complete or absent whenever the process is killed; robomimic writes it in place."""
    import torch

    save = torch.save

    def save_beside(content, file, *args, **kwargs):
        if not isinstance(file, str):  # robomimic's are
            return save(content, file, *args, **kwargs)
        with complete_or_absent(Path(file)) as beside:
            save(content, beside, *args, **kwargs)

    with mock.patch.object(torch, "save", save_beside):
        yield


def without_training_lengths(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run's config.json as its train.py got them: that of robomimic 0.5 adds two to each optimizer's, which its
    configs do not take."""
    optimizers = settings["algo"].get("optim_params", {}) if isinstance(settings.get("algo"), dict) else {}
    for optimizer in optimizers.values() if isinstance(optimizers, dict) else ():
        if isinstance(optimizer, dict):
            for key in ("num_train_batches", "num_epochs"):
                optimizer.pop(key, None)
    return settings


@contextlib.contextmanager
def resumable_training(seed: int, resume_from: Path | None) -> Iterator[None]:
    """Within it, robomimic's train.py saves the state of its run after each epoch, and goes on with that of `resume_from`.

    robomimic 0.5 does both itself. Before it, the loop over epochs can only be entered through what the script calls by name:
    the function that makes its folders, the one that makes the model, and `range`, which it uses for nothing else.
    """
    import robomimic.scripts.train as script

    from robomimic_frozen.checkpoints import read_checkpoint
    from robomimic_frozen.resume import ResumableEpochs

    if "resume" in inspect.signature(script.train).parameters:
        with contextlib.ExitStack() as stack:
            if resume_from is not None:
                # It would execute what a malicious file says, and take the newest run beside the one that was asked for.
                read_checkpoint(resume_from / "last.pth", "--resume")
                folders = *(str(resume_from / name) for name in ("logs", "models", "videos")), str(resume_from)
                stack.enter_context(mock.patch.object(script.TrainUtils, "get_exp_dir", return_value=folders))
            yield
        return
    epochs = ResumableEpochs(seed, resume_from)
    make_folders, make_model = script.TrainUtils.get_exp_dir, script.algo_factory

    def get_exp_dir(*args, **kwargs):
        if resume_from is not None:
            return tuple(str(resume_from / name) for name in ("logs", "models", "videos"))
        folders = make_folders(*args, **kwargs)
        epochs.run_dir = Path(folders[0]).parent
        return folders

    def algo_factory(*args, **kwargs):
        epochs.model = make_model(*args, **kwargs)
        return epochs.model

    with (
        mock.patch.object(script.TrainUtils, "get_exp_dir", get_exp_dir),
        mock.patch.object(script, "algo_factory", algo_factory),
        mock.patch.object(script, "range", epochs, create=True),
    ):
        yield
