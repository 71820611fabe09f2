"""The encoder core that robomimic configs name: `observation.encoder.rgb.core_class = "FrozenResNetCore"`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from robomimic.models.obs_core import EncoderCore
from torch import Tensor

from robomimic_frozen.encoders.backbones import get_backbone
from robomimic_frozen.encoders.preprocessing import ResizeAndCrop
from robomimic_frozen.encoders.projection import projection
from robomimic_frozen.encoders.vision import GRID_SIZE, VisionBackbone
from robomimic_frozen.errors import ConfigError


class FrozenResNetCore(EncoderCore):
    """Images [B, 3, H, W] in [0, 1], or what is cached of them [B, F] or [B, F, 1, 1] -> embedding [B, emb_dim].

    resize and crop -> backbone (frozen, pretrained) -> trainable two-layer projection. Works under every robomimic algo.

    Args:
        input_shape: (3, H, W) of one image.
        rgb_model_name: 'resnet18', 'resnet34', 'resnet50', 'efficientnet_lite0', or a plugin's backbone.
        pretrained_encoder: start from pretrained weights instead of random ones.
        freeze_encoder: train the projection only; or the name of a stage, to freeze the backbone up to and with it.
        emb_dim: size of the embedding.
        weights: a weights file; None for the backbone's ImageNet weights.
        imagenet_norm: normalise images as the backbone was pretrained.
        resize_shape: [height, width] the images are resized to first, or None.
        crop_shape: [height, width] of the crop: random in training, central in evaluation, or None.
        random_crop: False for the central crop in training too.
        feature_stage: a stage ('layer1' to 'layer4') or several, whose activations are the feature; None for the backbone's
            own choice: the last, but the third of efficientnet_lite0.
        pool: how they become vectors: 'avg', 'grid' or 'spatial_softmax'; None for the backbone's own choice.
        grid_size: [rows, columns] of the pool 'grid'.

    Raises:
        ConfigError: a setting is wrong, or the crop does not fit the image.
        WeightsUnavailableError, WeightsError: the pretrained weights cannot be had or do not fit.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        rgb_model_name: str = "resnet18",
        pretrained_encoder: bool = True,
        freeze_encoder: bool | str = True,
        emb_dim: int = 256,
        weights: str | None = None,
        imagenet_norm: bool = True,
        resize_shape: Sequence[int] | None = None,
        crop_shape: Sequence[int] | None = None,
        random_crop: bool = True,
        feature_stage: str | Sequence[str] | None = None,
        pool: str | None = None,
        grid_size: Sequence[int] = GRID_SIZE,
    ) -> None:
        super().__init__(input_shape=input_shape)
        if len(input_shape) != 3 or input_shape[0] != 3:
            raise ConfigError(
                f"FrozenResNetCore got an observation of shape {tuple(input_shape)}; it takes images (3, H, W): "
                "list other observations under another modality than rgb"
            )
        if weights is not None and not pretrained_encoder:
            raise ConfigError(f"weights is {weights!r} but pretrained_encoder is false; set it to true, or weights to null")
        self.emb_dim = emb_dim
        self.preprocess = ResizeAndCrop(input_shape, resize_shape, crop_shape, random_crop)
        self.backbone = VisionBackbone(
            get_backbone(rgb_model_name), weights, pretrained_encoder, freeze_encoder, imagenet_norm,
            feature_stage, pool, grid_size, self.preprocess.output_size,
        )
        self.projection = projection(self.backbone.feature_dim, emb_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim == 2 or inputs.shape[-2:] == (1, 1):
            return self.projection(self.backbone.finish(inputs.flatten(1)))
        return self.projection(self.backbone(self.preprocess(inputs)))

    def output_shape(self, input_shape: Sequence[int] | None = None) -> list[int]:
        """[emb_dim], whatever the image size."""
        return [self.emb_dim]


def check_core_kwargs(core_kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key FrozenResNetCore does not have, which robomimic would drop unseen, and for an unknown backbone."""
    known = [name for name in inspect.signature(FrozenResNetCore).parameters if name != "input_shape"]
    for key in core_kwargs:
        if key not in (*known, "input_shape"):
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose from: {', '.join(known)}"
            raise ConfigError(f"unknown key {key!r} in observation.encoder.rgb.core_kwargs; {hint}")
    if "rgb_model_name" in core_kwargs:
        get_backbone(core_kwargs["rgb_model_name"])
