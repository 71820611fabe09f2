"""Conditional flow matching with straight paths (Lipman et al. 2023, https://arxiv.org/abs/2210.02747, eq. 20-23;
rectified flow, Liu et al. 2023, https://arxiv.org/abs/2209.03003)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import robomimic.utils.tensor_utils as TensorUtils
import torch
import torch.nn.functional as F
from robomimic.models.obs_nets import ObservationGroupEncoder
from torch import Tensor, nn

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, ...], t [B]) -> dx/dt [B, ...]"""
Obs = dict[str, Tensor]


def flow_matching_loss(velocity: Velocity, targets: Tensor) -> Tensor:
    """Return the mean squared error of the velocity at a random time of the path from noise to `targets` [B, ...].

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
        times = torch.full(x.shape[:1], step / steps, device=x.device)  # no len(x), of which an export would make a constant
        x = x + velocity(x, times) / steps
    return x


class FlowPolicy(nn.Module):
    """Observations -> condition, by robomimic's own observation encoder, and a velocity network on top.

    Args:
        group_shapes: observation group ('obs', 'goal') -> obs key -> shape without batch and time.
        encoder_kwargs: robomimic's encoder settings for each modality.
        obs_steps: frames in one observation.
        make_velocity: size of the condition -> velocity network.
    """

    def __init__(
        self, group_shapes: OrderedDict, encoder_kwargs: dict | None, obs_steps: int, make_velocity: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.encoder = ObservationGroupEncoder(group_shapes, encoder_kwargs=encoder_kwargs)
        self.velocity = make_velocity(obs_steps * self.encoder.output_shape()[0])

    def forward(self, groups: dict[str, Obs], steps: int, noise: Tensor) -> Tensor:
        """Return action chunks [B, H, A] for observations [B, obs_steps, ...], from noise of their shape."""
        return integrate(self._velocity_given(groups), noise, steps)

    def forward_train(self, groups: dict[str, Obs], targets: Tensor) -> Tensor:
        """Return the loss of `targets` [B, H, A], given observations [B, obs_steps, ...]."""
        return flow_matching_loss(self._velocity_given(groups), targets)

    def _velocity_given(self, groups: dict[str, Obs]) -> Velocity:
        condition = TensorUtils.time_distributed(groups, self.encoder, inputs_as_kwargs=True).flatten(1)
        return lambda x, times: self.velocity(x, times, condition)


def trainable(network: nn.Module) -> dict[str, Tensor]:
    """Return name -> parameter, of those that require a gradient."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
