"""The network of `fbc_frozen`: robomimic's observation encoder and a velocity network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import robomimic.utils.tensor_utils as TensorUtils
import torch
from robomimic.models.obs_nets import ObservationGroupEncoder
from torch import Tensor, nn

from robomimic_frozen.policies.flow_matching import Velocity, flow_matching_loss, integrate

Obs = dict[str, Tensor]


class FlowPolicy(nn.Module):
    """Observations -> condition, by robomimic's own observation encoder, and a velocity network on top.

    Args:
        group_shapes: observation group ('obs', 'goal') -> obs key -> shape without batch and time.
        encoder_kwargs: robomimic's encoder settings for each modality.
        obs_steps: frames in one observation.
        action_dim, horizon: shape of an action chunk [H, A].
        make_velocity: size of the condition -> velocity network.
    """

    def __init__(
        self,
        group_shapes: OrderedDict,
        encoder_kwargs: dict | None,
        obs_steps: int,
        action_dim: int,
        horizon: int,
        make_velocity: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.encoder = ObservationGroupEncoder(group_shapes, encoder_kwargs=encoder_kwargs)
        self.velocity = make_velocity(obs_steps * self.encoder.output_shape()[0])
        self.action_shape = (horizon, action_dim)

    def forward(self, groups: dict[str, Obs], steps: int, generator: torch.Generator | None = None) -> Tensor:
        """Action chunks [B, H, A] for observations [B, obs_steps, ...], from noise that `generator` draws."""
        velocity = self._velocity_given(groups)
        first = next(iter(groups["obs"].values()))
        noise = torch.randn(len(first), *self.action_shape, device=first.device, generator=generator)
        return integrate(velocity, noise, steps)

    def forward_train(self, groups: dict[str, Obs], targets: Tensor) -> Tensor:
        """Loss of `targets` [B, H, A], given observations [B, obs_steps, ...]."""
        return flow_matching_loss(self._velocity_given(groups), targets)

    def _velocity_given(self, groups: dict[str, Obs]) -> Velocity:
        frames = TensorUtils.time_distributed(groups, self.encoder, inputs_as_kwargs=True)
        condition = frames.flatten(1)
        return lambda x, times: self.velocity(x, times, condition)


def trainable(network: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter, of those that require a gradient."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
