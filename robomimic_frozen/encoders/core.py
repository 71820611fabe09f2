"""The encoder core that robomimic configs name: `observation.encoder.rgb.core_class = "FrozenResNetCore"`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from robomimic.models.obs_core import EncoderCore
from torch import Tensor

from robomimic_frozen.encoders.readouts import projection
from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.errors import ConfigError


class FrozenResNetCore(EncoderCore):
    """Images [B, 3, H, W] in [0, 1], or what is cached of them [B, F] or [B, F, 1, 1] -> embedding [B, emb_dim].

    Resizes and crops, and passes a backbone and a trainable two-layer projection. Works under every robomimic algo. Arguments are the
    fields of EncoderSpec, with `input_shape` for its `image_shape`, and the size of the embedding.

    Raises:
        ConfigError: a setting is wrong, or the crop does not fit the image.
        WeightsUnavailableError, WeightsError: the pretrained weights cannot be had or do not fit.
    """

    # robomimic looks at this signature and drops what is not in it, so every key is spelt out.
    def __init__(
        self, input_shape: Sequence[int], rgb_model_name: str = EncoderSpec.rgb_model_name,
        pretrained_encoder: bool = EncoderSpec.pretrained_encoder, freeze_encoder: bool | str = EncoderSpec.freeze_encoder,
        emb_dim: int = 256, weights: str | None = EncoderSpec.weights, imagenet_norm: bool = EncoderSpec.imagenet_norm,
        resize_shape: Sequence[int] | None = EncoderSpec.resize_shape, crop_shape: Sequence[int] | None = EncoderSpec.crop_shape,
        random_crop: bool = EncoderSpec.random_crop, feature_stage: str | Sequence[str] | None = EncoderSpec.feature_stage,
        pool: Any = EncoderSpec.pool, grid_size: Sequence[int] = EncoderSpec.grid_size, augment: str | None = EncoderSpec.augment,
        max_shift: float = EncoderSpec.max_shift, map_noise: float = EncoderSpec.map_noise, map_drop: float = EncoderSpec.map_drop,
        use_group_norm: bool = EncoderSpec.use_group_norm, per_key: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        if per_key:
            raise ConfigError("per_key is for configs of robomimic, which knows obs keys; give this core the settings of its own")
        super().__init__(input_shape=input_shape)
        spec = EncoderSpec(
            rgb_model_name=rgb_model_name, pretrained_encoder=pretrained_encoder, freeze_encoder=freeze_encoder, weights=weights,
            imagenet_norm=imagenet_norm, resize_shape=resize_shape, crop_shape=crop_shape, random_crop=random_crop,
            feature_stage=feature_stage, pool=pool, grid_size=grid_size, augment=augment, max_shift=max_shift, map_noise=map_noise,
            map_drop=map_drop, use_group_norm=use_group_norm, image_shape=input_shape,
        )  # fmt: skip
        self.emb_dim = emb_dim
        self.preprocess = spec.preprocessing()
        self.backbone = spec.build()
        self.projection = projection(self.backbone.feature_dim, emb_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.ndim == 2 or inputs.shape[-2:] == (1, 1):
            return self.projection(self.backbone.finish(inputs.flatten(1)))
        return self.projection(self.backbone(self.preprocess(inputs)))

    def output_shape(self, input_shape: Sequence[int] | None = None) -> list[int]:
        """Return [emb_dim], whatever the image size."""
        return [self.emb_dim]
