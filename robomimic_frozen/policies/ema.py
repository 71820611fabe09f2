"""Exponential moving average of the trainable weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """Averages of `parameters` (name -> parameter), as buffers, so that a checkpoint holds them.

    The decay grows from 0 to `max_decay` as 1 - (1 + step)^-power, so that early averages forget the random start
    (the schedule of Diffusion Policy, Chi et al. 2023, after @crowsonkb).
    """

    def __init__(self, parameters: Mapping[str, Tensor], max_decay: float, power: float) -> None:
        super().__init__()
        self.max_decay = max_decay
        self.power = power
        self.names = tuple(parameters)
        self.num_updates = 0
        for name, parameter in parameters.items():
            self.register_buffer(_as_buffer(name), parameter.detach().clone())

    def decay(self) -> float:
        """The share of the old average that the next update keeps."""
        return min(self.max_decay, 1 - (1 + self.num_updates) ** -self.power)

    @torch.no_grad()
    def update(self, parameters: Iterable[Tensor]) -> None:
        """Move the averages towards the present `parameters`, given in the order of the first ones."""
        torch._foreach_lerp_(list(self.averages().values()), list(parameters), 1 - self.decay())
        self.num_updates += 1

    @torch.no_grad()
    def start_from(self, averages: Mapping[str, Tensor], num_updates: int) -> None:
        """Take over averages that were made elsewhere, of any of the parameters."""
        for name, average in self.averages().items():
            if name in averages:
                average.copy_(averages[name])
        self.num_updates = num_updates

    def averages(self) -> dict[str, Tensor]:
        """Name -> average, as `torch.func.functional_call` takes them."""
        return {name: getattr(self, _as_buffer(name)) for name in self.names}

    @staticmethod
    def averages_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Name -> average, of the state dict of an EMA."""
        return {name.replace("/", "."): value for name, value in state.items() if name != "_extra_state"}

    # A counter on the device would have to be waited for at every step.
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.num_updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.num_updates = int(state)

    def extra_repr(self) -> str:
        return f"max_decay={self.max_decay}, power={self.power}"


def _as_buffer(name: str) -> str:
    return name.replace(".", "/")  # a buffer's name must hold no dot
