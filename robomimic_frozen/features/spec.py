"""What a cached feature depends on. Whatever changes one of these makes another cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from robomimic_frozen.encoders.backbones import get_backbone
from robomimic_frozen.encoders.preprocessing import ResizeAndCrop
from robomimic_frozen.encoders.vision import GRID_SIZE, VisionBackbone
from robomimic_frozen.errors import ConfigError

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Extractor:
    """Images of one obs key -> what is cached of them: the network, the preprocessing and the crops.

    Attributes:
        vision: the backbone with its weights; what its frozen stages give is cached.
        preprocess: resizing and cropping.
        cached_crops: random crops of each image besides the central one; 0 where nothing is cropped at random.
        crop_seed: of the positions of those crops.
        dtype: 'float16' or 'float32', as the features are stored.
    """

    vision: VisionBackbone
    preprocess: ResizeAndCrop
    cached_crops: int
    crop_seed: int
    dtype: str

    @classmethod
    def from_config(cls, core_kwargs: Mapping[str, Any], cache: Mapping[str, Any], image_shape: tuple) -> Extractor:
        """For FrozenResNetCore's `core_kwargs`, the `algo.feature_cache` section, and images of shape (3, H, W)."""
        if cache["dtype"] not in ("float16", "float32"):
            raise ConfigError(f"algo.feature_cache.dtype is {cache['dtype']!r}; choose 'float16' or 'float32'")
        if cache["cached_crops"] < 0:
            raise ConfigError(f"algo.feature_cache.cached_crops is {cache['cached_crops']}; choose 0 or more")
        random_crop, crop_shape = core_kwargs.get("random_crop", True), core_kwargs.get("crop_shape")
        preprocess = ResizeAndCrop(image_shape, core_kwargs.get("resize_shape"), crop_shape, random_crop).eval()
        vision = VisionBackbone(
            get_backbone(core_kwargs["rgb_model_name"]),
            core_kwargs.get("weights"),
            core_kwargs.get("pretrained_encoder", True),
            frozen=core_kwargs.get("freeze_encoder", True),
            normalize=core_kwargs.get("imagenet_norm", True),
            feature_stage=core_kwargs.get("feature_stage"),
            pool=core_kwargs.get("pool"),
            grid_size=core_kwargs.get("grid_size", GRID_SIZE),
            image_size=preprocess.output_size,
        )
        crops = cache["cached_crops"] if crop_shape is not None and random_crop else 0
        return cls(vision, preprocess, crops, cache["crop_seed"], cache["dtype"])

    @property
    def feature_bytes(self) -> int:
        """Size of all features of one image."""
        return (1 + self.cached_crops) * self.vision.frozen_dim * np.dtype(self.dtype).itemsize

    def description(self) -> dict[str, Any]:
        """Everything a feature depends on besides the image, as JSON has it."""
        return {
            "format_version": FORMAT_VERSION,
            "backbone": self.vision.backbone.name,
            "frozen_stages": self.vision.frozen_stages,
            "weights_sha256": self.vision.frozen_sha256(),
            "feature_stages": self.vision.feature_stages,
            "pool": self.vision.pool_name,
            "grid_size": self.vision.grid_size,
            "normalize": self.vision.normalize,
            "resize_shape": self.preprocess.resize_shape,
            "crop_shape": self.preprocess.crop_shape,
            "cached_crops": self.cached_crops,
            "crop_seed": self.crop_seed,
            "dtype": self.dtype,
            "feature_dim": self.vision.frozen_dim,
        }


def cache_key(description: Mapping[str, Any], obs_key: str, images: Mapping[str, str]) -> str:
    """Name of the cache of these images, given as demo -> sha256, under this description."""
    content = json.dumps([description, obs_key, list(images.items())], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:32]
