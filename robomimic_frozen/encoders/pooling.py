"""Activations [B, C, h, w] -> vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robomimic_frozen.errors import ConfigError

Pool = Callable[[Tensor], Tensor]


def get_pool(name: str, grid_size: Sequence[int]) -> Pool:
    """The pooling called `name`.

    'avg': the mean over all positions [B, C]. 'grid': the means over `grid_size` regions [B, C * rows * columns].
    'spatial_softmax': where each channel is active [B, 2 C]. Raises ConfigError.
    """
    if name == "avg":
        return functools.partial(grid_average, grid_size=(1, 1))
    if name == "grid":
        if len(grid_size) != 2 or not all(isinstance(size, int) and size > 0 for size in grid_size):
            raise ConfigError(f"grid_size is {grid_size!r}; give [rows, columns]")
        return functools.partial(grid_average, grid_size=(grid_size[0], grid_size[1]))
    if name == "spatial_softmax":
        return spatial_softmax
    raise ConfigError(f"pool is {name!r}; choose 'avg', 'grid' or 'spatial_softmax'")


def grid_average(activation: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Means over rows x columns regions; [B, C, h, w] -> [B, C * rows * columns]."""
    return F.adaptive_avg_pool2d(activation, grid_size).flatten(1)


def spatial_softmax(activation: Tensor) -> Tensor:
    """Expected (x, y) of each channel, in [-1, 1], under a softmax over positions; [B, C, h, w] -> [B, 2 C].

    Levine et al. 2016, https://arxiv.org/abs/1504.00702, section 5.2.
    """
    height, width = activation.shape[-2:]
    weights = activation.flatten(2).softmax(dim=-1).view_as(activation)
    x = torch.linspace(-1, 1, width, device=activation.device, dtype=activation.dtype)
    y = torch.linspace(-1, 1, height, device=activation.device, dtype=activation.dtype)
    return torch.cat([(weights.sum(-2) * x).sum(-1), (weights.sum(-1) * y).sum(-1)], dim=-1)
