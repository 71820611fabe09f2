"""The two hooks, the plugin manager, and `register()`, which makes stock robomimic know this package.

The built-in backbones, algorithms and cores come in through the same hooks as a third party's.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from robomimic_frozen.encoders.backbones import Backbone, BackboneFamily

GROUP = "robomimic_frozen"

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)

# Modules that hold the built-in hook implementations; torch is imported only when one of them is loaded.
BUILTIN_PLUGINS = (
    "robomimic_frozen.encoders.resnet",
    "robomimic_frozen.encoders.efficientnet_lite",
    "robomimic_frozen.encoders.timm_models",
    "robomimic_frozen.components",
)


class HookSpecs:
    """What a plugin may implement."""

    @hookspec
    def frozen_backbones(self) -> Iterable[Backbone | BackboneFamily]:  # type: ignore[empty-body]
        """Return the image backbones that `rgb_model_name` can then name."""

    @hookspec
    def robomimic_components(self) -> None:
        """Import the modules that define robomimic algos, configs and encoder cores."""


@functools.lru_cache(maxsize=1)
def plugin_manager() -> pluggy.PluginManager:
    """The manager that holds the built-in plugins and those of the entry-point group `robomimic_frozen`."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(HookSpecs)
    for module in BUILTIN_PLUGINS:
        manager.register(importlib.import_module(module), name=module)
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        try:
            manager.register(entry_point.load(), name=entry_point.name)
        except Exception as error:  # anything a stranger's module can raise while it is imported
            _warn_skipped(entry_point.name, error)
    return manager


def call_each(hook: pluggy.HookCaller) -> Iterator[tuple[str, Any]]:
    """Yield (plugin name, result) of every implementation; a third party's that fails is named and skipped."""
    for implementation in hook.get_hookimpls():
        try:
            result = implementation.function()
        except Exception as error:
            if implementation.plugin_name in BUILTIN_PLUGINS:
                raise
            _warn_skipped(implementation.plugin_name, error)
            continue
        yield implementation.plugin_name, result


@functools.lru_cache(maxsize=1)
def register() -> None:
    """Make robomimic know the algos, configs and cores of every plugin. Calling it again does nothing."""
    from robomimic_frozen import compat

    compat.provide_mujoco_py()
    compat.render_where_cuda_is_hidden()
    for _ in call_each(plugin_manager().hook.robomimic_components):
        pass
    compat.build_restored_policies_without_weights_files()
    compat.serve_cached_features()
    compat.normalize_observations_that_have_statistics()


def _warn_skipped(plugin: str, error: Exception) -> None:
    warnings.warn(
        f"robomimic_frozen: plugin {plugin!r} failed and is skipped: {type(error).__name__}: {error}", stacklevel=3
    )
