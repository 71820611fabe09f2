"""Every patch of robomimic that stays while a process runs, one named function each, with its reason."""

from __future__ import annotations

import functools
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from robomimic_frozen.errors import CacheUnavailableError, ConfigError

logger = logging.getLogger(__name__)


def _in_place_of(owner: Any, name: str) -> Callable[[Callable[..., Any]], None]:
    """Put the decorated function, once, in the place of one of robomimic's, which is its first argument.

    A module that is importing robomimic.algo just now does not have it yet; _autoload calls for the patch again when it is done.
    """
    original = getattr(owner, name, None)

    def patch(function: Callable[..., Any]) -> None:
        if original is not None and not hasattr(original, "__wrapped__"):

            @functools.wraps(original)
            def replacement(*args: Any, **kwargs: Any) -> Any:
                return function(original, *args, **kwargs)

            setattr(owner, name, replacement)

    return patch


def restore_without_weights_files() -> None:
    """Let `policy_from_checkpoint` work where the ImageNet weights are not at hand, and refuse damaged checkpoints.

    robomimic builds the network first and copies the checkpoint into it afterwards, so the encoder cannot know that
    its pretrained weights are about to be replaced. torch does not look at the checksums it writes.
    """
    import robomimic.utils.file_utils as FileUtils

    @_in_place_of(FileUtils, "policy_from_checkpoint")
    def policy_from_checkpoint(original, device=None, ckpt_path=None, *args, **kwargs):
        from robomimic_frozen.encoders.weights import restoring_checkpoint
        from robomimic_frozen.policies.checkpoints import check_sums

        if ckpt_path is not None and zipfile.is_zipfile(path := Path(ckpt_path).expanduser()):
            try:
                check_sums(path)
            except ValueError as error:
                raise ConfigError(f"checkpoint {path} is {error}; use another one") from error
        with restoring_checkpoint():
            return original(device, ckpt_path, *args, **kwargs)


def serve_cached_features() -> None:
    """Let `TrainUtils.dataset_factory` make a dataset of cached features for the configs that ask for one.

    All versions of it make each SequenceDataset by that name, with arguments of their own (0.5: one for each entry of a list), so the
    name is what is exchanged. So is 0.5's MetaDataset, which would ask for items one by one.
    """
    import robomimic.utils.train_utils as TrainUtils

    @_in_place_of(TrainUtils, "dataset_factory")
    def dataset_factory(original, config, obs_keys, filter_by_attribute=None, *args, **kwargs):
        from robomimic_frozen.features.dataset import gathering_batches
        from robomimic_frozen.integration.cached_training import dataset_maker

        make_dataset = dataset_maker(config, filter_by_attribute)
        if make_dataset is not None:
            replacements = {"SequenceDataset": make_dataset}
            if hasattr(TrainUtils, "MetaDataset"):
                replacements["MetaDataset"] = gathering_batches(TrainUtils.MetaDataset)
            try:
                with mock.patch.multiple(TrainUtils, **replacements):
                    return original(config, obs_keys, filter_by_attribute, *args, **kwargs)
            except CacheUnavailableError as error:
                logger.warning("%s; training without it, on pixels", error)
        return original(config, obs_keys, filter_by_attribute, *args, **kwargs)


def normalize_observations_that_have_statistics() -> None:
    """Make `train.hdf5_normalize_obs` work with images, which keep the normalisation of their backbone.

    robomimic asserts that every observation has statistics of its own shape. Before 0.5 (normalize_obs) no training batch
    passes that, for its leading dimensions, and would be normalized twice, by the dataset and by the algo; in 0.5
    (normalize_dict) no image passes it in rollouts, for it is still [H, W, 3].
    """
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.utils.dataset import SequenceDataset

    if hasattr(ObsUtils, "normalize_obs"):

        @_in_place_of(SequenceDataset, "get_item")
        def raw_item(original, dataset, index):
            with mock.patch.object(dataset, "hdf5_normalize_obs", False):
                return original(dataset, index)

    for name, shift, scale in (("normalize_obs", "mean", "std"), ("normalize_dict", "offset", "scale")):

        @_in_place_of(ObsUtils, name)
        def normalize(original, values, *stats, shift=shift, scale=scale, **named_stats):
            of_keys = [*stats, *named_stats.values()][0]
            for key in values.keys() & of_keys.keys():
                values[key] = (values[key] - of_keys[key][shift][0]) / of_keys[key][scale][0]
            return values
