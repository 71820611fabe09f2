"""Readouts: from maps [B, C, h, w] to feature vectors, and the projection behind them."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.plugins import hookimpl, provided


@dataclass(frozen=True)
class Readout:
    """A way from a map to a feature vector, as a plugin's `readouts` hook describes it."""

    name: str  # what `core_kwargs.pool` says
    # Given `grid_size`, makes the function of maps [B, C, h, w] to vectors [B, F]. It has no weights: what is cached comes from it.
    build: Callable[[tuple[int, int]], Callable[[Tensor], Tensor]]


def get_readout(name: str, grid_size: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """Return the function of the readout called `name`. Raises ConfigError that lists the known ones."""
    known = {readout.name: readout for readout in provided("readouts")}
    if name not in known:
        *others, last = (repr(each) for each in known)
        raise ConfigError(f"pool is {name!r}; choose {', '.join(others)} or {last}")
    return known[name].build((grid_size[0], grid_size[1]))


@hookimpl
def readouts() -> list[Readout]:
    return [
        Readout("avg", lambda grid_size: functools.partial(grid_average, grid_size=(1, 1))),
        Readout("grid", lambda grid_size: functools.partial(grid_average, grid_size=grid_size)),
        Readout("spatial_softmax", lambda grid_size: spatial_softmax),
    ]


def grid_average(activation: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Return the means over rows x columns regions; [B, C, h, w] -> [B, C * rows * columns]."""
    return F.adaptive_avg_pool2d(activation, grid_size).flatten(1)


def spatial_softmax(activation: Tensor) -> Tensor:
    """Return the expected (x, y) of each channel, in [-1, 1], under a softmax over positions; [B, C, h, w] -> [B, 2 C].

    Levine et al. 2016, https://arxiv.org/abs/1504.00702, section 5.2.
    """
    height, width = activation.shape[-2:]
    weights = activation.flatten(2).softmax(dim=-1).view_as(activation)
    x = torch.linspace(-1, 1, width, device=activation.device, dtype=activation.dtype)
    y = torch.linspace(-1, 1, height, device=activation.device, dtype=activation.dtype)
    return torch.cat([(weights.sum(-2) * x).sum(-1), (weights.sum(-1) * y).sum(-1)], dim=-1)


def check_emb_dim(emb_dim: object) -> None:
    """Raise ConfigError unless this is a number of dimensions that an embedding can have."""
    if not isinstance(emb_dim, numbers.Integral) or emb_dim < 1:
        raise ConfigError(f"emb_dim is {emb_dim!r}; choose 1 or more")


def projection(feature_dim: int, emb_dim: int) -> nn.Sequential:
    """Return the trained part: features [B, feature_dim] -> embedding [B, emb_dim], two layers. Raises as `check_emb_dim`."""
    check_emb_dim(emb_dim)
    return nn.Sequential(nn.Linear(feature_dim, emb_dim), nn.LeakyReLU(), nn.Linear(emb_dim, emb_dim))
