"""`EncoderSpec`: everything that the activation of an image depends on, from `core_kwargs` to the name of a cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from robomimic_frozen.encoders.backbones import Backbone, get_backbone
from robomimic_frozen.encoders.preprocessing import ResizeAndCrop, two_sizes
from robomimic_frozen.encoders.readouts import check_emb_dim, get_readout
from robomimic_frozen.encoders.vision import RANDOM, VisionBackbone
from robomimic_frozen.errors import ConfigError, did_you_mean
from robomimic_frozen.utils.files import fingerprint

# The fields that a description has under the same names.
_DESCRIBED: Final = ("pool", "grid_size", "resize_shape", "crop_shape", "cached_crops", "crop_seed", "dtype")


@dataclass(frozen=True)
class EncoderSpec:
    """What turns images of one obs key into features. Two equal ones give the same features of the same images.

    The fields that are also `core_kwargs` have their names; their defaults stand here and nowhere else. Once made, lists are tuples, and
    the backbone's own choices stand in the place of None.

    Raises:
        ConfigError: a setting is wrong, settings contradict one another, or the crop does not fit the image.
    """

    rgb_model_name: str = "resnet18"  # name of a backbone
    pretrained_encoder: bool = True  # start from pretrained weights instead of random ones
    freeze_encoder: bool | str = True  # False for nothing, True for all, or the name of the last frozen stage
    weights: str | None = None  # a weights file; None for the backbone's own pretrained ones
    imagenet_norm: bool = True  # normalise images as the backbone was pretrained
    resize_shape: Sequence[int] | None = None  # [height, width] the images are resized to first
    crop_shape: Sequence[int] | None = None  # [height, width] of the crop: random in training, central in evaluation
    random_crop: bool = True  # False for the central crop in training too
    feature_stage: str | Sequence[str] | None = None  # the stage or stages whose maps are read; None for the backbone's own choice
    pool: str | None = None  # name of the readout; None for the backbone's own choice
    grid_size: Sequence[int] = (3, 3)  # [rows, columns] of the readout 'grid'
    image_shape: Sequence[int] = (3, 84, 84)  # of one image
    cached_crops: int = 0  # random crops that are cached of each image besides the central one
    crop_seed: int = 0  # of the positions of those crops
    dtype: str = "float16"  # or 'float32', as the features are stored
    # The backbone of that name, or one that no plugin lists.
    backbone: Backbone = field(default=None, compare=False, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        image_shape = tuple(self.image_shape)
        if len(image_shape) != 3 or image_shape[0] != 3:
            raise ConfigError(
                f"FrozenResNetCore got an observation of shape {image_shape}; it takes images (3, H, W): "
                "list other observations under another modality than rgb"
            )
        if self.weights is not None and not isinstance(self.weights, (str, Path)):
            raise ConfigError(f"weights is {self.weights!r}; give the path of a weights file, or null for the backbone's own")
        if self.weights is not None and not self.pretrained_encoder:
            raise ConfigError(f"weights is {self.weights!r} but pretrained_encoder is false; set it to true, or weights to null")
        if self.dtype not in ("float16", "float32"):
            raise ConfigError(f"algo.feature_cache.dtype is {self.dtype!r}; choose 'float16' or 'float32'")
        for name in ("cached_crops", "crop_seed"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise ConfigError(f"algo.feature_cache.{name} is {getattr(self, name)}; choose 0 or more")
        backbone = self.backbone or get_backbone(self.rgb_model_name)
        if not isinstance(self.freeze_encoder, bool):
            backbone.stage_index("freeze_encoder", self.freeze_encoder)
        stages, pool = _stages(backbone, self.feature_stage), self.pool or backbone.pool
        grid_size = two_sizes("grid_size", self.grid_size, "[rows, columns]")
        get_readout(str(pool), grid_size)
        preprocessing = self.preprocessing()
        normalised = {
            "weights": None if self.weights is None else str(self.weights),
            "resize_shape": preprocessing.resize_shape,
            "crop_shape": preprocessing.crop_shape,
            "feature_stage": stages,
            "pool": pool,
            "grid_size": grid_size,
            "image_shape": image_shape,
            "cached_crops": self.cached_crops if preprocessing.crop_shape is not None and self.random_crop else 0,
            "backbone": backbone,
        }
        for name, value in normalised.items():
            object.__setattr__(self, name, value)  # the way to set a field of a frozen dataclass

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a listed backbone by its name: a worker has its plugin, and functions of a plugin need not be picklable."""
        values = tuple(getattr(self, each.name) for each in fields(self))
        try:
            get_backbone(self.rgb_model_name)
        except ConfigError:
            return EncoderSpec, values
        return EncoderSpec, values[:-1]

    def __deepcopy__(self, memo: dict) -> EncoderSpec:
        return self  # nothing in it changes

    @classmethod
    def from_core_kwargs(
        cls, core_kwargs: Mapping[str, Any], image_shape: Sequence[int], feature_cache: Mapping[str, Any] | None = None
    ) -> EncoderSpec:
        """Make the spec of a config's `core_kwargs` and, where it is given, `algo.feature_cache`. Raises as `check_core_kwargs`."""
        check_core_kwargs(core_kwargs)
        cached = {name: feature_cache[name] for name in ("cached_crops", "crop_seed", "dtype")} if feature_cache is not None else {}
        return cls(**_own_fields(core_kwargs), **cached, image_shape=image_shape)

    def preprocessing(self) -> ResizeAndCrop:
        """Return the module that resizes and crops the images."""
        return ResizeAndCrop(self.image_shape, self.resize_shape, self.crop_shape, self.random_crop)

    def build(self) -> VisionBackbone:
        """Return the network, with its weights loaded. Raises WeightsError, WeightsUnavailableError."""
        return VisionBackbone(self)

    def description(self, network: VisionBackbone | None = None) -> dict[str, Any]:
        """Return everything a cached activation depends on besides the image. Raises as `build`, which makes `network` where it is None."""
        network = network or self.build()
        return {
            "format_version": 1,
            "backbone": self.backbone.name,
            "frozen_stages": network.frozen_stages,
            "weights_sha256": network.frozen_sha256(),
            "feature_stages": self.feature_stage,
            "normalize": self.imagenet_norm,
            "feature_dim": network.frozen_dim,
            **{name: getattr(self, name) for name in _DESCRIBED},
        }

    def fingerprint(self) -> str:
        """Return the sha256 of `description`."""
        return fingerprint(self.description())

    @classmethod
    def from_description(cls, description: Mapping[str, Any], origin: str, image_shape: Sequence[int]) -> EncoderSpec:
        """Make the spec of a cache again; `origin` is `VisionBackbone.origin` when the cache was made."""
        return cls(
            description["backbone"],
            pretrained_encoder=origin != RANDOM,
            freeze_encoder=description["frozen_stages"][-1],
            weights=origin if Path(origin).is_absolute() else None,
            imagenet_norm=description["normalize"],
            feature_stage=description["feature_stages"],
            image_shape=image_shape,
            **{name: description[name] for name in _DESCRIBED},
        )


