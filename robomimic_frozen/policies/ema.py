"""Exponential moving average of the trainable weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Averages of the trainable parameters of `network`, as buffers, so that a checkpoint holds them.

    The decay grows from 0 to `max_decay` as 1 - (1 + step)^-power, so that early averages forget the random start
    (the schedule of Diffusion Policy, Chi et al. 2023, after @crowsonkb).
    """

    def __init__(self, network: nn.Module, max_decay: float, power: float) -> None:
        super().__init__()
        self.max_decay = max_decay
        self.power = power
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        for name, parameter in _trainable(network):
            self.register_buffer(_as_buffer(name), parameter.detach().clone())

    def decay(self) -> float:
        """The share of the old average that the next update keeps."""
        return min(self.max_decay, 1 - (1 + int(self.num_updates)) ** -self.power)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the averages towards the present weights of `network`."""
        parameters = dict(_trainable(network))
        averages = [getattr(self, _as_buffer(name)) for name in parameters]
        torch._foreach_lerp_(averages, list(parameters.values()), 1 - self.decay())
        self.num_updates += 1

    def averages(self, network: nn.Module) -> dict[str, Tensor]:
        """Parameter name of `network` -> its average, as `torch.func.functional_call` takes them."""
        return {name: getattr(self, _as_buffer(name)) for name, _ in _trainable(network)}

    def extra_repr(self) -> str:
        return f"max_decay={self.max_decay}, power={self.power}"


def _trainable(network: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]


def _as_buffer(name: str) -> str:
    return name.replace(".", "/")  # a buffer's name must hold no dot
