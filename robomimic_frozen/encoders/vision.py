"""The network that turns images into features: a backbone with its weights, frozen up to a stage, and pooling."""

from __future__ import annotations

import copy
import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.encoders.pooling import get_pool
from robomimic_frozen.encoders.weights import digest, is_restoring_checkpoint, load_weights, restoring_checkpoint
from robomimic_frozen.errors import ConfigError

logger = logging.getLogger(__name__)

RANDOM = "random"
GRID_SIZE = (3, 3)

# Frozen stages in use, by (backbone, stage, digest of the weights, device, dtype): equal ones are held once.
_frozen_stages: weakref.WeakValueDictionary[tuple, nn.Module] = weakref.WeakValueDictionary()


class VisionBackbone(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> features [B, feature_dim].

    Frozen means: no parameter requires a gradient, the stage stays in eval mode (BatchNorm statistics never move)
    whatever `train()` says, and it runs in inference mode. A frozen network without pretrained weights is the same random
    one each time, so that features of it can be cached. Equal frozen stages share their memory; a shared stage is never
    written to, so loading other weights or moving to another device leaves the other holders alone.

    `forward` is `finish(frozen_part(images))`: what the frozen stages give is what can be cached.

    Args:
        backbone: which network.
        weights: a weights file; None for the backbone's own pretrained ones. Ignored unless `pretrained`.
        pretrained: whether to load weights at all.
        frozen: True for all stages, False for none, or the name of the last frozen one.
        normalize: whether to subtract the mean and divide by the deviation of the pretraining images.
        feature_stage: the stage, or the stages, whose activations are the feature; None for the backbone's default.
        pool: how each is pooled, see `get_pool`; None for the backbone's default.
        grid_size: [rows, columns] of the pool 'grid'.
        image_size: (H, W) of the images.

    Attributes:
        feature_dim: length of one feature vector.
        frozen_dim: length of what `frozen_part` gives for one image.
        origin: path of the weights file, the backbone's name where it brings its weights along, 'random', or 'checkpoint'
            where a checkpoint is about to give them.

    Raises:
        WeightsUnavailableError, WeightsError, ConfigError
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        pretrained: bool = True,
        frozen: bool | str = True,
        normalize: bool = True,
        feature_stage: str | Sequence[str] | None = None,
        pool: str | None = None,
        grid_size: Sequence[int] = GRID_SIZE,
        image_size: tuple[int, int] = (84, 84),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.weights, self.pretrained = weights, pretrained
        self.normalize = normalize
        self.feature_stages = _feature_stages(backbone, feature_stage)
        self.pool_name, self.grid_size = pool or backbone.pool, tuple(grid_size)
        self._pool = get_pool(self.pool_name, self.grid_size)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        network = _always_the_same(backbone) if frozen and not pretrained else backbone.build()
        self.origin = self._load(network, weights, pretrained)
        names = backbone.stages[: backbone.stages.index(self.feature_stages[-1]) + 1]
        # What comes after the last stage that is read is not kept.
        self.stages = nn.ModuleDict(OrderedDict(zip(names, backbone.split(network), strict=False)))
        self.num_frozen = _number_of_frozen_stages(backbone, frozen, len(names))
        for name in self.frozen_stages:
            self.stages[name] = _shared(backbone.name, name, self.stages[name].requires_grad_(False).eval())
        self._measure(image_size)

    def _load(self, network: nn.Module, weights: str | Path | None, pretrained: bool) -> str:
        if is_restoring_checkpoint():
            return "checkpoint"
        if not pretrained:
            logger.warning("%s starts from random weights, not from ImageNet ones", self.backbone.name)
            return RANDOM
        if weights is not None:
            path = Path(weights).expanduser()
        elif self.backbone.fetch_weights is not None:
            path = self.backbone.fetch_weights()
        else:
            return self.backbone.name
        load_weights(network, self.backbone, path)
        return str(path.absolute())

    @torch.no_grad()
    def _measure(self, image_size: tuple[int, int]) -> None:
        """Pass one black image, to learn the size of what is cached and of the feature."""
        modes = {stage: stage.training for stage in self.stages.values()}
        self.stages.eval()
        self._boundary_shape: tuple[int, ...] = (0,)
        x = torch.zeros(1, 3, *image_size)
        pooled = []
        for number, (name, stage) in enumerate(self.stages.items(), start=1):
            x = _as_map(stage(x))
            if name in self.feature_stages:
                pooled.append(self._pool(x).shape[1])
            if number == self.num_frozen:
                self._frozen_pooled_dim = sum(pooled)
                self._boundary_shape = tuple(x.shape[1:])
        self.feature_dim = sum(pooled)
        if self.num_frozen == 0:
            self._frozen_pooled_dim = 0
        boundary = 0 if self.is_frozen else torch.Size(self._boundary_shape).numel()
        self.frozen_dim = self._frozen_pooled_dim + boundary
        for stage, mode in modes.items():
            stage.train(mode)

    @property
    def frozen_stages(self) -> list[str]:
        """Names of the frozen stages: the first ones."""
        return list(self.stages)[: self.num_frozen]

    @property
    def is_frozen(self) -> bool:
        """Whether all stages are."""
        return self.num_frozen == len(self.stages)

    def forward(self, images: Tensor) -> Tensor:
        if self.num_frozen == 0:
            return torch.cat(self._through(list(self.stages), self._normalized(images))[0], dim=1)
        return self.finish(self.frozen_part(images))

    def frozen_part(self, images: Tensor) -> Tensor:
        """What the frozen stages make of images: pooled features, then the activation the next stage needs, flat."""
        with torch.inference_mode():
            parts, activation = self._through(self.frozen_stages, self._normalized(images))
            if not self.is_frozen:
                parts.append(activation.flatten(1))
            result = torch.cat(parts, dim=1)
        # Autograd refuses to save an inference tensor for the backward pass of the layer above; a copy is ordinary.
        return result.clone()

    def finish(self, frozen: Tensor) -> Tensor:
        """What `frozen_part` gave, or a cache kept of it [B, frozen_dim] -> features [B, feature_dim]."""
        if self.is_frozen:
            return frozen
        pooled, activation = frozen.tensor_split([self._frozen_pooled_dim], dim=1)
        trainable = list(self.stages)[self.num_frozen :]
        return torch.cat([pooled, *self._through(trainable, activation.unflatten(1, self._boundary_shape))[0]], dim=1)

    def frozen_state(self) -> dict[str, Tensor]:
        """'stage.name' -> weight or buffer, of the frozen stages."""
        return {
            f"{stage}.{name}": value for stage in self.frozen_stages for name, value in self.stages[stage].state_dict().items()
        }

    def frozen_sha256(self) -> str:
        """Over `frozen_state`."""
        return digest(self.frozen_state())

    def as_configured(self) -> dict[str, Tensor]:
        """'stage.name' -> weight or buffer, of all stages, as the constructor loads them. Raises as it does."""
        with restoring_checkpoint(False):
            return VisionBackbone(self.backbone, self.weights, self.pretrained, feature_stage=self.feature_stages).frozen_state()

    def unfreeze(self) -> None:
        """Make every stage trainable. The optimizer has to be told."""
        for name in self.frozen_stages:
            self.stages[name] = copy.deepcopy(self.stages[name]).requires_grad_(True).train(self.training)
        self.num_frozen = 0

    def _normalized(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std if self.normalize else images

    def _through(self, names: Sequence[str], x: Tensor) -> tuple[list[Tensor], Tensor]:
        """(pooled activations of those stages that are features, the last activation)"""
        pooled = []
        for name in names:
            x = _as_map(self.stages[name](x))
            if name in self.feature_stages:
                pooled.append(self._pool(x))
        return pooled, x

    def train(self, mode: bool = True) -> VisionBackbone:
        super().train(mode)
        for name in self.frozen_stages:
            self.stages[name].eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VisionBackbone:
        frozen = {name: self.stages[name] for name in self.frozen_stages}
        for name, stage in frozen.items():
            # nn.Module would move the shared stage under its other holders.
            frozen[name] = _shared(self.backbone.name, name, copy.deepcopy(stage)._apply(fn, recurse))
            self.stages[name] = nn.Identity()
        super()._apply(fn, recurse)
        self.stages.update(frozen)
        return self

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Give each frozen stage a module that holds the coming weights, so that the shared one is not overwritten."""
        for name in self.frozen_stages:
            start = f"{prefix}stages.{name}."
            incoming = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
            if incoming:
                stage = copy.deepcopy(self.stages[name])
                stage.load_state_dict(incoming, strict=False)
                self.stages[name] = _shared(self.backbone.name, name, stage)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        state = {0: "trainable", len(self.stages): "frozen"}.get(self.num_frozen) or f"frozen up to {self.frozen_stages[-1]}"
        return (
            f"VisionBackbone({self.backbone.name}, weights={self.origin}, {state}, {size:,} parameters, "
            f"{self.pool_name} of {'+'.join(self.feature_stages)})"
        )


def _as_map(activation: Tensor) -> Tensor:
    """A network that pools by itself gives [B, C]."""
    return activation if activation.ndim == 4 else activation[:, :, None, None]


def _feature_stages(backbone: Backbone, setting: str | Sequence[str] | None) -> tuple[str, ...]:
    if setting is None:
        setting = backbone.feature_stage or backbone.stages[-1]
    names = (setting,) if isinstance(setting, str) else tuple(setting)
    if not names:
        raise ConfigError("feature_stage is empty; name a stage, or null for the backbone's default")
    return tuple(sorted(set(names), key=lambda name: backbone.stage_index("feature_stage", name)))


def _number_of_frozen_stages(backbone: Backbone, frozen: bool | str, num_stages: int) -> int:
    if isinstance(frozen, str):
        return min(backbone.stage_index("freeze_encoder", frozen) + 1, num_stages)
    return num_stages if frozen else 0


def _always_the_same(backbone: Backbone) -> nn.Module:
    """A random network that policy, feature cache and later runs agree on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return backbone.build()


def _shared(backbone: str, name: str, stage: nn.Module) -> nn.Module:
    """An equal stage that is already in use, else `stage` itself."""
    first = next(stage.parameters(), torch.empty(0))
    key = (backbone, name, digest(stage.state_dict()), first.device, first.dtype)
    return _frozen_stages.setdefault(key, stage)
