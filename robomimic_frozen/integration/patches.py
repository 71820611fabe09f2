"""Every patch of robomimic that stays while a process runs, one named function each, with its reason."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from robomimic_frozen.errors import CacheUnavailableError, ConfigError

logger = logging.getLogger(__name__)


def restore_without_weights_files() -> None:
    """Let `policy_from_checkpoint` work where the ImageNet weights are not at hand, and refuse damaged checkpoints.

    robomimic builds the network first and copies the checkpoint into it afterwards, so the encoder cannot know that
    its pretrained weights are about to be replaced. torch does not look at the checksums it writes.
    """
    import robomimic.utils.file_utils as FileUtils

    original = getattr(FileUtils, "policy_from_checkpoint", None)
    if original is None or hasattr(original, "__wrapped__"):
        return  # file_utils is importing robomimic.algo just now; _autoload calls again when it is done

    @functools.wraps(original)
    def policy_from_checkpoint(*args, **kwargs):
        from robomimic_frozen.encoders.weights import restoring_checkpoint

        path = inspect.signature(original).bind(*args, **kwargs).arguments.get("ckpt_path")
        if path is not None:
            _refuse_damage(Path(path).expanduser())
        with restoring_checkpoint():
            return original(*args, **kwargs)

    FileUtils.policy_from_checkpoint = policy_from_checkpoint


def _refuse_damage(checkpoint: Path) -> None:
    from robomimic_frozen.policies.checkpoints import check_sums

    if zipfile.is_zipfile(checkpoint):
        try:
            check_sums(checkpoint)
        except ValueError as error:
            raise ConfigError(f"checkpoint {checkpoint} is {error}; use another one") from error


def serve_cached_features() -> None:
    """Let `TrainUtils.dataset_factory` make a dataset of cached features for the configs that ask for one.

    All versions of it make each SequenceDataset by that name, with arguments of their own (0.5: one for each entry of a list), so the
    name is what is exchanged. So is 0.5's MetaDataset, which would ask for items one by one.
    """
    import robomimic.utils.train_utils as TrainUtils

    original = getattr(TrainUtils, "dataset_factory", None)
    if original is None or hasattr(original, "__wrapped__"):
        return  # as in restore_without_weights_files

    @functools.wraps(original)
    def dataset_factory(config, obs_keys, filter_by_attribute=None, *args, **kwargs):
        from robomimic_frozen.features.dataset import gathering_batches
        from robomimic_frozen.integration.cached_training import dataset_maker

        make_dataset = dataset_maker(config, filter_by_attribute)
        replacements = {"SequenceDataset": make_dataset} if make_dataset is not None else {}
        if replacements and hasattr(TrainUtils, "MetaDataset"):
            replacements["MetaDataset"] = gathering_batches(TrainUtils.MetaDataset)
        try:
            with mock.patch.multiple(TrainUtils, **replacements) if replacements else contextlib.nullcontext():
                return original(config, obs_keys, filter_by_attribute, *args, **kwargs)
        except CacheUnavailableError as error:
            logger.warning("%s; training without it, on pixels", error)
        return original(config, obs_keys, filter_by_attribute, *args, **kwargs)

    TrainUtils.dataset_factory = dataset_factory


def normalize_observations_that_have_statistics() -> None:
    """Make `train.hdf5_normalize_obs` work with images, which keep the normalisation of their backbone.

    robomimic asserts that every observation has statistics of its own shape. Before 0.5 (normalize_obs) no training batch
    passes that, for its leading dimensions, and would be normalized twice, by the dataset and by the algo; in 0.5
    (normalize_dict) no image passes it in rollouts, for it is still [H, W, 3].
    """
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.utils.dataset import SequenceDataset

    if hasattr(ObsUtils, "normalize_obs") and not hasattr(SequenceDataset.get_item, "__wrapped__"):
        SequenceDataset.get_item = _without_normalization(SequenceDataset.get_item)

    for name, shift, scale in (("normalize_obs", "mean", "std"), ("normalize_dict", "offset", "scale")):
        original = getattr(ObsUtils, name, None)
        if original is None or hasattr(original, "__wrapped__"):
            continue

        @functools.wraps(original)
        def normalize(values, *stats, shift=shift, scale=scale, **named_stats):
            of_keys = [*stats, *named_stats.values()][0]
            for key in values.keys() & of_keys.keys():
                values[key] = (values[key] - of_keys[key][shift][0]) / of_keys[key][scale][0]
            return values

        setattr(ObsUtils, name, normalize)


def _without_normalization(get_item: Callable[..., dict]) -> Callable[..., dict]:
    @functools.wraps(get_item)
    def raw_item(dataset, index):
        with mock.patch.object(dataset, "hdf5_normalize_obs", False):
            return get_item(dataset, index)

    return raw_item
