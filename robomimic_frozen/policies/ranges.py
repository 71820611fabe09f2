"""The values that settings can have: what robomimic and torch take unseen, and a run shows late or never."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from robomimic_frozen.config import place_in
from robomimic_frozen.errors import ConfigError

Range = tuple[Callable[[Any], bool], str]
"""(whether a value is in it, what to choose)"""


def _whole(lowest: int, choose: str = "", highest: float = math.inf) -> Range:
    choose = choose or f"choose a whole number from {lowest} on"
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest, choose


def _number(is_in: Callable[[float], bool], choose: str) -> Range:
    return lambda value: isinstance(value, (int, float)) and math.isfinite(value) and is_in(value), choose


def _or_null(range_: Range, meaning: str) -> Range:
    is_in, choose = range_
    return lambda value: value is None or is_in(value), f"{choose}, or null {meaning}"


_ABSENT: Final = object()
_ABOVE_0: Final = _number(lambda value: value > 0, "choose a number above 0")
_FROM_0: Final = _number(lambda value: value >= 0, "choose 0 or more")
_FROM_1: Final = _whole(1)
_WIDTHS: Final[Range] = (
    lambda value: isinstance(value, (list, tuple)) and all(_FROM_1[0](width) for width in value),
    "give a list of whole numbers from 1 on",
)

ACTING: Final[Mapping[str, Range]] = {
    "algo.horizon": _FROM_1,
    "algo.obs_steps": _FROM_1,
    "algo.flow_steps": _FROM_1,
    "algo.network_kwargs.hidden_dims": _WIDTHS,
    "algo.network_kwargs.down_dims": _WIDTHS,
    "algo.network_kwargs.kernel_size": _FROM_1,
    "algo.precision": (lambda value: value in ("auto", "float32", "bfloat16"), "choose 'auto', 'float32' or 'bfloat16'"),
}
"""Settings that a finished policy still has. A path that a config does not have is passed over, here and below."""

TRAINING: Final[Mapping[str, Range]] = {
    "train.num_epochs": _FROM_1,
    "train.batch_size": _FROM_1,
    "train.seq_length": _FROM_1,
    "train.frame_stack": _FROM_1,
    "train.num_data_workers": _whole(0),
    "train.seed": _whole(0, "choose a whole number from 0 to 2**32 - 1", highest=2**32 - 1),
    "train.max_grad_norm": _or_null(_ABOVE_0, "to scale no gradient down"),
    "experiment.epoch_every_n_steps": _or_null(_FROM_1, "for the whole dataset"),
    "experiment.validation_epoch_every_n_steps": _or_null(_FROM_1, "for the whole dataset"),
    "experiment.save.every_n_epochs": _or_null(_FROM_1, "for never"),
    "experiment.rollout.rate": _whole(1, "choose a whole number from 1 on, and set experiment.rollout.enabled to false for no rollouts"),
    "algo.unfreeze_at_epoch": _or_null(
        _whole(2, "choose 2 or more, or set observation.encoder.rgb.core_kwargs.freeze_encoder to false"), "for never"
    ),
    "algo.ema.max_decay": _number(lambda value: 0 <= value <= 1, "choose 0 (for no average) to 1"),
    "algo.ema.power": _number(lambda value: value > 0, "choose a number above 0; algo.ema.max_decay 0 is for no average"),
    "algo.optim_params.policy.learning_rate.initial": _ABOVE_0,
    "algo.optim_params.policy.learning_rate.encoder": _or_null(_FROM_0, "for that of the policy"),
    "algo.optim_params.policy.learning_rate.warmup_steps": _whole(0, "choose 0 (for no warm-up) or more"),
    "algo.optim_params.policy.regularization.L2": _FROM_0,
}

ROLLOUTS: Final[Mapping[str, Range]] = {
    "experiment.rollout.n": _FROM_1,
    "experiment.rollout.horizon": _FROM_1,
    "experiment.rollout.warmstart": _whole(0),
}
"""Settings that matter where `experiment.rollout.enabled` is true."""


def check_ranges(config: Any, is_trained: bool = False) -> None:
    """Raise ConfigError for the first setting of a config that is out of its range; `is_trained` says that it is to act and no more."""
    ranges = ACTING if is_trained else {**ACTING, **TRAINING, **(ROLLOUTS if config.experiment.rollout.enabled else {})}
    for path, (is_in, choose) in ranges.items():
        section, key = place_in(config, path)
        value = section.get(key, _ABSENT)
        # Other algorithms have sections of the same name, such as the `algo.horizon` of robomimic's diffusion policy.
        if value is not _ABSENT and not isinstance(value, Mapping) and not is_in(value):
            raise ConfigError(f"{path} is {json.dumps(value)}; {choose}")
