"""One gradient step: AdamW with a rate of its own for the encoder, their schedule, and the moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

NEGLIGIBLE: Final = 1e-25
CLEAR_EVERY: Final = 250
"""Steps; in so many a first moment shrinks by 0.9 ** 250 = 4e-12, so that one of NEGLIGIBLE size is still a normal number."""

# The state of {"policy": a network, "ema": averages of it}, as a checkpoint holds it.
_POLICY, _EMA = "policy.", "ema."
NUM_UPDATES: Final = "ema._extra_state"
"""Its entry for the number of gradient steps that the averages have seen."""


def make_optimizer(policy: Iterable[Tensor], encoder: Iterable[Tensor], settings: Any, device: str) -> torch.optim.AdamW:
    """Make AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) over the parameters of policy and encoder.

    Args:
        settings: the config's `algo.optim_params.policy`. Each group keeps its rate under 'initial_lr'.
        device: 'cpu', 'cuda' or another, of the parameters.
    """
    rate, weight_decay = settings.learning_rate.initial, settings.regularization.L2
    groups = [{"params": list(policy), "initial_lr": rate}, {"params": list(encoder), "initial_lr": encoder_rate(settings)}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=rate, weight_decay=weight_decay,
        fused=device in ("cpu", "cuda"), capturable=device == "cuda",
    )  # fmt: skip


def encoder_rate(settings: Any) -> float:
    """Return the learning rate of trainable backbone stages."""
    rate = settings.learning_rate
    return rate.initial if rate.encoder is None else rate.encoder


def warmup_cosine(step: int, progress: float, warmup_steps: int) -> float:
    """Return the factor on the initial learning rate: linear over the first `warmup_steps` steps, then half a cosine to 0.

    Args:
        step: gradient steps taken so far.
        progress: the part of the whole training that is over, in [0, 1].
    """
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@torch.no_grad()
def clear_negligible_moments(optimizer: torch.optim.Optimizer) -> None:
    """Set moments to 0 that move no weight, to be called after every CLEAR_EVERY steps.

    Moments of a weight that no longer gets gradients (behind a dead unit, say) halve until they are denormal numbers, and
    stay there. A CPU computes with those many times slower: the optimizer took 2 to 4 times as long after 1000 steps.
    """
    for state in optimizer.state.values():
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            moment.masked_fill_(moment.abs() < NEGLIGIBLE, 0)


class EMA(nn.Module):
    """Exponential moving averages of `parameters` (name -> parameter), as buffers, so that a checkpoint holds them.

    The decay grows from 0 to `max_decay` as 1 - (1 + step)^-power, so that early averages forget the random start
    (the schedule of Diffusion Policy, Chi et al. 2023, after @crowsonkb).
    """

    def __init__(self, parameters: Mapping[str, Tensor], max_decay: float, power: float) -> None:
        super().__init__()
        self.max_decay, self.power = max_decay, power
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
    def update(self, parameters: Iterable[Tensor], share: float | Tensor) -> None:
        """Move the averages towards the present `parameters`, given in the order of the first ones; the caller counts `num_updates`.

        `share` is 1 - `decay()`, of which a tensor may be captured in a CUDA graph.
        """
        averages = list(self.averages().values())
        torch._foreach_lerp_(averages, list(parameters), share if isinstance(share, float) else [share] * len(averages))

    @torch.no_grad()
    def start_from(self, averages: Mapping[str, Tensor], num_updates: Tensor) -> None:
        """Take over averages that were made elsewhere, and how many updates made them."""
        for name, average in self.averages().items():
            average.copy_(averages[name])
        self.set_extra_state(num_updates)

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


def averages_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return name of the parameter -> average. Empty where the averages have taken the place of the weights."""
    names = [name for name in state if name.startswith(_EMA) and name != NUM_UPDATES]
    return {name.removeprefix(_EMA).replace("/", "."): state[name] for name in names}


def averages_as_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Put the averages in the place of the weights they are of: all that acting needs, in half the size."""
    averages = {f"{_POLICY}{name}": value for name, value in averages_in(state).items()}
    return {name: value for name, value in state.items() if not name.startswith(_EMA) or name == NUM_UPDATES} | averages


def with_averages(state: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return `state` with the averages of `names`: the weights, where it has no averages of its own."""
    weights = {f"{_EMA}{_as_buffer(name)}": state[_POLICY + name] for name in names if _POLICY + name in state}
    return weights | dict(state)
