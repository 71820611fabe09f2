"""Decides whether a training run reads features, and gives its dataset what it needs for that."""

from __future__ import annotations

import functools
import inspect
import json
import logging
from pathlib import Path
from typing import Any

import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.train_utils as TrainUtils
import torch

from robomimic_frozen import compat
from robomimic_frozen.checkpoints import find_checkpoint, read_checkpoint
from robomimic_frozen.encoders.core import FrozenResNetCore
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.executors.executor import Executor
from robomimic_frozen.features.dataset import CachedFeatureDataset
from robomimic_frozen.features.source import ImageSource
from robomimic_frozen.features.spec import Extractor
from robomimic_frozen.features.store import CachedFeatures, FeatureStore

logger = logging.getLogger(__name__)


def why_uncached(config: Any) -> str | None:
    """Why a run with this config must read pixels; None when features serve it as well."""
    if "feature_cache" not in config.algo:
        return f"{config.algo_name} reads no features; choose fbc_frozen or bc_frozen"
    if not _image_keys(config):
        return "the policy looks at no images"
    encoder = config.observation.encoder.rgb
    randomizers = encoder.obs_randomizer_class
    randomizers = randomizers if isinstance(randomizers, (list, tuple)) else [randomizers]
    if not config.algo.feature_cache.enabled:
        return "algo.feature_cache.enabled is false"
    if encoder.core_class != FrozenResNetCore.__name__:
        return f"the core {encoder.core_class} is not {FrozenResNetCore.__name__}"
    if not _encoder_is_frozen(config):
        return "the encoder is not frozen"
    if _starts_from_trained_encoder(config):
        return "algo.init_from has trained its encoder"
    if any(randomizers):
        return f"the cache cannot reproduce the randomizer {next(filter(None, randomizers))}"
    return None


def _image_keys(config: Any) -> tuple[str, ...]:
    return tuple({key for group in config.observation.modalities.values() for key in group.get("rgb", [])})


def _starts_from_trained_encoder(config: Any) -> bool:
    """Whether the frozen stages of the policy are others than those the extractor builds."""
    if not config.algo.get("init_from"):
        return False
    path = find_checkpoint(Path(config.algo.init_from), "algo.init_from")
    earlier = json.loads(read_checkpoint(path, "algo.init_from")["config"])
    earlier_kwargs = earlier["observation"]["encoder"]["rgb"]["core_kwargs"]
    return earlier_kwargs["freeze_encoder"] is not True or earlier["algo"]["init_from"] is not None


def dataset_class(config: Any, filter_key: str | None, executor: Executor | None = None) -> functools.partial | None:
    """What takes the place of SequenceDataset in a run with this config; None for nothing.

    Args:
        filter_key: of the demos the dataset is for, which tells validation from training.
        executor: of an extraction; None for this process.
    """
    if "feature_cache" not in config.algo:
        return None
    reason = why_uncached(config)
    if reason is not None:
        logger.info("training reads pixels: %s", reason)
        return None
    validating = config.experiment.validate and filter_key == config.train.hdf5_validation_filter_key
    return functools.partial(
        CachedFeatureDataset,
        get_features=functools.partial(get_features, config, executor),
        image_keys=_image_keys(config),
        obs_frames=config.algo.get("obs_steps"),
        random_crops=not validating,
        encoder_is_frozen=functools.partial(_encoder_is_frozen, config),
    )


def _encoder_is_frozen(config: Any) -> bool:
    return bool(config.observation.encoder.rgb.core_kwargs.get("freeze_encoder", True))


def get_features(config: Any, executor: Executor | None, source: ImageSource) -> CachedFeatures:
    """The features of `source` under the encoder of `config`, from the store. Raises as `FeatureStore.get`."""
    cache = config.algo.feature_cache
    extractor = Extractor.from_config(config.observation.encoder.rgb.core_kwargs, cache, source.image_shape())
    device = None if config.train.cuda else torch.device("cpu")
    return FeatureStore(cache.dir).get(source, extractor, device, executor)


def precompute(config: Any, executor: Executor | None = None) -> None:
    """Extract now what training with `config` would extract first. Raises ConfigError if it would not read features."""
    reason = why_uncached(config)
    if reason is not None:
        raise ConfigError(f"there are no features to precompute: {reason}")
    ObsUtils.initialize_obs_utils_with_config(config)
    compat.list_the_dataset(config)
    filter_keys = [config.train.hdf5_filter_key]
    if config.experiment.validate:
        filter_keys.append(config.train.hdf5_validation_filter_key)
    for filter_key in filter_keys:
        replacement = dataset_class(config, filter_key, executor)
        assert replacement is not None  # there is no reason against it
        with compat.in_place_of_sequence_dataset(replacement):
            inspect.unwrap(TrainUtils.dataset_factory)(config, config.all_obs_keys, filter_key)
