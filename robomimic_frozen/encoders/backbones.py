"""What a backbone is, and how one is found by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import nn

from robomimic_frozen.errors import ConfigError, did_you_mean
from robomimic_frozen.plugins import provided

GROUP_NORM: Final = "+group_norm"  # the end of the name of a backbone that `with_group_norm` made
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Backbone:
    """An image network without its classifier, as a plugin's `frozen_backbones` hook describes it."""

    name: str  # what `rgb_model_name` says
    build: Callable[[], nn.Module]  # makes the network, randomly initialised, with the names its weights file has
    # Gives the file of the pretrained weights, downloading it when needed; raises WeightsUnavailableError. None where `build` gives
    # the network with its weights.
    fetch_weights: Callable[[], Path] | None
    stages: tuple[str, ...] = ("final",)  # names of its stages, in the order in which images pass them
    # The network in pieces, one for each stage: normalised images [B, 3, H, W] -> a map [B, C, h, w], a vector [B, C], or tokens
    # [B, n + h * w, C], those of the patches last; and so on.
    split: Callable[[nn.Module], Iterable[nn.Module]] = lambda network: (network,)
    feature_stage: str | None = None  # the stage whose activation is the feature unless a config says otherwise; None for the last
    pool: str = "avg"  # the readout of its map unless a config says otherwise
    mean: tuple[float, float, float] = IMAGENET_MEAN  # channel means of the images it was pretrained on, in [0, 1]
    std: tuple[float, float, float] = IMAGENET_STD  # channel standard deviations of the same images
    patch_size: int = 1  # in pixels; images whose sides are no multiple of it are padded
    image_size: int | None = None  # the height and width to which images are resized unless a config says otherwise; None for not at all
    # Reads a file of weights for a network: the entries of its state dict. None where a file holds these and nothing around them.
    read_weights: Callable[[Path, nn.Module], Mapping[str, Any]] | None = None
    licence: str | None = None  # of its pretrained weights, as their project states it; None where that is not known here
    unused_weights: tuple[str, ...] = ()  # prefixes of entries of the weights file that the network does not have: the classifier, say

    def stage_index(self, setting: str, stage: Any) -> int:
        """Return the number of a stage. Raises ConfigError that lists the stages; `setting` says where the name came from."""
        if stage not in self.stages:
            raise ConfigError(f"{setting} is {stage!r}; the stages of {self.name} are: {', '.join(self.stages)}")
        return self.stages.index(stage)


@dataclass(frozen=True)
class BackboneFamily:
    """Backbones too many to list, which `rgb_model_name` calls 'prefix:name'. A plugin's hook gives it like a Backbone."""

    prefix: str  # what comes before the colon
    get: Callable[[str], Backbone]  # gives the one whose name comes after it; raises ConfigError if there is none


def with_group_norm(backbone: Backbone) -> Backbone:
    """Return a backbone with a GroupNorm of 16 channels a group in the place of each BatchNorm, under a name of its own.

    As in Diffusion Policy (Chi et al. 2023), where BatchNorm and the moving average of the weights disagree. Its `build` raises ConfigError
    for a network that has none, or such as do more than normalise.
    """
    return dataclasses.replace(backbone, name=f"{backbone.name}{GROUP_NORM}", build=functools.partial(_regrouped, backbone))


def _regrouped(backbone: Backbone) -> nn.Module:
    network = backbone.build()
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    for name, norm in norms.items():
        groups = max(1, norm.num_features // 16)
        if type(norm) is not nn.BatchNorm2d or norm.num_features % groups:
            what = f"{backbone.name} cannot have GroupNorm in the place of {name}, a {type(norm).__name__} of {norm.num_features} channels"
            raise ConfigError(f"{what}; set use_group_norm to false")
        network.set_submodule(name, nn.GroupNorm(groups, norm.num_features))
    if not norms:
        raise ConfigError(f"{backbone.name} has no BatchNorm that GroupNorm could take the place of; set use_group_norm to false")
    return network


def available_backbones() -> dict[str, Backbone]:
    """Return every backbone that the built-in and the installed plugins list, by name."""
    return {backbone.name: backbone for backbone in provided("frozen_backbones") if isinstance(backbone, Backbone)}


def get_backbone(name: str) -> Backbone:
    """Return the backbone called `name`. Raises ConfigError that lists the known names."""
    prefix, colon, rest = str(name).partition(":")
    for family in provided("frozen_backbones"):
        if isinstance(family, BackboneFamily) and colon and family.prefix == prefix:
            return family.get(rest)
    backbones = available_backbones()
    if not isinstance(name, str) or name not in backbones:
        hint = did_you_mean(name, backbones, f"choose one of: {', '.join(sorted(backbones))}")
        raise ConfigError(f"unknown backbone {name!r} in rgb_model_name; {hint}")
    return backbones[name]
