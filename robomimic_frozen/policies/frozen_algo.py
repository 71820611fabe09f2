"""What the algorithms over cached features share, as a mixin for robomimic's own, and `"algo_name": "bc_frozen"` made with it."""

from __future__ import annotations

import time
from typing import Any

import robomimic.utils.obs_utils as ObsUtils
from robomimic.algo import algo_name_to_factory_func, register_algo_factory_func

from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.encoders.weights import upgraded
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies.checkpoints import with_networks


class FrozenAlgo:
    """Takes batches of features, tells how fast training is, and does what `algo.checkpoint.frozen_weights` says.

    Raises:
        ConfigError: that is neither 'include' nor 'reference'.
        WeightsError: it is 'reference', and the frozen weights are not those of the file it would refer to.
    """

    nets: Any
    algo_config: Any
    _epoch = 0
    _first_step: float | None = None
    _steps_since_first = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        setting = self.algo_config.checkpoint.frozen_weights
        if setting not in ("include", "reference"):
            raise ConfigError(f"algo.checkpoint.frozen_weights is {setting!r}; choose 'include' or 'reference'")
        if setting == "reference":
            for backbone in self._backbones():
                backbone.refer_to_weights()

    def _backbones(self) -> list[VisionBackbone]:
        return [module for module in self.nets.modules() if isinstance(module, VisionBackbone)]

    def postprocess_batch_for_training(self, batch: dict[str, Any], obs_normalization_stats: Any) -> dict[str, Any]:
        """Process a batch as robomimic does, but for features [..., F, 1, 1], which are handed through unchanged."""
        groups = {group: batch[group] for group in ("obs", "next_obs", "goal_obs") if batch.get(group)}
        features = {group: {key: value for key, value in obs.items() if _is_feature(key, value)} for group, obs in groups.items()}
        others = {group: {key: value for key, value in obs.items() if key not in features[group]} for group, obs in groups.items()}
        batch = super().postprocess_batch_for_training({**batch, **others}, obs_normalization_stats)  # type: ignore[misc]
        return {**batch, **{group: {**batch[group], **found} for group, found in features.items()}}

    def log_info(self, info: dict[str, Any]) -> dict[str, float]:
        """Add to what is logged the gradient steps per second of the present epoch, data loading included."""
        log = super().log_info(info)  # type: ignore[misc]
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


def _is_feature(key: str, value: Any) -> bool:
    return ObsUtils.key_is_obs_modality(key, "rgb") and value.shape[-2:] == (1, 1)


@register_algo_factory_func("bc_frozen")
def bc_frozen(algo_config: Any) -> tuple[type, dict]:
    """Return the class robomimic's `bc` would build for this config, with batches of features."""
    stock_class, kwargs = algo_name_to_factory_func("bc")(algo_config)
    return type(f"{stock_class.__name__}Frozen", (FrozenAlgo, stock_class), {}), kwargs
