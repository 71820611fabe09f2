"""Runs robomimic's own train.py in this process, with our overrides before it, patches around it and an honest exit afterwards."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import functools
import importlib
import inspect
import logging
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest import mock

import h5py
import numpy as np
import torch
from robomimic.config.config import Config
from robomimic.utils.dataset import SequenceDataset

from robomimic_frozen.config import datasets_of, place_in
from robomimic_frozen.errors import ConfigError, RobomimicFrozenError, first_line
from robomimic_frozen.features.source import demos_in
from robomimic_frozen.integration.cached_training import precompute as precompute_features
from robomimic_frozen.integration.checks import check_config, check_wandb
from robomimic_frozen.integration.environments import check_rollouts
from robomimic_frozen.integration.settings import load_config
from robomimic_frozen.integration.versions import check_language
from robomimic_frozen.policies.checkpoints import read_archive, read_checkpoint
from robomimic_frozen.simulation.gl import select_gl_backend
from robomimic_frozen.simulation.tasks import seeded_robosuite
from robomimic_frozen.utils.files import atomic_write, require_writable
from robomimic_frozen.utils.parallel import Executor
from robomimic_frozen.utils.urls import is_url, local_path

logger = logging.getLogger(__name__)

STATE_FILE = "resume.pth"
_SEEDS_OF_A_RUN = 100_003
_PATHS: Final = (
    "train.output_dir", "experiment.ckpt_path", "algo.init_from", "algo.feature_cache.dir", "observation.encoder.rgb.core_kwargs.weights",
)  # fmt: skip


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
    _resolve_paths(config)
    _check(config)
    check_language(config, datasets_of(config))
    check_wandb(config)
    require_writable(resume or Path(config.train.output_dir))
    if config.experiment.rollout.enabled:
        select_gl_backend()
    check_rollouts(config)
    with (
        tempfile.TemporaryDirectory() as folder,
        # robomimic asks on stdin whether to delete existing runs; without that it adds the new one beside them.
        mock.patch("builtins.input", return_value="n"),
        mock.patch.object(torch, "save", _atomic_save(torch.save)),
        # Pickled for data workers that are spawned; robomimic 0.5 leaves its file open, which cannot be.
        mock.patch.object(SequenceDataset, "__getstate__", lambda dataset: {**dataset.__dict__, "_hdf5_file": None}, create=True),
        seeded_robosuite(config.train.seed),
        resumable_training(config.train.seed, resume),
        shapes_of_chosen_demos(config),
    ):
        resolved = Path(folder) / "config.json"
        resolved.write_text(config.dump())
        resuming = resume is not None
        _run_stock_train(argparse.Namespace(config=str(resolved), algo=None, name=None, dataset=None, debug=debug, resume=resuming))


def precompute(config_path: str | None, algo: str | None, dataset: str | None, overrides: list[str], executor: Executor) -> None:
    """Extract the features that training would begin with. Arguments as of `train`.

    Raises:
        ConfigError, DatasetError, WeightsError, CacheUnavailableError: each with what to do.
    """
    config = load_config(config_path, algo, dataset, overrides)
    _check(config)
    precompute_features(config, executor)


def _check(config: Config) -> None:
    for doubt in check_config(config):
        logger.warning(doubt)


def _resolve_paths(config: Config) -> None:
    """Make paths absolute, for the config is saved with the run and read again in another folder.

    In the place of datasets at URLs come copies on this machine, for robomimic opens them itself. Raises as `local_path`.
    """
    with config.values_unlocked():
        if isinstance(config.train.data, str):
            config.train.data = _absolute(local_path(config.train.data))
        elif config.train.data:
            config.train.data = [{**entry, "path": _absolute(local_path(entry["path"]))} for entry in datasets_of(config)]
        for path in _PATHS:
            section, key = place_in(config, path)
            value = section.get(key)
            if isinstance(value, str) and not is_url(value):
                section[key] = _absolute(Path(value))


def _absolute(path: Path) -> str:
    return str(path.expanduser().absolute())


def _atomic_save(save: Callable[..., None]) -> Callable[..., None]:
    """Make checkpoints complete or absent whenever the process is killed; robomimic writes them in place."""

    def save_beside(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if not isinstance(file, str):  # robomimic's are
            return save(content, file, *args, **kwargs)
        with atomic_write(Path(file)) as beside:
            save(content, beside, *args, **kwargs)

    return save_beside


def _run_stock_train(arguments: argparse.Namespace) -> None:
    script = importlib.import_module("robomimic.scripts.train")
    stock_train, failures = script.train, []

    def recorded(*args: Any, **kwargs: Any) -> None:
        try:
            stock_train(*args, **kwargs)
        except RobomimicFrozenError as error:
            # Not an Exception, so it passes through stock's `except`, which would print a traceback around our line.
            raise _Stop(error) from error
        except Exception as error:
            failures.append(error)
            raise

    set_threads, most_threads = torch.set_num_threads, torch.get_num_threads()
    with (
        # Stock leaves its log file in the place of both.
        contextlib.redirect_stdout(sys.stdout),
        contextlib.redirect_stderr(sys.stderr),
        mock.patch.object(script, "train", recorded),
        # It sets two. Runs that share cores and have OMP_NUM_THREADS=1 would wait for each other's threads.
        mock.patch.object(torch, "set_num_threads", lambda number: set_threads(min(number, most_threads))),
    ):
        try:
            script.main(arguments)
        except _Stop as stop:
            raise stop.error from None
    if failures:
        raise RunFailedError(f"the run failed: {first_line(failures[0])}; the traceback is above")


class _Stop(BaseException):
    def __init__(self, error: RobomimicFrozenError) -> None:
        self.error = error


@contextlib.contextmanager
def resumable_training(seed: int, resume_from: Path | None) -> Iterator[None]:
    """Make robomimic's train.py save the state of its run after each epoch, and go on with that of `resume_from`.

    robomimic 0.5 does both itself, but for the random numbers. Before it, the loop over epochs can only be entered through what the
    script calls by name: the function that makes its folders, the one that makes the model, and `range`, which it uses for nothing else.

    Raises:
        ConfigError: there is nothing to resume in that folder, or its state cannot be read.
    """
    import robomimic.scripts.train as script

    folders_of_run = tuple(str(resume_from / name) for name in ("logs", "models", "videos")) if resume_from is not None else ()
    if "resume" in inspect.signature(script.train).parameters:
        with contextlib.ExitStack() as patches:
            patches.enter_context(mock.patch.object(script, "range", functools.partial(_seeded_range, seed), create=True))
            if resume_from is not None:
                # It would execute what a malicious file says, and take the newest run beside the one that was asked for.
                checkpoint, folders = _last_checkpoint(resume_from), (*folders_of_run, str(resume_from))
                patches.enter_context(mock.patch.object(script.FileUtils, "load_dict_from_checkpoint", return_value=checkpoint))
                patches.enter_context(mock.patch.object(script.TrainUtils, "get_exp_dir", return_value=folders))
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


@contextlib.contextmanager
def shapes_of_chosen_demos(config: Config) -> Iterator[None]:
    """Make robomimic's train.py learn the shapes of observations and actions from the first demo that it trains on.

    It looks at the first one of the file, which the filter key may have left out because it is not what the others are.
    """
    import robomimic.utils.file_utils as FileUtils

    stock = FileUtils.get_shape_metadata_from_dataset

    def get_shape_metadata_from_dataset(**arguments: Any) -> Any:
        # robomimic 0.5 hands over an entry of train.data, earlier versions a path.
        entry = arguments.get("dataset_config", {"path": arguments.get("dataset_path")})
        path = Path(entry["path"]).expanduser().absolute()
        demo = demos_in(path, entry.get("filter_key", config.train.hdf5_filter_key))[0]
        with tempfile.TemporaryDirectory() as folder:
            of_one = f"{folder}/{path.name}"
            with h5py.File(of_one, "w") as file:
                file[f"data/{demo}"] = h5py.ExternalLink(str(path), f"/data/{demo}")
            place = {"dataset_config": {**entry, "path": of_one}} if "dataset_config" in arguments else {"dataset_path": of_one}
            return stock(**{**arguments, **place})

    with mock.patch.object(FileUtils, "get_shape_metadata_from_dataset", get_shape_metadata_from_dataset):
        yield


class ResumableEpochs:
    """Takes the place of `range` over the epochs of robomimic's training loop; saves the state of the run after each.

    The state is networks, averages, optimizers and schedules. Random numbers need no saving: each epoch draws its own from
    the seed of the run and its number, so that rollouts, which may take longer or shorter, do not shift them either. An
    interrupted run ends in the same weights as an uninterrupted one (on a CPU; GPU kernels need not repeat themselves).

    Attributes:
        run_dir: folder of the run, in which the state is kept. To be set before the first epoch, as is `model`.
        model: the robomimic algo that is trained.
    """

    def __init__(self, seed: int, resume_from: Path | None) -> None:
        self.seed = seed
        self.run_dir: Path = resume_from or Path()
        self.model: Any = None
        self._state = _read_state(resume_from / STATE_FILE) if resume_from is not None else None

    def __call__(self, first: int, stop: int) -> Iterator[int]:
        if self._state is not None:
            _restore(self.model, self._state)
            first = self._state["epoch"] + 1
        for epoch in _seeded_range(self.seed, first, stop):
            yield epoch
            with atomic_write(self.run_dir / STATE_FILE) as beside:
                torch.save({"epoch": epoch, **_state_of(self.model)}, beside)


def _seeded_range(seed: int, *bounds: int) -> Iterator[int]:
    """Yield what `range` does; where that has a first number, as the epochs have, with random numbers that follow from each."""
    for number in builtins.range(*bounds):
        if len(bounds) > 1:
            seed_of_epoch = (seed * _SEEDS_OF_A_RUN + number) % 2**32
            random.seed(seed_of_epoch)
            np.random.seed(seed_of_epoch)
            torch.manual_seed(seed_of_epoch)
        yield number


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


def _last_checkpoint(run: Path) -> dict[str, Any]:
    """Return what robomimic 0.5 saved last in the folder of a run, or where it was killed while it did, the backup."""
    last, backup = run / "last.pth", run / "last_bak.pth"
    if not backup.is_file():
        _require_state(last)
        return read_checkpoint(last, "--resume")
    try:
        return read_checkpoint(last, "--resume")
    except ConfigError as error:
        checkpoint = read_checkpoint(backup, "--resume")
        logger.warning("%s; going on after epoch %s, from %s", str(error).partition(";")[0], checkpoint["variable_state"]["epoch"], backup)
        return checkpoint


def _require_state(path: Path) -> None:
    if not path.is_file():
        remedy = "give the folder of a run of `robomimic-frozen train`, the one with config.json in it, after its first epoch"
        raise ConfigError(f"nothing to resume: {path} does not exist; {remedy}")


def _read_state(path: Path) -> dict[str, Any]:
    _require_state(path)
    try:
        return read_archive(path)
    except Exception as error:  # a damaged archive or pickle raises almost anything
        raise ConfigError(f"{path} cannot be read ({first_line(error)}); train again from the start") from error
