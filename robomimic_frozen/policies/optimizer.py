"""AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101), a rate of its own for the encoder, and their schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

NEGLIGIBLE = 1e-25
CLEAR_EVERY = 250
"""Steps; in so many a first moment shrinks by 0.9 ** 250 = 4e-12, so that one of NEGLIGIBLE size is still a normal number."""


def make_optimizer(policy: Iterable[Tensor], encoder: Iterable[Tensor], settings: Any, fused: bool) -> torch.optim.AdamW:
    """Make an optimizer over the parameters of policy and encoder, with each group's rate under 'initial_lr'.

    Args:
        settings: the config's `algo.optim_params.policy`.
    """
    groups = [
        {"params": list(policy), "initial_lr": settings.learning_rate.initial},
        {"params": list(encoder), "initial_lr": encoder_rate(settings)},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate.initial,
        weight_decay=settings.regularization.L2,
        fused=fused,
    )


def encoder_rate(settings: Any) -> float:
    """Return the learning rate of trainable backbone stages."""
    rate = settings.learning_rate
    return rate.initial if rate.encoder is None else rate.encoder


@torch.no_grad()
def clear_negligible_moments(optimizer: torch.optim.Optimizer) -> None:
    """Set moments to 0 that move no weight, to be called after every CLEAR_EVERY steps.

    Moments of a weight that no longer gets gradients (behind a dead unit, say) halve until they are denormal numbers, and
    stay there. A CPU computes with those many times slower: the optimizer took 2 to 4 times as long after 1000 steps.
    """
    for state in optimizer.state.values():
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            moment.masked_fill_(moment.abs() < NEGLIGIBLE, 0)


def warmup_cosine(step: int, progress: float, warmup_steps: int) -> float:
    """Return the factor on the initial learning rate: linear over the first `warmup_steps` steps, then half a cosine to 0.

    Args:
        step: gradient steps taken so far.
        progress: the part of the whole training that is over, in [0, 1].
    """
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
