"""Velocity networks: v(x_t, t, condition)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.plugins import hookimpl, provided

TIME_EMBEDDING_DIM = 64


class SinusoidalTimeEmbedding(nn.Module):
    """Times [B] in [0, 1] -> [B, dim] sines and cosines (Vaswani et al. 2017, section 3.5, on t * 1000)."""

    frequencies: Tensor

    def __init__(self, dim: int = TIME_EMBEDDING_DIM) -> None:
        super().__init__()
        half = dim // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        self.register_buffer("frequencies", 1000 * frequencies, persistent=False)

    def forward(self, times: Tensor) -> Tensor:
        angles = times[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class MLPVelocity(nn.Module):
    """x_t [B, H, A], t [B], condition [B, C] -> velocity [B, H, A], through a plain MLP over their concatenation."""

    def __init__(self, action_dim: int, horizon: int, condition_dim: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self.time_embedding = SinusoidalTimeEmbedding()
        widths = [horizon * action_dim + TIME_EMBEDDING_DIM + condition_dim, *hidden_dims]
        hidden = [layer for pair in itertools.pairwise(widths) for layer in (nn.Linear(*pair), nn.SiLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], horizon * action_dim))

    def forward(self, x: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), self.time_embedding(times), condition], dim=-1)).view_as(x)


@dataclass(frozen=True)
class VelocityNetwork:
    """A velocity network, as a plugin's `velocity_networks` hook describes it."""

    name: str  # what `algo.network` says
    # (action_dim A, horizon H, condition_dim C, `algo.network_kwargs`) -> module: x_t [B, H, A], t [B], condition [B, C] -> [B, H, A].
    build: Callable[[int, int, int, Any], nn.Module]


def get_velocity_network(name: str) -> VelocityNetwork:
    """Return the velocity network called `name`. Raises ConfigError that lists the known ones."""
    known = {network.name: network for network in provided("velocity_networks")}
    if name not in known:
        *others, last = (repr(each) for each in known)
        raise ConfigError(f"unknown algo.network {name!r}; choose {', '.join(others)} or {last}")
    return known[name]


@hookimpl
def velocity_networks() -> list[VelocityNetwork]:
    return [VelocityNetwork("mlp", lambda dim, horizon, condition, settings: MLPVelocity(dim, horizon, condition, settings.hidden_dims))]
