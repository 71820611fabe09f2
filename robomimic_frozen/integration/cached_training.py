"""Decides whether a training run reads features, and makes its dataset of them."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import robomimic.utils.torch_utils as TorchUtils
import torch
from robomimic.utils.dataset import SequenceDataset

from robomimic_frozen.config import Selection, selections
from robomimic_frozen.encoders.core import FrozenResNetCore
from robomimic_frozen.encoders.spec import EncoderSpec, of_key, settings_in
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.features.dataset import ActionKeysDataset, CachedFeatureDataset
from robomimic_frozen.features.int8 import Int8Features
from robomimic_frozen.features.source import ImageSource, check_dataset
from robomimic_frozen.features.store import ensure_features
from robomimic_frozen.integration.checks import image_keys, needs_of, randomizers_of, splits_of
from robomimic_frozen.policies.checkpoints import find_checkpoint, read_checkpoint
from robomimic_frozen.utils.parallel import Executor
from robomimic_frozen.utils.urls import is_url

logger = logging.getLogger(__name__)

CACHED_RANDOMIZERS: Final = ("ColorRandomizer", "GaussianNoiseRandomizer")
"""robomimic's randomizers that leave the size of images alone, so that images which passed one can be cached."""


def why_uncached(config: Any) -> str | None:
    """Return why a run with this config must read pixels; None when features serve it as well."""
    if "feature_cache" not in config.algo:
        return f"{config.algo_name} reads no features; choose fbc_frozen or bc_frozen"
    if not image_keys(config):
        return "the policy looks at no images"
    encoder = config.observation.encoder.rgb
    if not config.algo.feature_cache.enabled:
        return "algo.feature_cache.enabled is false"
    if encoder.core_class != FrozenResNetCore.__name__:
        return f"the core {encoder.core_class} is not {FrozenResNetCore.__name__}"
    if not _EncoderIsFrozen(encoder)():
        return "the encoder is not frozen"
    if _starts_from_trained_encoder(config):
        return "algo.init_from has trained its encoder"
    for name, given in randomizers_of(encoder):
        if name not in CACHED_RANDOMIZERS or given.get("num_samples", 1) != 1:
            return f"the cache cannot reproduce the randomizer {name}{' with its num_samples' if name in CACHED_RANDOMIZERS else ''}"
        if not config.algo.feature_cache.cached_crops:
            return f"algo.feature_cache.cached_crops is 0, which leaves nothing for the randomizer {name}"
    return None


class _EncoderIsFrozen:
    """Tells whether the encoder is still frozen; a data worker that is spawned is sent the present answer, for no Config can be pickled."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def __call__(self) -> bool:
        return all(each.get("freeze_encoder", EncoderSpec.freeze_encoder) for each in settings_in(self._encoder.core_kwargs))

    def __reduce__(self) -> Any:
        return functools.partial, (bool, self())


def _starts_from_trained_encoder(config: Any) -> bool:
    """Return whether the frozen stages of the policy are others than those that its spec builds."""
    if not config.algo.get("init_from"):
        return False
    path = find_checkpoint(config.algo.init_from, "algo.init_from")
    earlier = json.loads(read_checkpoint(path, "algo.init_from")["config"])
    settings = settings_in(earlier["observation"]["encoder"]["rgb"]["core_kwargs"])
    return any(each["freeze_encoder"] is not True for each in settings) or earlier["algo"]["init_from"] is not None


def feature_dataset_maker(config: Any, filter_key: str | None) -> Callable[..., SequenceDataset] | None:
    """Return what makes datasets of features, of the demos of `filter_key`, in the place of SequenceDataset; None where pixels are read."""
    # Whole batches are gathered without images, too, in a hundredth of the time that robomimic takes for single sequences.
    reason = why_uncached(config) if image_keys(config) else None
    if reason is not None:
        logger.info("training reads pixels: %s", reason)
        return None
    validating = config.experiment.validate and filter_key == config.train.hdf5_validation_filter_key
    return functools.partial(_make_dataset, config, not validating)


def pixel_dataset_maker(config: Any) -> Callable[..., SequenceDataset]:
    """Return what makes datasets of images in the place of SequenceDataset."""
    return lambda *args, **kwargs: ActionKeysDataset(*args, **_as_stored(config, kwargs))


def _as_stored(config: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Have actions served as they are stored; the algorithm normalises them, with numbers that its checkpoints keep."""
    served = {name: value for name, value in kwargs.items() if name != "action_config"}
    return {**served, "action_keys": config.train.action_keys, "obs_frames": config.algo.get("obs_steps")}


def _make_dataset(
    config: Any, random_crops: bool, hdf5_path: str, obs_keys: Sequence[str], *args: Any, filter_by_attribute: str | None = None,
    demo_limit: int | None = None, load_next_obs: bool = True, **kwargs: Any,
) -> SequenceDataset:  # fmt: skip
    limit = {} if demo_limit is None else {"demo_limit": demo_limit}  # which robomimic 0.3 does not know
    kwargs = {**_as_stored(config, kwargs), **limit, "filter_by_attribute": filter_by_attribute, "load_next_obs": load_next_obs}
    return CachedFeatureDataset(
        hdf5_path, obs_keys, *args, **kwargs,
        features=_features(config, Selection(hdf5_path, filter_by_attribute, demo_limit), obs_keys, load_next_obs),
        random_crops=random_crops,
        encoder_is_frozen=_EncoderIsFrozen(config.observation.encoder.rgb),
        device=_device_of_training(config),
    )  # fmt: skip


def _device_of_training(config: Any) -> torch.device | None:
    """Return the GPU that robomimic trains on; None where it trains on the CPU, or data workers hand over batches in memory."""
    device = TorchUtils.get_torch_device(try_to_use_cuda=config.train.cuda)
    return device if device.type == "cuda" and not config.train.num_data_workers else None


def _features(
    config: Any, selection: Selection, obs_keys: Sequence[str], next_obs: bool, executor: Executor | None = None
) -> dict[str, np.ndarray | Int8Features]:
    """Return 'obs/<obs key>' or 'next_obs/<obs key>' -> features under the encoder of `config`. Raises as `ensure_features`."""
    place = selection.path if is_url(selection.path) else Path(selection.path).expanduser().absolute()
    demos, images = tuple(check_dataset(selection, needs_of(config)).steps), image_keys(config)
    groups = ("obs", "next_obs") if next_obs else ("obs",)
    cache, core_kwargs = config.algo.feature_cache, config.observation.encoder.rgb.core_kwargs
    device = None if config.train.cuda else torch.device("cpu")
    randomizers, features = randomizers_of(config.observation.encoder.rgb), {}
    for source in (ImageSource(place, demos, f"{group}/{key}") for group in groups for key in obs_keys if key in images):
        settings = of_key(core_kwargs, source.key.partition("/")[2])
        spec = EncoderSpec.from_core_kwargs(settings, source.image_shape(), cache, randomizers)
        features[source.key] = ensure_features(spec, source, executor, cache.dir, device).features
    return features


def precompute(config: Any, executor: Executor | None = None) -> None:
    """Extract now what training with `config` would extract first. Raises ConfigError if it would not read features."""
    reason = why_uncached(config)
    if reason is not None:
        raise ConfigError(f"there are no features to precompute: {reason}")
    for filter_key in splits_of(config).values():
        for selection in selections(config, filter_key):
            _features(config, selection, config.all_obs_keys, config.train.hdf5_load_next_obs, executor)
