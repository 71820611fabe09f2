"""`register()`, which makes stock robomimic know this package, and the plugin with what this package itself has for robomimic."""

from __future__ import annotations

import functools
import importlib

from robomimic_frozen.integration import patches
from robomimic_frozen.plugins import hookimpl, provided
from robomimic_frozen.simulation.gl import prepare_robosuite


@functools.lru_cache(maxsize=1)
def register() -> None:
    """Make robomimic know the algorithms, configs and cores of every plugin. Calling it again does nothing."""
    prepare_robosuite()
    provided("robomimic_components")
    patches.restore_without_weights_files()
    patches.serve_cached_features()
    patches.normalize_observations_that_have_statistics()
    patches.take_absolute_actions_where_asked()
    patches.give_each_obs_key_its_settings()
    patches.randomize_no_cached_features()
    patches.leave_actions_in_their_units()
    patches.save_the_width_of_actions()
    patches.let_users_choose_the_mode_of_wandb()


@hookimpl
def robomimic_components() -> None:
    for module in ("config", "encoders.core", "policies.fbc", "policies.frozen_algo"):
        importlib.import_module(f"robomimic_frozen.{module}")
