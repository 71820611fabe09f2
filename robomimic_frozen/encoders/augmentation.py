"""Augmentation of maps, in the place of images: what costs a network pass there costs next to nothing here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_shifts(samples: int, most: float, image_size: tuple[int, int], device: torch.device) -> Tensor:
    """Draw shifts of up to `most` pixels of images of a size (height, width); [samples, 2] of x and y, where an image's side is 2."""
    height, width = image_size
    pixels = (2 * torch.rand(samples, 2, device=device) - 1) * most
    return pixels * torch.tensor([2 / width, 2 / height], device=device)


def shifted(maps: Tensor, shifts: Tensor) -> Tensor:
    """Move maps [B, C, h, w] by shifts [B, 2], between cells by interpolation; what comes in is what lies at the border.

    So random shifts of pixels (DrQ, Kostrikov et al. 2020, https://arxiv.org/abs/2004.13649) are made after the network.
    """
    moves = torch.eye(2, 3, device=maps.device, dtype=maps.dtype).repeat(len(maps), 1, 1)
    moves[:, :, 2] = shifts
    places = F.affine_grid(moves, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, places, padding_mode="border", align_corners=False)


def with_noise(maps: Tensor, share: float) -> Tensor:
    """Add Gaussian noise to maps [B, C, h, w], whose standard deviation is this share of that of each map."""
    return maps + share * maps.std(dim=(1, 2, 3), keepdim=True) * torch.randn_like(maps)


def with_dropped_positions(maps: Tensor, share: float) -> Tensor:
    """Set a random share of the positions of maps [B, C, h, w] to zero in all channels, and scale the others up as dropout does."""
    return maps * F.dropout(maps.new_ones(len(maps), 1, *maps.shape[2:]), share)
