"""What a backbone is, and how one is found by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.plugins import call_each, plugin_manager

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """An image network without its classifier, as a plugin's `frozen_backbones` hook describes it."""

    name: str
    """What `rgb_model_name` says."""
    build: Callable[[], nn.Module]
    """Makes the network, randomly initialised: normalised images [B, 3, H, W] -> features [B, feature_dim]."""
    feature_dim: int
    """Length of one feature vector."""
    fetch_weights: Callable[[], Path]
    """Gives the file of the pretrained weights, downloading it when needed; raises WeightsUnavailableError."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Channel means of the images it was pretrained on, in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Channel standard deviations of the same images."""
    unused_weights: tuple[str, ...] = ()
    """Prefixes of entries that the weights file may hold and the network does not have: the classifier, say."""


def available_backbones() -> dict[str, Backbone]:
    """Every backbone of the built-in and the installed plugins, by name."""
    found = call_each(plugin_manager().hook.frozen_backbones)
    return {backbone.name: backbone for _, backbones in found for backbone in backbones}


def get_backbone(name: str) -> Backbone:
    """The backbone called `name`. Raises ConfigError that lists the known names."""
    backbones = available_backbones()
    if name not in backbones:
        close = difflib.get_close_matches(str(name), backbones, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose one of: {', '.join(sorted(backbones))}"
        raise ConfigError(f"unknown backbone {name!r} in rgb_model_name; {hint}")
    return backbones[name]
