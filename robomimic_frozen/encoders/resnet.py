"""ResNet18/34/50 of torchvision, without the classifier (He et al. 2016, https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torchvision.models
from torch import nn

from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.encoders.weights import fetch_from_hub
from robomimic_frozen.plugins import hookimpl

# The original ImageNet weights (V1): what the published frozen-encoder results used.
_RESNETS = (
    (torchvision.models.resnet18, torchvision.models.ResNet18_Weights.IMAGENET1K_V1),
    (torchvision.models.resnet34, torchvision.models.ResNet34_Weights.IMAGENET1K_V1),
    (torchvision.models.resnet50, torchvision.models.ResNet50_Weights.IMAGENET1K_V1),
)
_STAGES = ("layer1", "layer2", "layer3", "layer4")


def _without_classifier(constructor: Callable[..., nn.Module]) -> nn.Module:
    network = constructor(weights=None)
    network.fc = nn.Identity()
    return network


def _split(network: Any) -> tuple[nn.Module, ...]:
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return nn.Sequential(stem, network.layer1), network.layer2, network.layer3, network.layer4


@hookimpl
def frozen_backbones() -> list[Backbone]:
    return [
        Backbone(
            name=constructor.__name__,
            build=functools.partial(_without_classifier, constructor),
            stages=_STAGES,
            split=_split,
            fetch_weights=functools.partial(fetch_from_hub, weights.url, constructor.__name__),
            unused_weights=("fc.",),
        )
        for constructor, weights in _RESNETS
    ]
