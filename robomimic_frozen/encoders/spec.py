"""`EncoderSpec`: everything that the activation of an image depends on, from `core_kwargs` to the name of a cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

from robomimic_frozen.encoders.backbones import GROUP_NORM, Backbone, get_backbone, with_group_norm
from robomimic_frozen.encoders.preprocessing import ResizeAndCrop, two_sizes
from robomimic_frozen.encoders.readouts import MAP, Reading, as_pairs, check_emb_dim, make_reading
from robomimic_frozen.encoders.vision import RANDOM, VisionBackbone
from robomimic_frozen.errors import ConfigError, did_you_mean
from robomimic_frozen.utils.files import fingerprint

Randomizer: TypeAlias = tuple[str, Mapping[str, Any]]
"""The name of a class of robomimic's randomizers, and its arguments but the shape of the images."""

# The fields that a description has under the same names.
_DESCRIBED: Final = ("resize_shape", "crop_shape", "cached_crops", "crop_seed", "dtype")


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
    use_group_norm: bool = False  # GroupNorm in the place of BatchNorm; only with random weights
    imagenet_norm: bool = True  # normalise images as the backbone was pretrained
    resize_shape: Sequence[int] | None = None  # [height, width] the images are resized to first; None for the backbone's own choice
    crop_shape: Sequence[int] | None = None  # [height, width] of the crop: random in training, central in evaluation
    random_crop: bool = True  # False for the central crop in training too
    feature_stage: str | Sequence[str] | None = None  # the stage or stages whose maps are read; None for the backbone's own choice
    # Name of the readout, or {'name': ..., PARAMETER: ...}, or a list of these: one for each stage, or several for one stage. None for the
    # backbone's own choice.
    pool: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] | None = None
    grid_size: Sequence[int] = (3, 3)  # [rows, columns] of the readout 'grid'
    augment: str | None = "crops"  # "crops" (`crop_shape`, `random_crop`), "shift" of whole images' maps, or None for the central crop
    max_shift: float = 4.0  # of "shift": by how many pixels of the image its maps are moved at most
    map_noise: float = 0.0  # in training: standard deviation of noise on maps, as a share of that of each map
    map_drop: float = 0.0  # in training: the share of positions of maps that are set to zero
    image_shape: Sequence[int] = (3, 84, 84)  # of one image
    randomizers: Sequence[Randomizer] = ()  # of robomimic, which change what is cached besides the central crop
    cached_crops: int = 0  # random crops that are cached of each image besides the central one, each changed by the randomizers
    crop_seed: int = 0  # of the positions of those crops, and of the randomizers
    dtype: str = "float16"  # or 'float32' or 'int8', as the features are stored
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
        if self.augment not in (None, "crops", "shift"):
            raise ConfigError(f"augment is {self.augment!r}; choose 'crops', 'shift' or null")
        if not isinstance(self.max_shift, (int, float)) or not self.max_shift > 0:
            raise ConfigError(f"max_shift is {self.max_shift!r}; choose a number of pixels above 0, or another augment for no shift")
        if not isinstance(self.map_noise, (int, float)) or not self.map_noise >= 0:
            raise ConfigError(f"map_noise is {self.map_noise!r}; choose 0 (for none) or more")
        if not isinstance(self.map_drop, (int, float)) or not 0 <= self.map_drop < 1:
            raise ConfigError(f"map_drop is {self.map_drop!r}; choose 0 (for none) or more, and less than 1")
        if self.dtype not in ("float16", "float32", "int8"):
            raise ConfigError(f"algo.feature_cache.dtype is {self.dtype!r}; choose 'float16', 'float32' or 'int8'")
        for name in ("cached_crops", "crop_seed"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise ConfigError(f"algo.feature_cache.{name} is {getattr(self, name)}; choose 0 or more")
        backbone = self.backbone or get_backbone(self.rgb_model_name)
        check_group_norm(self.use_group_norm, self.pretrained_encoder)
        if self.use_group_norm and not backbone.name.endswith(GROUP_NORM):
            backbone = with_group_norm(backbone)
        if not isinstance(self.freeze_encoder, bool):
            backbone.stage_index("freeze_encoder", self.freeze_encoder)
        grid_size = two_sizes("grid_size", self.grid_size, "[rows, columns]")
        readings = _readings(backbone, self.feature_stage, backbone.pool if self.pool is None else self.pool, grid_size)
        if self.resize_shape is None and backbone.image_size is not None:
            object.__setattr__(self, "resize_shape", (backbone.image_size, backbone.image_size))
        preprocessing = self.preprocessing()
        normalised = {
            "weights": None if self.weights is None else str(self.weights),
            "resize_shape": preprocessing.resize_shape,
            "crop_shape": preprocessing.crop_shape,
            "feature_stage": tuple(dict.fromkeys(reading.stage for reading in readings)),
            "pool": readings,
            "grid_size": grid_size,
            "image_shape": image_shape,
            "randomizers": tuple((name, as_pairs(dict(given))) for name, given in self.randomizers),
            "cached_crops": self.cached_crops if self.randomizers or (preprocessing.crop_shape and preprocessing.random_crop) else 0,
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
        cls, core_kwargs: Mapping[str, Any], image_shape: Sequence[int], feature_cache: Mapping[str, Any] | None = None,
        randomizers: Sequence[Randomizer] = (),
    ) -> EncoderSpec:  # fmt: skip
        """Make the spec of a config's `core_kwargs` and, where it is given, `algo.feature_cache`. Raises as `check_core_kwargs`."""
        check_core_kwargs(core_kwargs)
        cached = {name: feature_cache[name] for name in ("cached_crops", "crop_seed", "dtype")} if feature_cache is not None else {}
        return cls(**_own_fields(core_kwargs), **cached, randomizers=randomizers, image_shape=image_shape)

    @property
    def augments_maps(self) -> bool:
        """Return whether maps are changed in training, so that whole ones have to be kept."""
        return self.augment == "shift" or self.map_noise > 0 or self.map_drop > 0

    def preprocessing(self) -> ResizeAndCrop:
        """Return the module that resizes and crops the images; with "shift" they stay whole."""
        crop_shape = None if self.augment == "shift" else self.crop_shape
        return ResizeAndCrop(self.image_shape, self.resize_shape, crop_shape, self.random_crop and self.augment == "crops")

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
            **_described(network.kept, self.grid_size),
            **(self._described_randomizers() if self.randomizers else {}),  # caches of 0.1.0 have no such entries
            **{name: getattr(self, name) for name in _DESCRIBED},
        }

    def _described_randomizers(self) -> dict[str, Any]:
        random_crop = self.preprocessing().random_crop and self.crop_shape is not None
        return {"randomizers": [(name, dict(given)) for name, given in self.randomizers], "random_crop": random_crop}

    def fingerprint(self) -> str:
        """Return the sha256 of `description`."""
        return fingerprint(self.description())

    @classmethod
    def from_description(cls, description: Mapping[str, Any], origin: str, image_shape: Sequence[int]) -> EncoderSpec:
        """Make the spec of a cache again; `origin` is `VisionBackbone.origin` when the cache was made."""
        return cls(
            description["backbone"].removesuffix(GROUP_NORM),
            use_group_norm=description["backbone"].endswith(GROUP_NORM),
            pretrained_encoder=origin != RANDOM,
            freeze_encoder=description["frozen_stages"][-1],
            weights=origin if Path(origin).is_absolute() else None,
            imagenet_norm=description["normalize"],
            feature_stage=description["feature_stages"],
            pool=_readings_of(description["pool"]),
            grid_size=description["grid_size"],
            randomizers=description.get("randomizers", ()),
            random_crop=description.get("random_crop", True),
            image_shape=image_shape,
            **{name: description[name] for name in _DESCRIBED},
        )


