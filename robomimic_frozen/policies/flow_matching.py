"""Conditional flow matching with straight paths (Lipman et al. 2023, https://arxiv.org/abs/2210.02747, eq. 20-23;
rectified flow, Liu et al. 2023, https://arxiv.org/abs/2209.03003)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> dx/dt [B, ...]"""


def flow_matching_loss(velocity: Velocity, targets: Tensor) -> Tensor:
    """Mean squared error of the velocity at a random time of the path from noise to `targets` [B, ...].

    x_t = (1 - t) x_0 + t x_1 with x_0 ~ N(0, I), x_1 the target and t ~ U(0, 1); its velocity is x_1 - x_0.
    """
    noise = torch.randn_like(targets)
    times = torch.rand(len(targets), device=targets.device)
    mix = times.view(-1, *[1] * (targets.ndim - 1))
    return F.mse_loss(velocity(torch.lerp(noise, targets, mix), times), targets - noise)


def integrate(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Carry `noise` [B, ...] along the velocity from t = 0 to t = 1 in `steps` equal Euler steps."""
    x = noise
    for step in range(steps):
        times = torch.full((len(x),), step / steps, device=x.device)
        x = x + velocity(x, times) / steps
    return x
