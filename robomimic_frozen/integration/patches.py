"""Every patch of robomimic that stays while a process runs, one named function each, with its reason."""

from __future__ import annotations

import functools
import inspect
import logging
import os
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
        from robomimic_frozen.integration.cached_training import feature_dataset_maker, pixel_dataset_maker

        def made_with(**replacements):
            with mock.patch.multiple(TrainUtils, **replacements):
                return original(config, obs_keys, filter_by_attribute, *args, **kwargs)

        if "feature_cache" not in config.algo:
            return original(config, obs_keys, filter_by_attribute, *args, **kwargs)
        make_dataset = feature_dataset_maker(config, filter_by_attribute)
        if make_dataset is not None:
            mixed = {"MetaDataset": gathering_batches(TrainUtils.MetaDataset)} if hasattr(TrainUtils, "MetaDataset") else {}
            try:
                return made_with(SequenceDataset=make_dataset, **mixed)
            except CacheUnavailableError as error:
                logger.warning("%s; training without it, on pixels", error)
        return made_with(SequenceDataset=pixel_dataset_maker(config))


def normalize_observations_that_have_statistics() -> None:
    """Make `train.hdf5_normalize_obs` work with images, which keep the normalisation of their backbone.

    robomimic asserts that every observation has statistics of its own shape. Before 0.5 (normalize_obs) no training batch
    passes that, for its leading dimensions, and would be normalized twice, by the dataset and by the algo; in 0.5
    (normalize_dict) no image passes it in rollouts, for it is still [H, W, 3].
    """
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.utils.dataset import SequenceDataset

    @_in_place_of(SequenceDataset, "normalize_obs")
    def statistics_of_low_dim(original, dataset):
        low_dim = [key for key in dataset.obs_keys if not ObsUtils.key_is_obs_modality(key, "rgb")]
        with mock.patch.object(dataset, "obs_keys", low_dim):
            return original(dataset)

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


def take_absolute_actions_where_asked() -> None:
    """Let environments, of training and of rollouts, take absolute actions where `train.action_keys` of our algorithms names such."""
    import robomimic.utils.env_utils as EnvUtils

    @_in_place_of(EnvUtils, "wrap_env_from_config")
    def wrap_env_from_config(original, env, config):
        from robomimic_frozen.config import has_absolute_actions

        if "feature_cache" in config.algo and has_absolute_actions(config.train.get("action_keys", ())):
            from robomimic_frozen.simulation.absolute_actions import take_absolute_actions

            take_absolute_actions(env)
        return original(env, config)


def give_each_obs_key_its_settings() -> None:
    """Let `core_kwargs.per_key` of FrozenResNetCore say what is different for one obs key, which robomimic does not tell a core."""
    from robomimic.models.obs_nets import ObservationEncoder

    @_in_place_of(ObservationEncoder, "register_obs_key")
    def register_obs_key(original, self, name, shape, net_class=None, net_kwargs=None, *args, **kwargs):
        from robomimic_frozen.encoders.spec import of_key

        if net_kwargs and net_kwargs.get("per_key"):
            net_kwargs = of_key(net_kwargs, name)
        return original(self, name, shape, net_class, net_kwargs, *args, **kwargs)


def randomize_no_cached_features() -> None:
    """Let randomizers of images pass what is cached of such, [B, F, 1, 1]: those images have passed them before the encoder."""
    from robomimic.models.obs_core import Randomizer

    @_in_place_of(Randomizer, "forward_in")
    def forward_in(original, self, inputs):
        return inputs if inputs.shape[-2:] == (1, 1) else original(self, inputs)


def leave_actions_in_their_units() -> None:
    """Let robomimic 0.5 undo no normalisation of actions that the policy has undone itself.

    Our algorithms keep what normalises actions with their weights, for stage 2 and for robomimic 0.3, which normalises none.
    """
    from robomimic.algo import RolloutPolicy

    if "action_normalization_stats" in inspect.signature(RolloutPolicy.__init__).parameters:

        @_in_place_of(RolloutPolicy, "__init__")
        def with_actions_in_their_units(original, self, policy, *args, **kwargs):
            original(self, policy, *args, **kwargs)
            if getattr(policy, "undoes_action_normalization", False):
                self.action_normalization_stats = None


def save_the_width_of_actions() -> None:
    """Let checkpoints of robomimic 0.3 tell how wide the actions of all `train.action_keys` are; it looks at 'actions' alone."""
    import robomimic.utils.train_utils as TrainUtils

    @_in_place_of(TrainUtils, "save_model")
    def save_model(original, model, config, env_meta, shape_meta, *args, **kwargs):
        if "action_normalization_stats" not in inspect.signature(original).parameters:
            shape_meta = {**shape_meta, "ac_dim": model.ac_dim}
        return original(model, config, env_meta, shape_meta, *args, **kwargs)


def let_users_choose_the_mode_of_wandb() -> None:
    """Let WANDB_MODE=offline log a run without a network or a login.

    robomimic asks for "online", which counts more than the variable, nine times, with half a minute after each failure.
    """
    from robomimic.utils.log_utils import DataLogger

    @_in_place_of(DataLogger, "__init__")
    def with_the_mode_of_the_user(original, self, log_dir, config, log_tb=True, log_wandb=False):
        if not log_wandb or "WANDB_MODE" not in os.environ:
            return original(self, log_dir, config, log_tb, log_wandb)
        import wandb

        stock, mode = wandb.init, os.environ["WANDB_MODE"]
        with mock.patch.object(wandb, "init", lambda **settings: stock(**{**settings, "mode": mode})):
            return original(self, log_dir, config, log_tb, log_wandb)
