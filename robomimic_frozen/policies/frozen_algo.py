"""What the algorithms over cached features share, as a mixin for robomimic's own, and `"algo_name": "bc_frozen"` made with it."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from typing import Any, Final

import robomimic.utils.obs_utils as ObsUtils
import torch
from robomimic.algo import algo_name_to_factory_func, register_algo_factory_func
from torch import Tensor

from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.encoders.weights import is_restoring_checkpoint, upgraded
from robomimic_frozen.errors import ConfigError, ObservationError, TrainingDivergedError
from robomimic_frozen.policies.normalization import empty_normalization, make_normalization
from robomimic_frozen.policies.states import with_networks

_ROUNDING: Final = 1e-3
_PROCESS: Final = "robomimic.utils.obs_utils.process_obs"


class FrozenAlgo:
    """Takes batches of features, normalises what is low-dim, and does what `algo.checkpoint.frozen_weights` says.

    Raises:
        ConfigError: that is neither 'include' nor 'reference'; or as `make_normalization`.
        DatasetError: as `make_normalization`.
        WeightsError: it is 'reference', and the frozen weights are not those of the file it would refer to.
    """

    nets: Any
    algo_config: Any
    obs_shapes: Mapping[str, Any]
    device: torch.device
    _epoch = 0
    _first_step: float | None = None
    _steps_since_first = 0

    def __init__(self, *args: Any, global_config: Any, ac_dim: int, **kwargs: Any) -> None:
        make = empty_normalization if is_restoring_checkpoint() else make_normalization  # a checkpoint brings its own numbers
        self._normalization = make(global_config)
        # robomimic 0.3 looks at 'actions' alone.
        width = self._normalization.action_width or ac_dim
        super().__init__(*args, global_config=global_config, ac_dim=width, **kwargs)  # type: ignore[call-arg]
        self.nets["normalization"] = self._normalization.to(self.device)
        setting = self.algo_config.checkpoint.frozen_weights
        if setting not in ("include", "reference"):
            raise ConfigError(f"algo.checkpoint.frozen_weights is {setting!r}; choose 'include' or 'reference'")
        if setting == "reference":
            for backbone in self._backbones:
                backbone.refer_to_weights()

    @functools.cached_property  # for it is asked for at each step, and looks at every module
    def _backbones(self) -> list[VisionBackbone]:
        return [module for module in self.nets.modules() if isinstance(module, VisionBackbone)]

    def postprocess_batch_for_training(self, batch: dict[str, Any], obs_normalization_stats: Any) -> dict[str, Any]:
        """Process a batch as robomimic does, but for features [..., F, 1, 1], which are handed through unchanged."""
        groups = {group: batch[group] for group in ("obs", "next_obs", "goal_obs") if batch.get(group)}
        features = {group: {key: value for key, value in obs.items() if is_feature(key, value)} for group, obs in groups.items()}
        others = {group: {key: value for key, value in obs.items() if key not in features[group]} for group, obs in groups.items()}
        batch = super().postprocess_batch_for_training({**batch, **others}, obs_normalization_stats)  # type: ignore[misc]
        normalized = {group: {**self._normalization.observations(batch[group]), **found} for group, found in features.items()}
        return {**batch, **normalized, "actions": self._normalization.actions(batch["actions"])}

    def train_on_batch(self, batch: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Train as robomimic does, the frames of each sequence with one shift of their maps."""
        sequences = (value for key, value in batch["obs"].items() if ObsUtils.key_is_obs_modality(key, "rgb") and value.ndim == 5)
        frames = next((value.shape[1] for value in sequences), 1)
        for backbone in self._backbones:
            backbone.frames = frames
        return super().train_on_batch(batch, *args, **kwargs)  # type: ignore[misc]

    def get_action(self, obs_dict: dict[str, Tensor], goal_dict: dict[str, Tensor] | None = None) -> Tensor:
        """Return the next action [B, A] in the units of the dataset, given observations in theirs. Raises ObservationError."""
        self._check_observations(obs_dict)
        goal_dict = None if goal_dict is None else self._normalization.observations(goal_dict)
        action = super().get_action(self._normalization.observations(obs_dict), goal_dict)  # type: ignore[misc]
        return self._normalization.executable(action)

    @property
    def undoes_action_normalization(self) -> bool:
        """Return whether what `get_action` returns is in the units of the dataset already, and robomimic 0.5 has nothing to undo."""
        return self._normalization.action_width is not None

    def _check_observations(self, obs: Mapping[str, Tensor]) -> None:
        """Raise ObservationError unless these are of the shapes, and the images of the range, that the policy was trained on."""
        for key, shape in self.obs_shapes.items():
            if key not in obs:
                raise ObservationError(f"the observation lacks {key!r}, which the policy looks at; it has {', '.join(sorted(obs))}")
            shape, found, is_image = tuple(shape), tuple(obs[key].shape), ObsUtils.key_is_obs_modality(key, "rgb")
            if found[len(found) - len(shape) :] != shape:
                remedy = f"give what {_PROCESS} makes of it" if is_image else "give what was recorded"
                raise ObservationError(f"observation {key!r} is {list(found[1:])}, and the policy was trained on {list(shape)}; {remedy}")
            if is_image and (highest := float(obs[key].max())) > 1 + _ROUNDING:
                remedy = f"divide by 255, as {_PROCESS} does"
                raise ObservationError(f"observation {key!r} has values up to {highest:g}, and images are in [0, 1]; {remedy}")

    def log_info(self, info: dict[str, Any]) -> dict[str, float]:
        """Add to what is logged the gradient steps per second of the present epoch, data loading included.

        Raises:
            TrainingDivergedError: the loss is not finite.
        """
        log = super().log_info(info)  # type: ignore[misc]
        if "loss" in info:
            log["Loss"] = info["loss"].item()
        if not math.isfinite(log["Loss"]):
            raise TrainingDivergedError(
                f"the loss is {log['Loss']} in epoch {self._epoch + 1}, and no longer finite; look for extreme numbers with "
                "robomimic-frozen doctor DATASET, or lower algo.optim_params.policy.learning_rate.initial"
            )
        if not self.nets.training:
            return log
        now = time.perf_counter()
        if self._first_step is None:
            self._first_step = now
        else:
            self._steps_since_first += 1
            log["Steps_Per_Second"] = self._steps_since_first / (now - self._first_step)
        return log

    def on_epoch_end(self, epoch: int) -> None:
        """Remember the epoch, for the checkpoint to tell."""
        super().on_epoch_end(epoch)  # type: ignore[misc]
        self._epoch, self._first_step, self._steps_since_first = epoch, None, 0

    def serialize(self) -> dict[str, Any]:
        """Return what robomimic saves under 'model': as its own algos, and the epoch."""
        return with_networks(super().serialize(), lambda nets: {**nets, "epoch": self._epoch})  # type: ignore[misc]

    def deserialize(self, model_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Load what `serialize` gave, also that of 0.1.0. Raises WeightsError."""
        super().deserialize(with_networks(model_dict, self._loadable), *args, **kwargs)  # type: ignore[misc]

    def _loadable(self, nets: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in upgraded(nets).items() if name != "epoch"}


def is_feature(key: str, value: Any) -> bool:
    """Return whether what a batch has under an obs key are cached features [..., F, 1, 1], and not images."""
    return ObsUtils.key_is_obs_modality(key, "rgb") and value.shape[-2:] == (1, 1)


@register_algo_factory_func("bc_frozen")
def bc_frozen(algo_config: Any) -> tuple[type, dict]:
    """Return the class robomimic's `bc` would build for this config, with batches of features."""
    stock_class, kwargs = algo_name_to_factory_func("bc")(algo_config)
    return type(f"{stock_class.__name__}Frozen", (FrozenAlgo, stock_class), {}), kwargs
