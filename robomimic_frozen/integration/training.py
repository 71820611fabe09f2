"""Runs robomimic's own train.py in this process, with our overrides before it, patches around it and an honest exit afterwards."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from robomimic.config.config import Config

from robomimic_frozen.errors import ConfigError, RobomimicFrozenError, first_line
from robomimic_frozen.integration.cached_training import precompute as precompute_features
from robomimic_frozen.integration.resume import ResumableEpochs
from robomimic_frozen.integration.settings import check_config, datasets_of, load_config
from robomimic_frozen.policies.checkpoints import read_checkpoint
from robomimic_frozen.simulation.gl import select_gl_backend
from robomimic_frozen.simulation.tasks import seeded_robosuite
from robomimic_frozen.utils.files import atomic_write, require_writable
from robomimic_frozen.utils.parallel import Executor
from robomimic_frozen.utils.urls import local_path


class RunFailedError(RobomimicFrozenError):
    """robomimic's training script gave up; its own message and traceback have been printed before."""


def train(
    config_path: str | None, algo: str | None, name: str | None, dataset: str | None, debug: bool, overrides: list[str],
    resume: Path | None = None,
) -> None:  # fmt: skip
    """Train with robomimic's `scripts/train.py`. Arguments as on its command line.

    Relative paths are relative to the current folder. Existing runs are kept.

    Args:
        resume: folder of an interrupted run to go on with, in the place of `config_path`.

    Raises:
        ConfigError, DatasetError, WeightsError, RenderingError: before or while training, each with what to do.
        RunFailedError: any other failure.
    """
    if resume is not None:
        config_path = str(resume / "config.json")
    config = load_config(config_path, algo, dataset, overrides)
    with config.unlocked():
        if name is not None:
            config.experiment.name = name
        if not config.train.output_dir:
            raise ConfigError("train.output_dir is not set; give a folder for results")
        config.train.output_dir = str(Path(config.train.output_dir).expanduser().absolute())
    _fetch_datasets(config)
    check_config(config)
    require_writable(Path(config.train.output_dir))
    if config.experiment.rollout.enabled or config.experiment.render_video:
        select_gl_backend()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        resolved = Path(folder) / "config.json"
        resolved.write_text(config.dump())
        arguments = argparse.Namespace(config=str(resolved), algo=None, name=None, dataset=None, debug=debug, resume=resume is not None)
        stack.enter_context(_keeping_existing_runs())
        stack.enter_context(_atomic_checkpoints())
        stack.enter_context(seeded_robosuite(config.train.seed))
        stack.enter_context(resumable_training(config.train.seed, resume))
        _run_stock_train(arguments)


def precompute(config_path: str | None, algo: str | None, dataset: str | None, overrides: list[str], executor: Executor) -> None:
    """Extract the features that training would begin with. Arguments as of `train`.

    Raises:
        ConfigError, DatasetError, WeightsError, CacheUnavailableError: each with what to do.
    """
    config = load_config(config_path, algo, dataset, overrides)
    check_config(config)
    precompute_features(config, executor)


def _fetch_datasets(config: Config) -> None:
    """Put copies on this machine in the place of datasets at URLs, for robomimic opens them itself. Raises as `local_path`."""
    with config.values_unlocked():
        if isinstance(config.train.data, str):
            config.train.data = str(local_path(config.train.data))
        elif config.train.data:
            config.train.data = [{**entry, "path": str(local_path(entry["path"]))} for entry in datasets_of(config)]


def _run_stock_train(arguments: argparse.Namespace) -> None:
    script = importlib.import_module("robomimic.scripts.train")
    stock_train, failures = script.train, []

    def recording_train(*args: Any, **kwargs: Any) -> None:
        try:
            stock_train(*args, **kwargs)
        except RobomimicFrozenError as error:
            # Not an Exception, so it passes through stock's `except`, which would print a traceback around our line.
            raise _Stop(error) from error
        except Exception as error:
            failures.append(error)
            raise

    stdout, stderr = sys.stdout, sys.stderr
    try:
        with mock.patch.object(script, "train", recording_train):
            script.main(arguments)
    except _Stop as stop:
        raise stop.error from None
    finally:
        sys.stdout, sys.stderr = stdout, stderr  # stock leaves its log file in their place
    if failures:
        raise RunFailedError(f"the run failed: {first_line(failures[0])}; the traceback is above")


class _Stop(BaseException):
    def __init__(self, error: RobomimicFrozenError) -> None:
        self.error = error


def _keeping_existing_runs() -> contextlib.AbstractContextManager:
    """Make robomimic add a run beside the existing ones instead of asking on stdin whether to delete them."""
    return mock.patch("builtins.input", return_value="n")


def _atomic_checkpoints() -> contextlib.AbstractContextManager:
    """Make checkpoints complete or absent whenever the process is killed; robomimic writes them in place."""
    save = torch.save

    def save_beside(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(file, str):  # robomimic's are
            return save(content, file, *args, **kwargs)
        with atomic_write(Path(file)) as beside:
            save(content, beside, *args, **kwargs)

    return mock.patch.object(torch, "save", save_beside)


@contextlib.contextmanager
def resumable_training(seed: int, resume_from: Path | None) -> Iterator[None]:
    """Make robomimic's train.py save the state of its run after each epoch, and go on with that of `resume_from`.

    robomimic 0.5 does both itself. Before it, the loop over epochs can only be entered through what the script calls by name:
    the function that makes its folders, the one that makes the model, and `range`, which it uses for nothing else.
    """
    import robomimic.scripts.train as script

    folders_of_run = tuple(str(resume_from / name) for name in ("logs", "models", "videos")) if resume_from is not None else ()
    if "resume" in inspect.signature(script.train).parameters:
        with contextlib.ExitStack() as stack:
            if resume_from is not None:
                # It would execute what a malicious file says, and take the newest run beside the one that was asked for.
                read_checkpoint(resume_from / "last.pth", "--resume")
                folders = *folders_of_run, str(resume_from)
                stack.enter_context(mock.patch.object(script.TrainUtils, "get_exp_dir", return_value=folders))
            yield
        return
    epochs = ResumableEpochs(seed, resume_from)
    make_folders, make_model = script.TrainUtils.get_exp_dir, script.algo_factory

    def get_exp_dir(*args: Any, **kwargs: Any) -> tuple[str, ...]:
        folders = folders_of_run or make_folders(*args, **kwargs)
        epochs.run_dir = Path(folders[0]).parent
        return folders

    def algo_factory(*args: Any, **kwargs: Any) -> Any:
        epochs.model = make_model(*args, **kwargs)
        return epochs.model

    with (
        mock.patch.object(script.TrainUtils, "get_exp_dir", get_exp_dir),
        mock.patch.object(script, "algo_factory", algo_factory),
        mock.patch.object(script, "range", epochs, create=True),
    ):
        yield
