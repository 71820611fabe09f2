"""robomimic's BC family over cached features: `"algo_name": "bc_frozen"`."""

from __future__ import annotations

from typing import Any

from robomimic.algo import algo_name_to_factory_func, register_algo_factory_func

from robomimic_frozen.policies.feature_batches import FeatureBatches
from robomimic_frozen.policies.lean_checkpoints import LeanCheckpoints
from robomimic_frozen.policies.throughput import Throughput


@register_algo_factory_func("bc_frozen")
def algo_config_to_class(algo_config: Any) -> tuple[type, dict]:
    """The class robomimic's `bc` would build for this config, with batches of features."""
    stock_class, kwargs = algo_name_to_factory_func("bc")(algo_config)
    return type(f"{stock_class.__name__}Frozen", (Throughput, LeanCheckpoints, FeatureBatches, stock_class), {}), kwargs
