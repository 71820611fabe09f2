"""robomimic's BC family over cached features: `"algo_name": "bc_frozen"`."""

from __future__ import annotations

from typing import Any

from robomimic.algo import algo_name_to_factory_func, register_algo_factory_func

from robomimic_frozen.policies.frozen_algo import FrozenAlgo


@register_algo_factory_func("bc_frozen")
def algo_config_to_class(algo_config: Any) -> tuple[type, dict]:
    """Return the class robomimic's `bc` would build for this config, with batches of features."""
    stock_class, kwargs = algo_name_to_factory_func("bc")(algo_config)
    return type(f"{stock_class.__name__}Frozen", (FrozenAlgo, stock_class), {}), kwargs
