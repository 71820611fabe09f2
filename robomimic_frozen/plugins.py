"""The plugin manager, and what the built-in and the installed plugins provide."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import warnings
from typing import Any, Final

import pluggy

from robomimic_frozen import hookspecs
from robomimic_frozen.hookspecs import GROUP, hookimpl

__all__ = ["BUILTIN_PLUGINS", "hookimpl", "plugin_manager", "provided"]

BUILTIN_PLUGINS: Final = (
    "robomimic_frozen.encoders.resnet",
    "robomimic_frozen.encoders.efficientnet_lite",
    "robomimic_frozen.encoders.timm_models",
    "robomimic_frozen.encoders.presets",
    "robomimic_frozen.encoders.readouts",
    "robomimic_frozen.policies.networks",
    "robomimic_frozen.policies.chiunet",
    "robomimic_frozen.integration.registration",
    "robomimic_frozen.data.operators",
    "robomimic_frozen.data.sources",
)
"""Modules with the built-in implementations. They are named, not imported: they import this one."""


@functools.lru_cache(maxsize=1)
def plugin_manager() -> pluggy.PluginManager:
    """Return the manager that holds the built-in plugins and those of the entry-point group `robomimic_frozen`."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hookspecs)
    for module in BUILTIN_PLUGINS:
        manager.register(importlib.import_module(module), name=module)
    for entry_point in importlib.metadata.entry_points(group=GROUP):
        try:
            manager.register(entry_point.load(), name=entry_point.name)
        except Exception as error:  # anything a stranger's module can raise while it is imported
            _warn_skipped(entry_point.name, error)
    return manager


def provided(hook: str) -> list[Any]:
    """Return all that the plugins give to a hook; a third party's plugin that fails is named in a warning and skipped."""
    found: list[Any] = []
    for implementation in getattr(plugin_manager().hook, hook).get_hookimpls():
        try:
            found += implementation.function() or ()
        except Exception as error:
            if implementation.plugin_name in BUILTIN_PLUGINS:
                raise
            _warn_skipped(implementation.plugin_name, error)
    return found


def _warn_skipped(plugin: str, error: Exception) -> None:
    warnings.warn(f"robomimic_frozen: plugin {plugin!r} failed and is skipped: {type(error).__name__}: {error}", stacklevel=3)
