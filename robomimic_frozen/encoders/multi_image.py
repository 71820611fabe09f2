"""MultiImageObsEncoder: all cameras and low-dim observations -> one embedding, without robomimic."""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone, get_backbone, with_group_norm
from robomimic_frozen.encoders.readouts import projection
from robomimic_frozen.encoders.spec import EncoderSpec, check_group_norm
from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.encoders.weights import load_weights
from robomimic_frozen.errors import ConfigError, ObservationError, did_you_mean

Shape = Sequence[int]

_OVERSHOOT: Final = 0.25
"""How far images may leave [0, 1]. Bicubic resizing does so by half of that; images of 0 to 255, of [-1, 1] or less their mean by more."""


class MultiImageObsEncoder(nn.Module):
    """Observations {key: [B, ...]} -> embedding [B, emb_dim]. Images are floats in [0, 1], or uint8 of 0 to 255.

    Resizes and crops every image, and passes it through a backbone. The features of all cameras and the low-dim observations are
    concatenated, in alphabetical order of their keys with images first, and go through one trainable two-layer projection.
    Backbone, preprocessing and projection are those of FrozenResNetCore.

    Args:
        shape_meta: {'obs': {key: {'shape': [3, H, W] or [D], 'type': 'rgb' or 'low_dim'}}}; the type is 'low_dim' if absent.
        rgb_model_name: name of a backbone, or a network of your own: images [B, 3, H, W] -> [B, C] or [B, C, h, w].
        resize_shape, crop_shape: (height, width), or a dict of them by key, or None.
        share_rgb_model: one backbone for all cameras. Frozen ones share their memory anyway.
        use_seq: observations are [B, T, ...]; the result is [B, T * emb_dim].
        keep_horizon_dims: with `use_seq`, the result is [B, T, emb_dim].
        pretrained, freeze_rgb_encoder, and others: as `pretrained_encoder`, `freeze_encoder` and those of their names in EncoderSpec.

    Attributes:
        key_model_map: key, or 'rgb' when shared -> VisionBackbone.
        key_transform_map: key -> ResizeAndCrop.
        mlp: the projection.

    Raises:
        ConfigError: a setting or the shape_meta is wrong.
        WeightsUnavailableError, WeightsError: the pretrained weights cannot be had or do not fit.
        ObservationError: from `forward`, when an observation is missing, has another shape than shape_meta says, or is no image in
            [0, 1] where one belongs. Looking at the values of float images waits for a GPU, so that training does so in its first
            batch alone, and what torch compiles, traces, maps or captures not at all.
    """

    def __init__(
        self, shape_meta: Mapping[str, Any], rgb_model_name: str | nn.Module = EncoderSpec.rgb_model_name, emb_dim: int = 256,
        resize_shape: Shape | Mapping[str, Shape] | None = None, crop_shape: Shape | Mapping[str, Shape] | None = None,
        random_crop: bool = EncoderSpec.random_crop, use_group_norm: bool = EncoderSpec.use_group_norm, share_rgb_model: bool = False,
        imagenet_norm: bool = EncoderSpec.imagenet_norm, use_seq: bool = False, keep_horizon_dims: bool = False,
        pretrained: bool = EncoderSpec.pretrained_encoder, freeze_rgb_encoder: bool | str = EncoderSpec.freeze_encoder,
        weights: str | Path | None = EncoderSpec.weights, feature_stage: str | Sequence[str] | None = EncoderSpec.feature_stage,
        pool: Any = EncoderSpec.pool, grid_size: Sequence[int] = EncoderSpec.grid_size, augment: str | None = EncoderSpec.augment,
        max_shift: float = EncoderSpec.max_shift, map_noise: float = EncoderSpec.map_noise, map_drop: float = EncoderSpec.map_drop,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shapes, self.rgb_keys, self.low_dim_keys = _read_shape_meta(shape_meta)
        self.emb_dim = self.output_dim = emb_dim
        self.share_rgb_model = share_rgb_model
        self.use_seq = use_seq
        self.keep_horizon_dims = keep_horizon_dims
        self.freeze_rgb_encoder = freeze_rgb_encoder
        check_group_norm(use_group_norm, pretrained)
        self._seen: set[str] = set()  # keys of images whose values were looked at
        resize_shapes = _by_key("resize_shape", resize_shape, self.rgb_keys)
        crop_shapes = _by_key("crop_shape", crop_shape, self.rgb_keys)
        backbone = _backbone(rgb_model_name, use_group_norm)
        specs = {
            key: EncoderSpec(
                backbone.name,
                # Of a network of the caller's own, the weights are those it comes with.
                pretrained_encoder=pretrained or backbone.fetch_weights is None, weights=None if weights is None else str(weights),
                freeze_encoder=freeze_rgb_encoder, imagenet_norm=imagenet_norm, random_crop=random_crop,
                resize_shape=resize_shapes[key], crop_shape=crop_shapes[key],
                feature_stage=feature_stage, pool=pool, grid_size=grid_size, augment=augment, max_shift=max_shift, map_noise=map_noise,
                map_drop=map_drop, use_group_norm=use_group_norm and isinstance(rgb_model_name, str), image_shape=self.shapes[key],
                backbone=backbone,
            )
            for key in self.rgb_keys
        }  # fmt: skip
        self.key_transform_map = nn.ModuleDict({key: spec.preprocessing() for key, spec in specs.items()})
        if share_rgb_model and len({spec.preprocessing().output_size for spec in specs.values()}) > 1:
            raise ConfigError("share_rgb_model needs images of one size; give each key a resize_shape or crop_shape to that end")
        self.key_model_map = nn.ModuleDict()
        for key in self.rgb_keys[:1] if share_rgb_model else self.rgb_keys:
            self.key_model_map["rgb" if share_rgb_model else key] = specs[key].build()
        images = sum(self._model(key).feature_dim for key in self.rgb_keys)
        self.mlp = projection(images + sum(math.prod(self.shapes[key]) for key in self.low_dim_keys), emb_dim)

    def _model(self, key: str) -> VisionBackbone:
        return cast(VisionBackbone, self.key_model_map["rgb" if self.share_rgb_model else key])

    def output_shape(self) -> tuple[int]:
        """Return the shape of the embedding without batch and time."""
        return (self.emb_dim,)

    def forward(self, obs_dict: Mapping[str, Tensor]) -> Tensor:
        """Embed images and low-dim observations, each [B, *shape], or [B, T, *shape] with `use_seq`."""
        lead, dtype = self._check(obs_dict), next(self.mlp.parameters()).dtype
        features = []
        for key in self.rgb_keys:
            images = obs_dict[key].reshape(-1, *self.shapes[key])
            images = images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)
            self._model(key).frames = lead[1] if self.use_seq else 1
            features.append(self._model(key)(self.key_transform_map[key](images)))
        features += [obs_dict[key].reshape(-1, math.prod(self.shapes[key])).to(dtype) for key in self.low_dim_keys]
        embedding = self.mlp(torch.cat(features, dim=-1))
        if not self.use_seq:
            return embedding
        embedding = embedding.unflatten(0, lead)
        return embedding if self.keep_horizon_dims else embedding.flatten(1)

    def _check(self, obs_dict: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Return the leading dimensions, which all observations share."""
        lead = None
        for key, shape in self.shapes.items():
            if key not in obs_dict:
                raise ObservationError(f"observation {key!r} is missing; got: {', '.join(obs_dict) or 'none'}")
            if not isinstance(obs_dict[key], Tensor):
                raise ObservationError(f"observation {key!r} is a {type(obs_dict[key]).__name__}; make a tensor of it")
            actual = tuple(obs_dict[key].shape)
            split = len(actual) - len(shape)
            lead = actual[:split] if lead is None else lead
            if split != 1 + self.use_seq or actual[split:] != shape or actual[:split] != lead:
                dims = ("B", "T")[: 1 + self.use_seq]
                hint = "; its channels come last: permute it" if actual[-3:] == (*shape[1:], 3) else ""
                raise ObservationError(f"observation {key!r} has shape {list(actual)}; shape_meta says {[*dims, *shape]}{hint}")
        for key in self.rgb_keys:
            self._check_values(key, obs_dict[key])
        return lead or ()

    def _check_values(self, key: str, images: Tensor) -> None:
        if images.dtype == torch.uint8:
            return
        if not images.is_floating_point():
            raise ObservationError(f"images {key!r} are {images.dtype}; give floats in [0, 1], or uint8")
        if not _can_be_read(images) or not images.numel() or (self.training and key in self._seen):
            return
        low, high = torch.stack(images.detach().flatten().aminmax()).tolist()
        if not (low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT):  # nor is NaN
            raise ObservationError(f"images {key!r} have values of {low:.4g} to {high:.4g}; give floats in [0, 1], or uint8")
        self._seen.add(key)

    def unfreeze_rgb_encoder(self) -> None:
        """Make the backbones trainable. An optimizer made before does not know their parameters yet."""
        for key in self.rgb_keys:
            self._model(key).unfreeze()
        self.freeze_rgb_encoder = False


def get_resnet(name: str, weights: str | Path | None = None) -> nn.Module:
    """Return a ResNet without its classifier, trainable: images [B, 3, H, W] -> [B, C].

    `weights` is a weights file, 'IMAGENET1K_V1' for the ImageNet ones, or None for random ones.
    """
    backbone = get_backbone(name)
    network = backbone.build()
    if weights == "IMAGENET1K_V1" and backbone.fetch_weights is not None:
        weights = backbone.fetch_weights()
    if weights is not None:
        load_weights(network, backbone, Path(weights).expanduser())
    return network


def _can_be_read(values: Tensor) -> bool:
    """Return whether Python may ask for values: not where torch records what is done with them, or does it to many at once."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.is_functorch_wrapped_tensor(values)
        or (values.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def _read_shape_meta(shape_meta: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], list[str], list[str]]:
    if not isinstance(shape_meta, Mapping) or not shape_meta.get("obs"):
        raise ConfigError("shape_meta has no 'obs'; give {'obs': {key: {'shape': [...], 'type': 'rgb' or 'low_dim'}}}")
    shapes: dict[str, tuple[int, ...]] = {}
    keys: dict[str, list[str]] = {"rgb": [], "low_dim": []}
    for key, entry in sorted(shape_meta["obs"].items()):
        if not isinstance(entry, Mapping):
            raise ConfigError(f"shape_meta['obs'][{key!r}] is {entry!r}; give {{'shape': [...], 'type': 'rgb' or 'low_dim'}}")
        kind = entry.get("type", "low_dim")
        if kind not in keys:
            raise ConfigError(f"shape_meta['obs'][{key!r}]['type'] is {kind!r}; choose 'rgb' or 'low_dim'")
        if "shape" not in entry:
            raise ConfigError(f"shape_meta['obs'][{key!r}] has no 'shape'")
        try:
            shapes[key] = tuple(operator.index(size) for size in entry["shape"])
        except TypeError as error:  # one number, or not whole ones
            raise ConfigError(f"shape_meta['obs'][{key!r}]['shape'] is {entry['shape']!r}; give a list of whole numbers") from error
        if kind == "rgb" and (len(shapes[key]) != 3 or shapes[key][0] != 3):
            raise ConfigError(f"shape_meta['obs'][{key!r}]['shape'] is {list(shapes[key])}; an rgb shape is [3, H, W]")
        keys[kind].append(key)
    return shapes, keys["rgb"], keys["low_dim"]


def _by_key(name: str, setting: Shape | Mapping[str, Shape] | None, keys: Sequence[str]) -> Mapping[str, Shape | None]:
    if not isinstance(setting, Mapping):
        return dict.fromkeys(keys, setting)
    for key in setting:
        if key not in keys:
            hint = did_you_mean(key, keys, f"its images are: {', '.join(keys) or 'none'}")
            raise ConfigError(f"{name} names {key!r}, which is no image of shape_meta; {hint}")
    return {key: setting.get(key) for key in keys}


def _backbone(model: str | nn.Module, use_group_norm: bool) -> Backbone:
    if isinstance(model, str):
        return get_backbone(model)
    own = Backbone(type(model).__name__, build=functools.partial(copy.deepcopy, model), fetch_weights=None)
    return with_group_norm(own) if use_group_norm else own
