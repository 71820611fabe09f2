"""The built-in plugin that hands robomimic this package's configs, algorithms and encoder core."""

from __future__ import annotations

import importlib

from robomimic_frozen.plugins import hookimpl


@hookimpl
def robomimic_components() -> None:
    for module in ("config", "encoders.core", "policies.fbc", "policies.bc"):
        importlib.import_module(f"robomimic_frozen.{module}")
