"""Runs robomimic's own scripts, with our overrides before and an honest exit afterwards."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import logging
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import robomimic.utils.file_utils as FileUtils
from robomimic.config import config_factory
from robomimic.config.config import Config

from robomimic_frozen import compat, training_script
from robomimic_frozen.checkpoints import read_checkpoint
from robomimic_frozen.class_names import check_class_names
from robomimic_frozen.encoders.core import FrozenResNetCore, check_core_kwargs
from robomimic_frozen.errors import ConfigError, RobomimicFrozenError, first_line
from robomimic_frozen.executors.executor import Executor
from robomimic_frozen.executors.staging import StagingFirst
from robomimic_frozen.features import factory
from robomimic_frozen.overrides import apply_overrides, check_settings
from robomimic_frozen.preflight import check_dataset, check_output_dir
from robomimic_frozen.storage import is_url, staged

logger = logging.getLogger(__name__)


class RunFailedError(RobomimicFrozenError):
    """robomimic's training script gave up; its own message and traceback have been printed before."""


def train(config_path: str | None, algo: str | None, name: str | None, dataset: str | None, debug: bool,
          overrides: list[str], resume: Path | None = None) -> None:
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
    _stage_datasets(config)
    check_config(config)
    check_output_dir(Path(config.train.output_dir))
    if config.experiment.rollout.enabled or config.experiment.render_video:
        compat.select_gl_backend()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        resolved = Path(folder) / "config.json"
        resolved.write_text(config.dump())
        arguments = argparse.Namespace(
            config=str(resolved), algo=None, name=None, dataset=None, debug=debug, resume=resume is not None
        )
        stack.enter_context(training_script.keeping_existing_runs())
        stack.enter_context(training_script.complete_checkpoints())
        stack.enter_context(training_script.seeded_robosuite(config.train.seed))
        stack.enter_context(training_script.resumable_training(config.train.seed, resume))
        _run_stock_train(arguments)


def precompute(config_path: str | None, algo: str | None, dataset: str | None, overrides: list[str], executor: Executor) -> None:
    """Extract the features that training would begin with. Arguments as of `train`.

    Raises:
        ConfigError, DatasetError, WeightsError, CacheUnavailableError: each with what to do.
    """
    config = load_config(config_path, algo, dataset, overrides)
    urls = _stage_datasets(config)
    check_config(config)
    factory.precompute(config, StagingFirst(executor, urls))


def evaluate(arguments: list[str], overrides: list[str]) -> None:
    """Roll out a checkpoint with robomimic's `scripts/run_trained_agent.py`, given its command line.

    Raises:
        ConfigError: the checkpoint is missing or unreadable, or an override does not fit its config.
        RenderingError: no working OpenGL.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--seed", type=int)
    known, _ = parser.parse_known_args(arguments)
    read_checkpoint(Path(known.agent), "--agent")
    compat.select_gl_backend()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_overridden_checkpoints(overrides))
        if known.seed is not None:
            stack.enter_context(training_script.seeded_robosuite(known.seed))
        stack.enter_context(mock.patch.object(sys, "argv", ["run_trained_agent.py", *arguments]))
        runpy.run_module("robomimic.scripts.run_trained_agent", run_name="__main__")


def load_config(config_path: str | None, algo: str | None, dataset: str | None, overrides: list[str]) -> Config:
    """The config that `train` would run, without checking that its dataset fits. Arguments as of `train`. Raises ConfigError."""
    config = _known_config(algo or "fbc_frozen", "--algo") if config_path is None else _read_config(config_path)
    apply_overrides(config, overrides)
    check_class_names(config, "config")
    if dataset is not None:
        with config.unlocked():
            config.train.data = dataset
    return config


def _read_config(config_path: str) -> Config:
    try:
        settings = training_script.without_training_lengths(json.loads(Path(config_path).read_text()))
        config = _known_config(settings["algo_name"], config_path)
        check_settings(config, settings, f"config {config_path}")
        with config.values_unlocked():
            config.update(settings)
    except OSError as error:
        raise ConfigError(f"config {config_path} cannot be read: {error.strerror}; correct --config") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"config {config_path} is not a robomimic config in JSON ({error}); correct it") from error
    except RuntimeError as error:  # what robomimic raises for a key its config does not have
        raise ConfigError(f"config {config_path}: {error}; remove or correct that key") from error
    return config


def _known_config(algo: str, where: str) -> Config:
    from robomimic.config.base_config import get_all_registered_configs

    if algo not in get_all_registered_configs():
        raise ConfigError(f"{where}: unknown algo {algo!r}; choose from {', '.join(sorted(get_all_registered_configs()))}")
    return config_factory(algo)


def check_config(config: Config) -> None:
    """Raise ConfigError or DatasetError unless the dataset that a config names fits it, and its encoder takes its settings."""
    data = config.train.data
    if not data:
        raise ConfigError("no dataset: give one with --dataset, or make one: robomimic-frozen demos")
    _check_obs_keys(config)
    filter_keys = [key for key in (config.train.hdf5_filter_key, config.train.hdf5_validation_filter_key) if key]
    # robomimic 0.5 takes a list of datasets, each with settings of its own
    datasets = [{"path": data}] if isinstance(data, str) else data
    for entry in datasets:
        own_filter = entry.get("filter_key")
        path = Path(entry["path"]).expanduser()
        check_dataset(path, config.all_obs_keys, [own_filter] if own_filter else filter_keys)
    if config.observation.encoder.rgb.core_class == FrozenResNetCore.__name__:
        check_core_kwargs(config.observation.encoder.rgb.core_kwargs)


def _stage_datasets(config: Config) -> list[str]:
    """Put copies on this machine in the place of datasets at URLs, which are returned. Raises as `staged`."""
    data, urls = config.train.data, []

    def local(path: str) -> str:
        if not is_url(path):
            return path
        urls.append(path)
        logger.info("%s is read from a copy on this machine", path)
        return str(staged(path))

    with config.values_unlocked():
        if isinstance(data, str):
            config.train.data = local(data)
        elif data:
            config.train.data = [{**entry, "path": local(entry["path"])} for entry in data]
    return urls


def _check_obs_keys(config: Config) -> None:
    for group, modalities in config.observation.modalities.items():
        for modality, keys in modalities.items():
            if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
                where = f"observation.modalities.{group}.{modality}"
                raise ConfigError(f"{where} is {json.dumps(keys)}; give a list of obs keys, [] for none")


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


@contextlib.contextmanager
def _overridden_checkpoints(overrides: list[str]) -> Iterator[None]:
    load = FileUtils.load_dict_from_checkpoint

    def load_and_override(ckpt_path: str) -> dict[str, Any]:
        checkpoint = load(ckpt_path)
        config = config_factory(checkpoint["algo_name"], dic=json.loads(checkpoint["config"]))
        apply_overrides(config, overrides)
        checkpoint["config"] = config.dump()
        return checkpoint

    with mock.patch.object(FileUtils, "load_dict_from_checkpoint", load_and_override):
        yield
