"""The configs of `fbc_frozen` and `bc_frozen`. Importing this module is what registers them with robomimic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from robomimic.config.base_config import BaseConfig
from robomimic.config.bc_config import BCConfig

try:
    from robomimic.utils.lang_utils import LANG_EMB_OBS_KEY
except ImportError:
    LANG_EMB_OBS_KEY = None

MADE_BY_ROBOMIMIC: Final[tuple[str, ...]] = (LANG_EMB_OBS_KEY,) if LANG_EMB_OBS_KEY else ()
"""Obs keys that a file need not have: robomimic 0.5 makes the embedding of a dataset's language instruction itself."""

POSITIONS: Final[Mapping[str, str]] = MappingProxyType({"feature_stage": "layer2", "pool": "conv"})
"""The `core_kwargs` that keep positions best (docs/results.md), of backbones that have this stage, of stride 8."""


def datasets_of(config: Any) -> list[Mapping[str, Any]]:
    """Return the datasets of a config, each with its 'path': robomimic 0.5 takes a list of them, each with settings of its own."""
    data = config.train.data
    return [{"path": data}] if isinstance(data, str) else list(data or ())


def place_in(config: Mapping[str, Any], path: str) -> tuple[Any, str]:
    """Return the section that a path such as 'train.batch_size' leads to, empty where a config does not have it, and the key in it."""
    *sections, key = path.split(".")
    place: Any = config
    for name in sections:
        place = place.get(name, {}) if isinstance(place, Mapping) else {}
    return (place if isinstance(place, Mapping) else {}), key


class Selection(NamedTuple):
    """Which demos of one file a run takes: those of a filter key, or all; of them the first so many, or all."""

    path: str
    filter_key: str | None = None
    limit: int | None = None


def selections(config: Any, filter_key: str | None) -> list[Selection]:
    """Return which demos of each dataset a config takes where it says `filter_key`; in robomimic 0.5 a dataset can have its own."""
    return [Selection(entry["path"], entry.get("filter_key", filter_key), entry.get("demo_limit")) for entry in datasets_of(config)]


def has_absolute_actions(action_keys: Iterable[str]) -> bool:
    """Return whether arrays of these names, as robomimic's scripts call them, say where an arm is to go, not how far."""
    return any(key == "actions_abs" or key.startswith("action_dict/abs_") for key in action_keys)


class _FrozenImages:
    """What all configs of frozen encoders share. Not a BaseConfig: defining one of those registers it."""

    train: Any
    algo: Any
    observation: Any

    def train_config(self) -> None:
        super().train_config()  # type: ignore[misc]
        # robomimic would resolve a relative folder inside its own installation.
        self.train.output_dir = "~/robomimic_frozen_runs"
        self.train.hdf5_load_next_obs = False
        self.train.hdf5_cache_mode = "low_dim"
        self.train.dataset_keys = ["actions"]
        # As in robomimic 0.5: arrays of a demo that are concatenated, and how each is normalised: None, "min_max" or "gaussian".
        self.train.action_keys = ["actions"]
        self.train.action_config = {"actions": {"normalization": None}}

    def algo_config(self) -> None:
        super().algo_config()  # type: ignore[misc]
        self.algo.obs_normalization = "gaussian"  # of low-dim observations, by the training demos; or "min_max", or None
        # Features of the frozen encoder, computed once; training then reads no pixels.
        self.algo.feature_cache.enabled = True
        self.algo.feature_cache.dir = None  # folder of the caches; None for ~/.cache/robomimic_frozen
        self.algo.feature_cache.cached_crops = 8  # random variants of each image, besides the plain one
        self.algo.feature_cache.crop_seed = 0  # of what is drawn for them
        self.algo.feature_cache.dtype = "float16"  # as the features are stored; "float32" computes them in it, too; "int8" is half as large
        self.algo.checkpoint.frozen_weights = "include"  # or "reference": name them by sha256, and restore from their file

    def observation_config(self) -> None:
        super().observation_config()  # type: ignore[misc]
        self.observation.modalities.obs.low_dim = ["robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"]
        self.observation.modalities.obs.rgb = ["agentview_image", "robot0_eye_in_hand_image"]

        self.observation.encoder.rgb.core_class = "FrozenResNetCore"
        core_kwargs = self.observation.encoder.rgb.core_kwargs
        core_kwargs.rgb_model_name = "resnet18"
        core_kwargs.pretrained_encoder = True
        core_kwargs.freeze_encoder = True
        core_kwargs.emb_dim = 256
        core_kwargs.weights = None
        core_kwargs.imagenet_norm = True
        core_kwargs.resize_shape = None
        core_kwargs.crop_shape = None
        core_kwargs.random_crop = True
        core_kwargs.feature_stage = None
        core_kwargs.pool = None
        core_kwargs.grid_size = [3, 3]
        core_kwargs.augment = "shift"
        core_kwargs.max_shift = 4.0
        core_kwargs.map_noise = 0.0
        core_kwargs.map_drop = 0.0
        core_kwargs.use_group_norm = False
        core_kwargs.per_key = None  # or {obs key: {setting: value}}, for what is different for one camera


