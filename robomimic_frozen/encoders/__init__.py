"""Pixels -> embedding: backbones, their weights, preprocessing, and the robomimic core made of them."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Backbone": "backbones",
    "BackboneFamily": "backbones",
    "EncoderSpec": "spec",
    "FrozenResNetCore": "core",
    "MultiImageObsEncoder": "multi_image",
    "available_backbones": "backbones",
    "check_core_kwargs": "spec",
    "get_backbone": "backbones",
    "get_resnet": "multi_image",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