# Larger than any crop: what an image without a size is checked with.
_ANY_SIZE: Final = 2**30
_NOT_IN_CORE_KWARGS: Final = ("image_shape", "cached_crops", "crop_seed", "dtype", "backbone")
CORE_KWARGS: Final = (*(each.name for each in fields(EncoderSpec) if each.name not in _NOT_IN_CORE_KWARGS), "emb_dim")
"""The keys of `observation.encoder.rgb.core_kwargs`."""


def check_core_kwargs(core_kwargs: Mapping[str, Any]) -> None:
    """Raise ConfigError unless FrozenResNetCore can be made of a config's `core_kwargs`.

    robomimic would drop unseen a key that the core does not have. Whether the crop fits the images is left to whoever knows these.
    """
    for key in core_kwargs:
        if key not in (*CORE_KWARGS, "input_shape"):
            hint = did_you_mean(key, CORE_KWARGS, f"choose from: {', '.join(CORE_KWARGS)}")
            raise ConfigError(f"unknown key {key!r} in observation.encoder.rgb.core_kwargs; {hint}")
    check_emb_dim(core_kwargs.get("emb_dim", 1))
    EncoderSpec(**_own_fields(core_kwargs), image_shape=(3, _ANY_SIZE, _ANY_SIZE))


def _own_fields(core_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: core_kwargs[name] for name in CORE_KWARGS if name in core_kwargs and name != "emb_dim"}


def _stages(backbone: Backbone, setting: str | Sequence[str] | None) -> tuple[str, ...]:
    if setting is None:
        setting = backbone.feature_stage or backbone.stages[-1]
    names = setting if isinstance(setting, (list, tuple)) else (setting,)
    if not names:
        raise ConfigError("feature_stage is empty; name a stage, or null for the backbone's default")
    return tuple(backbone.stages[index] for index in sorted({backbone.stage_index("feature_stage", name) for name in names}))