# Larger than any crop: what an image without a size is checked with.
_ANY_SIZE: Final = 2**30
_NOT_IN_CORE_KWARGS: Final = ("image_shape", "randomizers", "cached_crops", "crop_seed", "dtype", "backbone")
CORE_KWARGS: Final = (*(each.name for each in fields(EncoderSpec) if each.name not in _NOT_IN_CORE_KWARGS), "emb_dim", "per_key")
"""The keys of `observation.encoder.rgb.core_kwargs`."""


def check_group_norm(use_group_norm: bool, pretrained: bool) -> None:
    """Raise ConfigError for GroupNorm together with pretrained weights."""
    if use_group_norm and pretrained:
        raise ConfigError(
            "use_group_norm with pretrained weights throws their BatchNorm statistics away, and the features with them; "
            "set use_group_norm to false, or start from random weights"
        )


def of_key(core_kwargs: Mapping[str, Any], obs_key: str) -> dict[str, Any]:
    """Return a config's `core_kwargs` as they are for one obs key: with what `per_key` says of it in the place of what they say."""
    own = (core_kwargs.get("per_key") or {}).get(obs_key, {})
    return {**{key: value for key, value in core_kwargs.items() if key != "per_key"}, **own}


def settings_in(core_kwargs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a config's `core_kwargs` as they are for an obs key that `per_key` does not name, and for each that it names."""
    return [core_kwargs, *(of_key(core_kwargs, obs_key) for obs_key in core_kwargs.get("per_key") or {})]


def check_core_kwargs(core_kwargs: Mapping[str, Any], obs_keys: Collection[str] | None = None) -> None:
    """Raise ConfigError unless FrozenResNetCore can be made of a config's `core_kwargs`.

    robomimic would drop unseen a key that the core does not have. Whether the crop fits the images is left to whoever knows these.

    Args:
        obs_keys: those of images, among which `per_key` chooses; None where they are not known.
    """
    per_key = core_kwargs.get("per_key") or {}
    if not isinstance(per_key, Mapping) or not all(isinstance(own, Mapping) for own in per_key.values()):
        raise ConfigError(f"core_kwargs.per_key is {per_key!r}; give {{OBS_KEY: {{SETTING: VALUE}}}}, or null")
    for obs_key in per_key:
        if obs_keys is not None and obs_key not in obs_keys:
            hint = did_you_mean(obs_key, obs_keys, f"images are: {', '.join(sorted(obs_keys)) or 'none'}")
            raise ConfigError(f"core_kwargs.per_key names {obs_key!r}, which is no obs key of an image; {hint}")
        if "per_key" in per_key[obs_key]:
            raise ConfigError(f"core_kwargs.per_key.{obs_key} has a per_key of its own; remove it")
        check_core_kwargs(of_key(core_kwargs, obs_key))
    for key in core_kwargs:
        if key not in (*CORE_KWARGS, "input_shape"):
            hint = did_you_mean(key, CORE_KWARGS, f"choose from: {', '.join(CORE_KWARGS)}")
            raise ConfigError(f"unknown key {key!r} in observation.encoder.rgb.core_kwargs; {hint}")
    check_emb_dim(core_kwargs.get("emb_dim", 1))
    EncoderSpec(**_own_fields(core_kwargs), image_shape=(3, _ANY_SIZE, _ANY_SIZE))


def _own_fields(core_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: core_kwargs[name] for name in CORE_KWARGS if name in core_kwargs and name not in ("emb_dim", "per_key")}


def _readings(backbone: Backbone, feature_stage: Any, pool: Any, grid_size: tuple[int, int]) -> tuple[Reading, ...]:
    """Return what is read of which stage, in the order of the stages."""
    stages = _as_list(backbone.feature_stage or backbone.stages[-1] if feature_stage is None else feature_stage)
    pools = _as_list(pool)
    if not stages:
        raise ConfigError("feature_stage is empty; name a stage, or null for the backbone's default")
    if not pools:
        raise ConfigError("pool is empty; name a readout, or null for the backbone's default")
    order = {stage: backbone.stage_index("feature_stage", stage) for stage in stages}
    if not all(isinstance(each, Reading) for each in pools):  # which say of what stage they are
        stages = stages * len(pools) if len(stages) == 1 else stages
        pools = pools * len(stages) if len(pools) == 1 else pools
        if len(stages) != len(pools):
            raise ConfigError(f"pool has {len(pools)} readouts, and feature_stage {len(stages)} stages; give one for each, or one only")
        pools = [make_reading(stage, each, grid_size) for stage, each in zip(stages, pools, strict=True)]
    return tuple(sorted(dict.fromkeys(pools), key=lambda reading: order[reading.stage]))


def _as_list(setting: Any) -> list[Any]:
    return list(setting) if isinstance(setting, (list, tuple)) else [setting]


def _described(kept: Sequence[Reading], grid_size: Any) -> dict[str, Any]:
    """Return what a description says of the readouts whose vectors are kept: as in 0.1.0, where it is the same for each stage."""
    of_each = {(reading.readout, reading.parameters) for reading in kept}
    if len(of_each) > 1 or len({reading.stage for reading in kept}) < len(kept):
        readings = [[reading.stage, reading.readout, dict(reading.parameters)] for reading in kept]
        return {"pool": readings, "grid_size": EncoderSpec.grid_size}
    ((readout, parameters),) = of_each
    return {"pool": readout, "grid_size": EncoderSpec.grid_size if readout == MAP else dict(parameters).get("grid_size", grid_size)}


def _readings_of(described: Any) -> Any:
    if isinstance(described, str):
        return described
    return [Reading.of(stage, name, given) for stage, name, given in described]
