"""Demonstrations: scripted ones, and images of recorded ones. Importing this loads no numpy, robosuite or torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robomimic_frozen.data.demos import DemoSummary, generate_demos

__all__ = ["DemoSummary", "generate_demos"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from robomimic_frozen.data import demos

    return getattr(demos, name)
