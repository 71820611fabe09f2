"""Velocity network for action chunks in which time matters: a 1-D U-Net with FiLM conditioning.

The conditional U-Net of Diffusion Policy (Chi et al. 2023, https://arxiv.org/abs/2303.04137, section III.A and appendix);
FiLM: Perez et al. 2018, https://arxiv.org/abs/1709.07871.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.plugins import hookimpl
from robomimic_frozen.policies.networks import SinusoidalTimeEmbedding, VelocityNetwork

GROUPS = 8
TIME_FEATURES = 256


class ChiUNetVelocity(nn.Module):
    """x_t [B, H, A], t [B], condition [B, C] -> velocity [B, H, A], through as many levels as `down_dims` has numbers of channels.

    Raises ConfigError unless the horizon H is a power of two that can be halved once between all levels.
    """

    def __init__(self, action_dim: int, horizon: int, condition_dim: int, down_dims: Sequence[int], kernel_size: int) -> None:
        super().__init__()
        if not down_dims or any(width % GROUPS for width in down_dims):
            raise ConfigError(f"algo.network_kwargs.down_dims is {list(down_dims)}; choose multiples of {GROUPS}, one for each level")
        if kernel_size % 2 == 0:
            raise ConfigError(f"algo.network_kwargs.kernel_size is {kernel_size}; network 'chiunet' takes an odd one")
        shortest = 2 ** (len(down_dims) - 1)
        if horizon < shortest or horizon & (horizon - 1):
            raise ConfigError(
                f"algo.horizon is {horizon}; network 'chiunet' with {len(down_dims)} levels takes a power of two from "
                f"{shortest} on; change algo.horizon and train.seq_length, or algo.network_kwargs.down_dims"
            )
        self.time_features = nn.Sequential(
            SinusoidalTimeEmbedding(TIME_FEATURES),
            nn.Linear(TIME_FEATURES, 4 * TIME_FEATURES),
            nn.SiLU(),
            nn.Linear(4 * TIME_FEATURES, TIME_FEATURES),
        )
        film = TIME_FEATURES + condition_dim

        def level(width_in: int, width_out: int) -> nn.ModuleList:
            return nn.ModuleList(FiLMResidual(width, width_out, film, kernel_size) for width in (width_in, width_out))

        widths = [action_dim, *down_dims]
        self.down = nn.ModuleList(level(a, b) for a, b in zip(widths, down_dims, strict=False))
        self.shrink = nn.ModuleList(nn.Conv1d(width, width, 3, stride=2, padding=1) for width in down_dims[:-1])
        self.middle = level(down_dims[-1], down_dims[-1])
        rising = down_dims[::-1]
        self.up = nn.ModuleList(level(2 * a, b) for a, b in itertools.pairwise(rising))
        self.grow = nn.ModuleList(nn.ConvTranspose1d(width, width, 4, stride=2, padding=1) for width in rising[1:])
        self.out = nn.Sequential(_convolution(down_dims[0], down_dims[0], kernel_size), nn.Conv1d(down_dims[0], action_dim, 1))

    def forward(self, x: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        film = torch.cat([self.time_features(times), condition], dim=-1)
        x = x.transpose(1, 2)
        skips = []
        for blocks, shrink in zip(self.down, [*self.shrink, nn.Identity()], strict=True):
            skips.append(_through(blocks, x, film))
            x = shrink(skips[-1])
        x = _through(self.middle, x, film)
        for blocks, grow in zip(self.up, self.grow, strict=True):
            x = grow(_through(blocks, torch.cat([x, skips.pop()], dim=1), film))
        return self.out(x).transpose(1, 2)


class FiLMResidual(nn.Module):
    """Two convolutions, a scale and a shift of every channel in between, and a shortcut; [B, C, H] -> [B, C', H]."""

    def __init__(self, width_in: int, width_out: int, film_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.first = _convolution(width_in, width_out, kernel_size)
        self.film = nn.Sequential(nn.SiLU(), nn.Linear(film_dim, 2 * width_out))
        self.second = _convolution(width_out, width_out, kernel_size)
        self.shortcut = nn.Conv1d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        scale, shift = self.film(film)[..., None].chunk(2, dim=1)
        return self.second(self.first(x) * (1 + scale) + shift) + self.shortcut(x)


def _convolution(width_in: int, width_out: int, kernel_size: int) -> nn.Sequential:
    convolution = nn.Conv1d(width_in, width_out, kernel_size, padding=kernel_size // 2)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, width_out), nn.SiLU())


def _through(blocks: nn.Module, x: Tensor, film: Tensor) -> Tensor:
    for block in blocks.children():
        x = block(x, film)
    return x


@hookimpl
def velocity_networks() -> list[VelocityNetwork]:
    def build(action_dim: int, horizon: int, condition_dim: int, settings: Any) -> nn.Module:
        return ChiUNetVelocity(action_dim, horizon, condition_dim, settings.down_dims, settings.kernel_size)

    return [VelocityNetwork("chiunet", build)]