class FBCFrozenConfig(_FrozenImages, BaseConfig):
    """Flow-matching behaviour cloning on a frozen, pretrained image encoder, for one robot arm with two cameras."""

    ALGO_NAME = "fbc_frozen"

    def experiment_config(self) -> None:
        super().experiment_config()
        self.experiment.name = "fbc_frozen"
        self.experiment.epoch_every_n_steps = 500
        self.experiment.save.every_n_epochs = 20
        self.experiment.rollout.rate = 20
        self.experiment.rollout.n = 10

    def train_config(self) -> None:
        super().train_config()
        self.train.num_epochs = 40
        self.train.seq_length = 16  # algo.horizon
        self.train.frame_stack = 1  # algo.obs_steps
        self.train.max_grad_norm = 1.0  # gradients are scaled down to this norm; None for never
        self.train.action_config = {"actions": {"normalization": "min_max"}}

    def algo_config(self) -> None:
        super().algo_config()
        self.algo.horizon = 16  # actions in a predicted chunk
        self.algo.act_steps = 8  # actions of it that are executed before the next chunk is predicted
        self.algo.obs_steps = 1  # frames the policy sees
        self.algo.flow_steps = 10  # Euler steps from noise to actions

        # Checkpoint of an earlier run whose weights to start from, or a folder for the newest in it; None for none.
        self.algo.init_from = None
        self.algo.unfreeze_at_epoch = None  # the first epoch that trains the whole encoder, from pixels; None for never

        self.algo.network = "mlp"  # or "chiunet", for horizons that are powers of two
        self.algo.network_kwargs.hidden_dims = [512, 512, 512, 512]  # of mlp
        self.algo.network_kwargs.down_dims = [256, 512, 1024]  # of chiunet, as is the next
        self.algo.network_kwargs.kernel_size = 5
        self.algo.network_kwargs.do_not_lock_keys()

        # Of the matrix products in gradient steps: "float32", "bfloat16", or "auto" for bfloat16 on a CPU that has it.
        # Weights, loss, optimizer and rollouts are float32 whatever it says.
        self.algo.precision = "auto"

        self.algo.optim_params.policy.optimizer_type = "adamw"
        self.algo.optim_params.policy.learning_rate.initial = 1e-3
        self.algo.optim_params.policy.learning_rate.encoder = None  # of trainable backbone stages; None for the same
        self.algo.optim_params.policy.learning_rate.warmup_steps = 100
        self.algo.optim_params.policy.regularization.L2 = 1e-4

        self.algo.ema.max_decay = 0.999
        self.algo.ema.power = 0.75


class BCFrozenConfig(_FrozenImages, BCConfig):
    """robomimic's BC family (MSE, Gaussian, GMM, RNN, transformer) on a frozen, pretrained image encoder."""

    ALGO_NAME = "bc_frozen"
