"""ResNet18/34/50 of torchvision, without the classifier (He et al. 2016, https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final

import torchvision.models
from torch import nn

from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.encoders.weights import fetch_from_hub
from robomimic_frozen.plugins import hookimpl

STAGES: Final = ("layer1", "layer2", "layer3", "layer4")


def build(name: str) -> nn.Module:
    """Make a ResNet of torchvision without its classifier."""
    network = torchvision.models.get_model(name, weights=None)
    network.fc = nn.Identity()
    return network


def split(network: Any) -> tuple[nn.Module, ...]:
    """Return a ResNet in pieces, one for each of `STAGES`."""
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return nn.Sequential(stem, network.layer1), network.layer2, network.layer3, network.layer4


def _fetch_weights(name: str) -> Path:
    # The original ImageNet weights (V1): what the published frozen-encoder results used.
    return fetch_from_hub(torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url, name)


@hookimpl
def frozen_backbones() -> list[Backbone]:
    return [
        Backbone(
            name,
            functools.partial(build, name),
            functools.partial(_fetch_weights, name),
            stages=STAGES,
            split=split,
            licence="BSD 3-Clause",
            unused_weights=("fc.",),
        )
        for name in ("resnet18", "resnet34", "resnet50")
    ]
