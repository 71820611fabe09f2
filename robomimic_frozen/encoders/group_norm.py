"""GroupNorm in the place of BatchNorm, for networks that start from random weights."""

from __future__ import annotations

from torch import nn

CHANNELS_PER_GROUP = 16


def with_group_norm(network: nn.Module) -> nn.Module:
    """The same network with each BatchNorm2d replaced by a GroupNorm of 16 channels a group.

    As in Diffusion Policy (Chi et al. 2023), where BatchNorm and the moving average of the weights disagree.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.BatchNorm2d):
            groups = max(1, child.num_features // CHANNELS_PER_GROUP)
            setattr(network, name, nn.GroupNorm(groups, child.num_features))
        else:
            with_group_norm(child)
    return network
