"""Demonstrations: scripted ones, and images of recorded ones. Importing this loads no numpy, robosuite or torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robomimic_frozen.data.demos import DemoSummary, generate_demos

__all__ = ["DemoSummary", "generate_demos"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("robomimic_frozen.data.demos"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
