"""Whether the settings of a config agree, and the demos that it chooses have what training with it needs."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
from typing import Any

from robomimic.config.config import Config
from robomimic.utils.obs_utils import OBS_RANDOMIZERS
from robomimic.utils.python_utils import extract_class_init_kwargs_from_dict

from robomimic_frozen.config import MADE_BY_ROBOMIMIC, datasets_of, selections
from robomimic_frozen.encoders.core import FrozenResNetCore
from robomimic_frozen.encoders.spec import EncoderSpec, Randomizer, check_core_kwargs, of_key, settings_in
from robomimic_frozen.errors import ConfigError, did_you_mean, first_line
from robomimic_frozen.features.rules import ChosenDemos, Needs
from robomimic_frozen.features.source import check_dataset
from robomimic_frozen.integration.doubts import large_actions, small_crop, usual_crop
from robomimic_frozen.integration.versions import check_validation
from robomimic_frozen.plugins import provided
from robomimic_frozen.policies.normalization import check_normalization
from robomimic_frozen.policies.ranges import check_ranges
from robomimic_frozen.simulation.environments import environment_of
from robomimic_frozen.utils import hdf5

logger = logging.getLogger(__name__)


def check_config(config: Config) -> list[str]:
    """Return what is doubtful about a config and its datasets, as 'what; what to do', where training can begin all the same.

    Raises ConfigError or DatasetError unless its settings agree, the demos it chooses fit it, and its encoder takes its settings.
    """
    if not config.train.data:
        raise ConfigError("no dataset: give one with --dataset, or make one: robomimic-frozen demos")
    if "modalities" not in config.observation:
        parts = ", ".join(config.observation)
        raise ConfigError(f"{config.algo_name} is made of several policies ({parts}); train it with python -m robomimic.scripts.train")
    for group, modalities in config.observation.modalities.items():
        for modality, keys in modalities.items():
            _check_names(f"observation.modalities.{group}.{modality}", keys)
    _check_names("train.dataset_keys", config.train.dataset_keys)
    check_ranges(config)
    if "obs_normalization" in config.algo:
        check_normalization(config)
    _check_goals(config)
    _check_filter_keys(config)
    check_validation(config)
    encoder = config.observation.encoder.rgb
    randomizers_of(encoder)
    has_core = encoder.core_class == FrozenResNetCore.__name__
    if has_core:
        check_core_kwargs(encoder.core_kwargs, image_keys(config))
        if any(settings.get("augment") == "shift" and settings.get("crop_shape") for settings in settings_in(encoder.core_kwargs)):
            logger.info("core_kwargs.augment is 'shift', which takes images whole; crop_shape is passed over")
    images = needs_of(config).images
    image_sizes = {(key.partition("/")[2], demos.shapes[key][:2]) for demos in _chosen_demos(config) for key in images}
    for entry in datasets_of(config):
        _check_task(config, entry["path"])
    sizes = sorted(image_sizes) if has_core else []
    specs = [EncoderSpec.from_core_kwargs(of_key(encoder.core_kwargs, key), (3, *size)) for key, size in sizes]
    for spec in specs:
        _check_patches(spec)
    return [*dict.fromkeys(doubt for spec in specs if (doubt := small_crop(spec))), *large_actions(config)]


def needs_of(config: Config) -> Needs:
    """Return what training with a config needs of each demo that it chooses."""
    train, groups = config.train, ("obs", "next_obs") if config.train.hdf5_load_next_obs else ("obs",)
    actions = tuple(train.get("action_keys", ("actions",)))
    return Needs(
        observations=[f"{group}/{key}" for group in groups for key in config.all_obs_keys if key not in MADE_BY_ROBOMIMIC],
        images=frozenset(f"{group}/{key}" for group in groups for key in image_keys(config)),
        actions=actions,
        others=[key for key in train.dataset_keys if key not in actions],
        steps=1 + (0 if train.pad_seq_length else train.seq_length - 1) + (0 if train.pad_frame_stack else train.frame_stack - 1),
    )


def image_keys(config: Config) -> set[str]:
    """Return the obs keys of a config that are RGB images."""
    return {key for group in config.observation.modalities.values() for key in group.get("rgb", [])}


def randomizers_of(encoder: Any) -> list[Randomizer]:
    """Return the randomizers of a modality; robomimic 0.5 takes lists of them, too. Raises ConfigError for one that robomimic lacks."""
    names, arguments = encoder.obs_randomizer_class, encoder.obs_randomizer_kwargs
    names, arguments = names if isinstance(names, list) else [names], arguments if isinstance(arguments, list) else [arguments]
    pairs = [(name, given or {}) for name, given in zip(names, arguments, strict=False) if name]
    for name, given in pairs:
        if not isinstance(name, str) or name not in OBS_RANDOMIZERS:
            hint = did_you_mean(name, OBS_RANDOMIZERS, f"choose from: {', '.join(OBS_RANDOMIZERS)}")
            raise ConfigError(f"robomimic has no obs_randomizer_class {name!r}; {hint}")
        if not isinstance(given, dict):
            raise ConfigError(f"obs_randomizer_kwargs of {name} is {given!r}; give {{ARGUMENT: VALUE}}, or {{}}")
    # As robomimic does, which passes over other arguments, of another randomizer say.
    return [(name, extract_class_init_kwargs_from_dict(OBS_RANDOMIZERS[name], given)) for name, given in pairs]


def _check_patches(spec: EncoderSpec) -> None:
    patch, sides = spec.backbone.patch_size, spec.preprocessing().output_size
    if any(side % patch for side in sides):
        setting, near = "crop_shape" if spec.crop_shape else "resize_shape", [max(patch, side // patch * patch) for side in sides]
        near = usual_crop(spec) if spec.crop_shape and small_crop(spec) else near
        what = f"{spec.backbone.name} takes images in patches of {patch} pixels, and would pad those of {list(sides)}"
        raise ConfigError(f"{what}; set core_kwargs.{setting} to {near}")


def _check_names(where: str, names: Any) -> None:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{where} is {json.dumps(names)}; give a list of names, [] for none")


def _check_goals(config: Config) -> None:
    train = config.train
    if train.goal_mode not in (None, "last"):
        raise ConfigError(f"train.goal_mode is {json.dumps(train.goal_mode)}; choose \"last\" or null")
    if train.goal_mode == "last" and not train.hdf5_load_next_obs:
        raise ConfigError("train.goal_mode is 'last', and goals are taken from next_obs; set train.hdf5_load_next_obs to true")
    if config.use_goals and train.goal_mode is None:
        remedy = "set train.goal_mode to 'last' and train.hdf5_load_next_obs to true, or empty those lists"
        raise ConfigError(f"observation.modalities.goal has obs keys, and train.goal_mode is null; {remedy}")


def _check_filter_keys(config: Config) -> None:
    key, valid_key = config.train.hdf5_filter_key, config.train.hdf5_validation_filter_key
    if config.experiment.validate and (key is None or valid_key is None):
        remedy = "set train.hdf5_filter_key and train.hdf5_validation_filter_key, or set it to false"
        raise ConfigError(f"experiment.validate needs the demos of two filter keys; {remedy}")
    if valid_key is not None and not config.experiment.validate:
        what = f"train.hdf5_validation_filter_key is {valid_key!r}, and experiment.validate is false"
        raise ConfigError(f"{what}; set that to true, or the filter key to null")


def splits_of(config: Config) -> dict[str, str | None]:
    """Return 'training' and, where it is asked for, 'validation' -> the filter key of its demos."""
    splits = {"training": config.train.hdf5_filter_key}
    return {**splits, "validation": config.train.hdf5_validation_filter_key} if config.experiment.validate else splits


def _chosen_demos(config: Config) -> list[ChosenDemos]:
    """Return what is known of the demos of each split in each dataset. Raises ConfigError or DatasetError where they do not fit."""
    needs, splits = needs_of(config), splits_of(config)
    chosen = {
        split: [check_dataset(selection, needs) for selection in selections(config, filter_key)]
        for split, filter_key in splits.items()
    }
    for split, demos in chosen.items():
        sequences = sum(steps - needs.steps + 1 for each in demos for steps in each.steps.values())
        if sequences < config.train.batch_size:  # an epoch has whole batches only, so this one would have none
            raise ConfigError(
                f"train.batch_size is {config.train.batch_size}, and the {split} demos have {sequences} sequences, not one whole batch; "
                f"choose {sequences} or less, or more demos"
            )
    if "validation" in chosen:
        for entry, train, valid in zip(datasets_of(config), chosen["training"], chosen["validation"], strict=True):
            shared = sorted(train.steps.keys() & valid.steps.keys())
            if shared and "filter_key" not in entry:  # which robomimic 0.5 takes for both
                keys = " and ".join(map(repr, splits.values()))
                raise ConfigError(f"filter keys {keys} of {entry['path']} share {shared[0]}; validate on demos that are not trained on")
    return [each for demos in chosen.values() for each in demos]


def _check_task(config: Config, path: str) -> None:
    """Raise ConfigError for a dataset of one known task where `experiment.env` names another; variants of one are the user's affair.

    Raises:
        MalformedError: its env_args are no JSON.
    """
    with hdf5.opened(path) as file:
        recorded = environment_of(file).get("env_name")
    wanted, tasks = config.experiment.env, {task.env_name: task.name for task in provided("tasks")}
    if isinstance(recorded, str) and isinstance(wanted, str) and {recorded, wanted} <= tasks.keys() and recorded != wanted:
        raise ConfigError(
            f"dataset {path} is of the task {tasks[recorded]} ({recorded}), and experiment.env is {wanted!r}; "
            f"set it to null, or give a dataset of {tasks[wanted]}"
        )


def check_wandb(config: Config) -> None:
    """Raise ConfigError if a run is to be logged to wandb, and robomimic's logger would fail or wait for minutes."""
    if not config.experiment.logging.log_wandb:
        return
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError("experiment.logging.log_wandb is true, and wandb is not installed; pip install wandb, or set it to false")
    import robomimic.macros as macros

    if macros.WANDB_ENTITY is None:
        where = "in robomimic's macros_private.py, which python -m robomimic.scripts.setup_macros makes"
        raise ConfigError(f"experiment.logging.log_wandb is true, and robomimic's macro WANDB_ENTITY is not set; set it {where}")
    if os.environ.get("WANDB_MODE", "online") == "online" and macros.WANDB_API_KEY is None:
        import wandb

        try:
            wandb.login()
        except wandb.Error as error:  # robomimic would try for five minutes
            raise ConfigError(f"wandb has no login here ({first_line(error)}); run wandb login, or set WANDB_MODE=offline") from error
