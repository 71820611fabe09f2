"""Exponential moving average of the trainable weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

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
        self.names: tuple[str, ...] = ()
        self.num_updates = 0
        self.add(parameters)

    def add(self, parameters: Mapping[str, Tensor]) -> None:
        """Average these, too, from now on."""
        for name, parameter in parameters.items():
            self.register_buffer(_as_buffer(name), parameter.detach().clone())
        self.names += tuple(parameters)

    def decay(self) -> float:
        """Return the share of the old average that the next update keeps."""
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
        """Return name -> average, as `torch.func.functional_call` takes them."""
        return {name: getattr(self, _as_buffer(name)) for name in self.names}

    # A counter on the device would have to be waited for at every step.
    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.num_updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.num_updates = int(state)

    def extra_repr(self) -> str:
        return f"max_decay={self.max_decay}, power={self.power}"


def _as_buffer(name: str) -> str:
    return name.replace(".", "/")  # a buffer's name must hold no dot


# The state of {"policy": a network, "ema": averages of it}, as a checkpoint holds it, and its entries.
_POLICY, _EMA = "policy.", "ema."
_NUM_UPDATES = "ema._extra_state"


def averages_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return name of the parameter -> average. Empty where the averages have taken the place of the weights."""
    names = [name for name in state if name.startswith(_EMA) and name != _NUM_UPDATES]
    return {name.removeprefix(_EMA).replace("/", "."): state[name] for name in names}


def num_updates_in(state: Mapping[str, Any]) -> int:
    """Return how many gradient steps the averages have seen."""
    return int(state[_NUM_UPDATES])


def averages_as_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Put the averages in the place of the weights they are of: all that acting needs, in half the size."""
    averages = {f"{_POLICY}{name}": value for name, value in averages_in(state).items()}
    return {name: value for name, value in state.items() if not name.startswith(_EMA) or name == _NUM_UPDATES} | averages


def with_averages(state: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return `state` with the averages of `names`: the weights, where it has no averages of its own."""
    weights = {f"{_EMA}{_as_buffer(name)}": state[_POLICY + name] for name in names if _POLICY + name in state}
    return weights | dict(state)
