"""Readouts: from maps [B, C, h, w] to feature vectors, with or without weights of their own, and the projection behind them."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robomimic_frozen.errors import ConfigError, did_you_mean
from robomimic_frozen.plugins import hookimpl, provided

MAP: Final = "map"
"""The readout that keeps a map as it is, which is what is cached of it where a readout with weights reads it."""


@dataclass(frozen=True)
class Readout:
    """A way from a map to a feature vector, as a plugin's `readouts` hook describes it."""

    name: str  # what `core_kwargs.pool` says
    # Given the shape (C, h, w) of a map and, by keyword, what `core_kwargs.pool` says beside the name, makes a function or a module of maps
    # [B, C, h, w] to vectors [B, F]. What has weights is trained, and the cache holds the map; of the rest it holds the vectors.
    build: Callable[..., Callable[[Tensor], Tensor]]


@dataclass(frozen=True)
class Reading:
    """One readout of the map of one stage, with its parameters."""

    stage: str
    readout: str
    parameters: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, stage: str, readout: str, parameters: Mapping[str, Any]) -> Reading:
        """Make one with parameters as JSON has them."""
        return cls(stage, readout, as_pairs(parameters))

    def build(self, map_shape: tuple[int, int, int]) -> nn.Module:
        """Make the module for maps of this shape. Raises ConfigError if the readout does not take its parameters."""
        try:
            made = get_readout(self.readout).build(map_shape, **dict(self.parameters))
            made(torch.zeros(1, *map_shape))
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:  # what torch and robomimic raise for sizes
            raise ConfigError(f"pool is {self.readout!r}, which takes no {dict(self.parameters)} ({error}); correct them") from error
        return made if isinstance(made, nn.Module) else _Function(made)


def as_pairs(parameters: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return parameters as JSON has them in a form that can be hashed, and of which `dict` makes them again."""
    return tuple(sorted((key, tuple(value) if isinstance(value, list) else value) for key, value in parameters.items()))


def get_readout(name: object) -> Readout:
    """Return the readout called `name`. Raises ConfigError that lists the known ones."""
    known = {readout.name: readout for readout in provided("readouts")}
    if name not in known:
        *others, last = (repr(each) for each in known)
        raise ConfigError(f"pool is {name!r}; choose {', '.join(others)} or {last}")
    return known[str(name)]


def make_reading(stage: str, setting: str | Mapping[str, Any], grid_size: Sequence[int]) -> Reading:
    """Make a reading of a setting: the name of a readout, or a mapping with 'name' and parameters.

    `grid_size` is a parameter of those readouts that have one of that name. Raises ConfigError for unknown names of either kind.
    """
    given = dict(setting) if isinstance(setting, Mapping) else {"name": setting}
    name = given.pop("name", None)
    taken = list(inspect.signature(get_readout(name).build).parameters)[1:]  # but the shape of the map
    for key in given.keys() - taken:
        raise ConfigError(f"pool {name!r} has no parameter {key!r}; {did_you_mean(key, taken, 'it has: ' + (', '.join(taken) or 'none'))}")
    defaults = {"grid_size": grid_size} if "grid_size" in taken else {}
    return Reading.of(stage, str(name), {**defaults, **given})


@hookimpl
def readouts() -> list[Readout]:
    return [
        Readout("avg", lambda map_shape: functools.partial(grid_average, grid_size=(1, 1))),
        Readout("grid", lambda map_shape, grid_size: functools.partial(grid_average, grid_size=grid_size)),
        Readout("spatial_softmax", _spatial_softmax),
        Readout("conv", _conv),
        Readout("attention", Attention),
        Readout("flatten", lambda map_shape: nn.Flatten()),
        Readout(MAP, lambda map_shape: as_vector),
    ]


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, maps: Tensor) -> Tensor:
        return self.function(maps)


def as_vector(maps: Tensor) -> Tensor:
    """Return maps [B, C, h, w] as vectors [B, h * w * C], position after position: convolutions and shifts are fastest in this order."""
    return maps.permute(0, 2, 3, 1).flatten(1)


def as_map(vectors: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return the maps of a shape (C, h, w) that `as_vector` made vectors of."""
    channels, height, width = shape
    return vectors.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)


def grid_average(activation: Tensor, grid_size: tuple[int, int]) -> Tensor:
    """Return the means over rows x columns regions; [B, C, h, w] -> [B, C * rows * columns], or [B, C] of the one position of a vector."""
    if activation.shape[-2:] == (1, 1):
        return activation.flatten(1)
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


def _spatial_softmax(
    map_shape: tuple[int, int, int], num_kp: int | None = None, temperature: float = 1.0, learnable_temperature: bool = True
) -> Callable[[Tensor], Tensor]:
    """Make robomimic's SpatialSoftmax of so many keypoints, each of a learned mixture of channels; with none, that of every channel."""
    if num_kp is None:
        return spatial_softmax
    from robomimic.models.base_nets import SpatialSoftmax  # without which the rest of this package's encoders can be used

    return nn.Sequential(SpatialSoftmax(map_shape, num_kp, temperature, learnable_temperature), nn.Flatten())


def _conv(map_shape: tuple[int, int, int], channels: int = 32, kernel_size: int = 3) -> nn.Module:
    """Make two small convolutions, whose maps are flattened: a vector of `channels` x h x w."""
    layers = [nn.Conv2d(width, channels, kernel_size, padding=kernel_size // 2) for width in (map_shape[0], channels)]
    return nn.Sequential(layers[0], nn.LeakyReLU(), layers[1], nn.LeakyReLU(), nn.Flatten())


class Attention(nn.Module):
    """Maps [B, C, h, w] -> [B, queries * dim]: what learned queries find at positions, by multi-head attention (Vaswani et al. 2017)."""

    def __init__(self, map_shape: tuple[int, int, int], queries: int = 4, dim: int = 64, heads: int = 4) -> None:
        super().__init__()
        channels, height, width = map_shape
        self.embed = nn.Linear(channels, dim)
        self.positions = nn.Parameter(0.02 * torch.randn(height * width, dim))
        self.queries = nn.Parameter(torch.randn(queries, dim))
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def forward(self, maps: Tensor) -> Tensor:
        tokens = self.embed(maps.flatten(2).transpose(1, 2)) + self.positions
        found, _ = self.attention(self.queries.expand(maps.shape[0], -1, -1), tokens, tokens, need_weights=False)
        return found.flatten(1)


def check_emb_dim(emb_dim: object) -> None:
    """Raise ConfigError unless this is a number of dimensions that an embedding can have."""
    if not isinstance(emb_dim, numbers.Integral) or emb_dim < 1:
        raise ConfigError(f"emb_dim is {emb_dim!r}; choose 1 or more")


def projection(feature_dim: int, emb_dim: int) -> nn.Sequential:
    """Return the trained part: features [B, feature_dim] -> embedding [B, emb_dim], two layers. Raises as `check_emb_dim`."""
    check_emb_dim(emb_dim)
    return nn.Sequential(nn.Linear(feature_dim, emb_dim), nn.LeakyReLU(), nn.Linear(emb_dim, emb_dim))
