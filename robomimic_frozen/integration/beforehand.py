"""What is looked at before a run that would not stop it from training: the environments it rolls out in, and how large actions are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
from robomimic.config.config import Config

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.features.source import demos_in
from robomimic_frozen.integration.settings import datasets_of
from robomimic_frozen.simulation.environments import check_can_be_made, check_complete, environment_of
from robomimic_frozen.utils import hdf5

logger = logging.getLogger(__name__)


def check_rollouts(config: Config) -> None:
    """Raise unless robomimic can make the environments that a run would roll out in, and they show the images that it looks at.

    Raises:
        ConfigError: `experiment.additional_envs` is no list of names.
        DatasetError: with what is wrong with the environment, and what to do.
    """
    if not config.experiment.rollout.enabled:
        return
    image_keys = [key for group in config.observation.modalities.values() for key in group.get("rgb", ())]
    for path, metadata in _environments(config):
        check_complete(path, "env_args", metadata)
        check_can_be_made(path, "env_args", metadata, image_keys)


def _environments(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield dataset and metadata of each environment that robomimic's train.py makes."""
    experiment, update = config.experiment, config.experiment.get("env_meta_update_dict")  # which robomimic 0.3 does not have
    others = experiment.additional_envs or []
    if not isinstance(others, list) or not all(isinstance(name, str) for name in others):
        raise ConfigError(f"experiment.additional_envs is {others!r}; give a list of names, or null")
    for index, entry in enumerate(datasets_of(config)):
        if index and experiment.env is not None:
            return
        with hdf5.opened(entry["path"]) as file:
            metadata = environment_of(file)
        if update:
            from robomimic.utils.python_utils import deep_update

            deep_update(metadata, deepcopy(update))
        if experiment.env is not None:
            metadata["env_name"] = experiment.env
        if entry.get("eval", True):
            yield entry["path"], metadata
            yield from ((entry["path"], {**metadata, "env_name": name}) for name in (others if index == 0 else ()))


def warn_of_large_actions(config: Config) -> None:
    """Log a warning for each array of actions that leaves [-1, 1] and that training takes as it is. Raises as `demos_in`."""
    train = config.train
    for entry in datasets_of(config):
        demos = demos_in(entry["path"], entry.get("filter_key") or train.hdf5_filter_key)
        # robomimic 0.3 has neither setting.
        normalized, keys = train.get("action_config") or {}, train.get("action_keys") or ["actions"]
        for key in [key for key in keys if not normalized.get(key, {}).get("normalization")]:
            with hdf5.opened(entry["path"]) as file:
                arrays = [hdf5.array_in(hdf5.group_in(file["data"], demo), key) for demo in demos]
                extremes = [(block.min(), block.max()) for array in arrays for block in hdf5.blocks(array)]
            low, high = np.min(extremes), np.max(extremes)
            if low < -1 or high > 1:
                logger.warning(
                    "dataset %s: %s are from %.4g to %.4g, and robosuite clips them to [-1, 1], for which robomimic's policies are made; "
                    "scale them, or have robomimic do it (train.action_config)", entry["path"], key, low, high,
                )  # fmt: skip
