"""The network that turns images into features: a backbone with its weights, frozen or not."""

from __future__ import annotations

import copy
import logging
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.encoders.weights import digest, is_restoring_checkpoint, load_weights

logger = logging.getLogger(__name__)

RANDOM = "random"

# Frozen networks in use, by (backbone, digest of the weights, device, dtype): equal ones are held once.
_frozen_networks: weakref.WeakValueDictionary[tuple, nn.Module] = weakref.WeakValueDictionary()


class VisionBackbone(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> features [B, feature_dim].

    Frozen means: no parameter requires a gradient, the network stays in eval mode (BatchNorm statistics never move)
    whatever `train()` says, and it runs in inference mode. A frozen network without pretrained weights is the same random
    one each time, so that features of it can be cached. Equal frozen networks share their memory; a shared network
    is never written to, so loading other weights or moving to another device leaves the other holders alone.

    Args:
        backbone: which network.
        weights: a weights file; None for the backbone's own pretrained ones. Ignored unless `pretrained`.
        pretrained: whether to load weights at all.
        frozen: see above.
        normalize: whether to subtract the mean and divide by the deviation of the pretraining images.

    Attributes:
        origin: path of the weights file, 'random', or 'checkpoint' where a checkpoint is about to give the weights.

    Raises:
        WeightsUnavailableError, WeightsError, ConfigError
    """

    def __init__(
        self,
        backbone: Backbone,
        weights: str | Path | None = None,
        pretrained: bool = True,
        frozen: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.frozen = frozen
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        network = _always_the_same(backbone) if frozen and not pretrained else backbone.build()
        if is_restoring_checkpoint():
            self.origin = "checkpoint"
        elif pretrained:
            path = Path(weights).expanduser() if weights is not None else backbone.fetch_weights()
            load_weights(network, backbone, path)
            self.origin = str(path.absolute())
        else:
            self.origin = RANDOM
            logger.warning("%s starts from random weights, not from ImageNet ones", backbone.name)
        self.network = _shared(backbone.name, network.requires_grad_(False).eval()) if frozen else network
        self.register_load_state_dict_pre_hook(_own_network_before_loading)

    @property
    def feature_dim(self) -> int:
        """Length of one feature vector."""
        return self.backbone.feature_dim

    def forward(self, images: Tensor) -> Tensor:
        if self.normalize:
            images = (images - self.mean) / self.std
        if not self.frozen:
            return self.network(images)
        with torch.inference_mode():
            features = self.network(images)
        # Autograd refuses to save an inference tensor for the backward pass of the layer above; a copy is ordinary.
        return features.clone()

    def train(self, mode: bool = True) -> VisionBackbone:
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VisionBackbone:
        if self.frozen:
            # nn.Module would move the shared network under its other holders.
            self.network = _shared(self.backbone.name, copy.deepcopy(self.network)._apply(fn, recurse))
            network, self.network = self.network, nn.Identity()
            super()._apply(fn, recurse)
            self.network = network
            return self
        return super()._apply(fn, recurse)

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.network.parameters())
        state = "frozen" if self.frozen else "trainable"
        return f"VisionBackbone({self.backbone.name}, weights={self.origin}, {state}, {size:,} parameters)"


def _always_the_same(backbone: Backbone) -> nn.Module:
    """A random network that policy, feature cache and later runs agree on: nothing but its values tells frozen ones apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return backbone.build()


def _shared(name: str, network: nn.Module) -> nn.Module:
    """An equal network that is already in use, else `network` itself."""
    first = next(network.parameters(), torch.empty(0))
    key = (name, digest(network.state_dict()), first.device, first.dtype)
    return _frozen_networks.setdefault(key, network)


def _own_network_before_loading(module: VisionBackbone, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    """Give a frozen module a network that holds the coming weights, so that the shared one is not overwritten."""
    prefix += "network."
    incoming = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if module.frozen and incoming:
        network = copy.deepcopy(module.network)
        network.load_state_dict(incoming, strict=False)
        module.network = _shared(module.backbone.name, network)
