"""MultiImageObsEncoder: all cameras and low-dim observations -> one embedding, without robomimic."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone, get_backbone
from robomimic_frozen.encoders.readouts import projection
from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.encoders.weights import load_weights
from robomimic_frozen.errors import ConfigError, ObservationError

Shape = Sequence[int]


class MultiImageObsEncoder(nn.Module):
    """Observations {key: [B, ...]} -> embedding [B, emb_dim].

    Resizes and crops every image, and passes it through a backbone. The features of all cameras and the low-dim observations are
    concatenated, in alphabetical order of their keys with images first, and go through one trainable two-layer projection.
    Backbone, preprocessing and projection are those of FrozenResNetCore.

    Args:
        shape_meta: {'obs': {key: {'shape': [3, H, W] or [D], 'type': 'rgb' or 'low_dim'}}}; the type is 'low_dim' if absent.
        rgb_model_name: name of a backbone, or a network of your own: images [B, 3, H, W] -> [B, C] or [B, C, h, w].
        resize_shape, crop_shape: (height, width), or a dict of them by key, or None.
        use_group_norm: GroupNorm in the place of BatchNorm. Only with random weights.
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
        ObservationError: from `forward`, when an observation is missing or has another shape than shape_meta says.
    """

    def __init__(
        self, shape_meta: Mapping[str, Any], rgb_model_name: str | nn.Module = EncoderSpec.rgb_model_name, emb_dim: int = 256,
        resize_shape: Shape | Mapping[str, Shape] | None = None, crop_shape: Shape | Mapping[str, Shape] | None = None,
        random_crop: bool = EncoderSpec.random_crop, use_group_norm: bool = False, share_rgb_model: bool = False,
        imagenet_norm: bool = EncoderSpec.imagenet_norm, use_seq: bool = False, keep_horizon_dims: bool = False,
        pretrained: bool = EncoderSpec.pretrained_encoder, freeze_rgb_encoder: bool | str = EncoderSpec.freeze_encoder,
        weights: str | Path | None = EncoderSpec.weights, feature_stage: str | Sequence[str] | None = EncoderSpec.feature_stage,
        pool: str | None = EncoderSpec.pool, grid_size: Sequence[int] = EncoderSpec.grid_size,
    ) -> None:  # fmt: skip
        super().__init__()
        self.shapes, self.rgb_keys, self.low_dim_keys = _read_shape_meta(shape_meta)
        self.emb_dim = self.output_dim = emb_dim
        self.share_rgb_model = share_rgb_model
        self.use_seq = use_seq
        self.keep_horizon_dims = keep_horizon_dims
        self.freeze_rgb_encoder = freeze_rgb_encoder
        if use_group_norm and pretrained:
            raise ConfigError(
                "use_group_norm with pretrained throws the weights' BatchNorm statistics away, and the features with them; "
                "set use_group_norm=False, or pretrained=False to train from random weights"
            )
        backbone = _backbone(rgb_model_name, use_group_norm)
        specs = {
            key: EncoderSpec(
                backbone.name,
                # Of a network of the caller's own, the weights are those it comes with.
                pretrained_encoder=pretrained or backbone.fetch_weights is None, weights=None if weights is None else str(weights),
                freeze_encoder=freeze_rgb_encoder, imagenet_norm=imagenet_norm, random_crop=random_crop,
                resize_shape=_for_key(resize_shape, key), crop_shape=_for_key(crop_shape, key),
                feature_stage=feature_stage, pool=pool, grid_size=grid_size, image_shape=self.shapes[key], backbone=backbone,
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
        """Embed images in [0, 1] and low-dim observations, each [B, *shape], or [B, T, *shape] with `use_seq`."""
        lead = self._check(obs_dict)
        flat = {key: obs_dict[key].reshape(-1, *self.shapes[key]) for key in self.shapes}
        features = [self._model(key)(self.key_transform_map[key](flat[key])) for key in self.rgb_keys]
        features += [flat[key].flatten(1) for key in self.low_dim_keys]
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
            actual = tuple(obs_dict[key].shape)
            split = len(actual) - len(shape)
            lead = actual[:split] if lead is None else lead
            if split != 1 + self.use_seq or actual[split:] != shape or actual[:split] != lead:
                dims = ("B", "T")[: 1 + self.use_seq]
                raise ObservationError(f"observation {key!r} has shape {list(actual)}; shape_meta says {[*dims, *shape]}")
        return lead or ()

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


def _read_shape_meta(shape_meta: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], list[str], list[str]]:
    if not isinstance(shape_meta, Mapping) or not shape_meta.get("obs"):
        raise ConfigError("shape_meta has no 'obs'; give {'obs': {key: {'shape': [...], 'type': 'rgb' or 'low_dim'}}}")
    shapes: dict[str, tuple[int, ...]] = {}
    keys: dict[str, list[str]] = {"rgb": [], "low_dim": []}
    for key, entry in sorted(shape_meta["obs"].items()):
        kind = entry.get("type", "low_dim")
        if kind not in keys:
            raise ConfigError(f"shape_meta['obs'][{key!r}]['type'] is {kind!r}; choose 'rgb' or 'low_dim'")
        if "shape" not in entry:
            raise ConfigError(f"shape_meta['obs'][{key!r}] has no 'shape'")
        shapes[key] = tuple(entry["shape"])
        if kind == "rgb" and (len(shapes[key]) != 3 or shapes[key][0] != 3):
            raise ConfigError(f"shape_meta['obs'][{key!r}]['shape'] is {list(shapes[key])}; an rgb shape is [3, H, W]")
        keys[kind].append(key)
    return shapes, keys["rgb"], keys["low_dim"]


def _for_key(setting: Shape | Mapping[str, Shape] | None, key: str) -> Shape | None:
    return setting.get(key) if isinstance(setting, Mapping) else setting


def _backbone(model: str | nn.Module, use_group_norm: bool) -> Backbone:
    if isinstance(model, str):
        backbone = get_backbone(model)
    else:
        backbone = Backbone(type(model).__name__, build=functools.partial(copy.deepcopy, model), fetch_weights=None)
    if not use_group_norm:
        return backbone
    build = backbone.build
    return dataclasses.replace(backbone, name=f"{backbone.name}_gn", build=lambda: with_group_norm(build()))


def with_group_norm(network: nn.Module) -> nn.Module:
    """Replace each BatchNorm2d of a network by a GroupNorm of 16 channels a group, and return the network.

    As in Diffusion Policy (Chi et al. 2023), where BatchNorm and the moving average of the weights disagree.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(network, name, nn.GroupNorm(max(1, child.num_features // 16), child.num_features))
        else:
            with_group_norm(child)
    return network
