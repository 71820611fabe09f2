"""Augmentation of maps, in the place of images: what costs a network pass there costs next to nothing here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_shifts(samples: int, most: float, image_size: tuple[int, int], device: torch.device) -> Tensor:
    """Draw shifts of up to `most` pixels of images of a size (height, width); [samples, 2] of x and y, where an image's side is 2."""
    height, width = image_size
    pixels = (2 * torch.rand(samples, 2, device=device) - 1) * most
    # Column by column: a tensor of two numbers of the host cannot be made while a CUDA graph is captured.
    return torch.stack([pixels[:, 0] * (2 / width), pixels[:, 1] * (2 / height)], dim=1)


def shifted(maps: Tensor, shifts: Tensor) -> Tensor:
    """Move maps [B, C, h, w] by shifts [B, 2], between cells by interpolation; what comes in is what lies at the border.

    So random shifts of pixels (DrQ, Kostrikov et al. 2020, https://arxiv.org/abs/2004.13649) are made after the network.
    """
    samples, channels, height, width = maps.shape
    (columns, column_shares), (rows, row_shares) = _neighbours(shifts, (width, height))
    first = (height * width) * torch.arange(samples, device=maps.device).view(-1, 1, 1, 1, 1)
    cells = first + width * rows[:, :, None, :, None] + columns[:, None, :, None, :]
    shares = (row_shares[:, :, None, :, None] * column_shares[:, None, :, None, :]).to(maps.dtype)
    # A sum of four cells, with all channels side by side, is what embedding_bag computes, sooner than grid_sample does.
    positions = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    moved = F.embedding_bag(cells.view(-1, 4), positions, mode="sum", per_sample_weights=shares.view(-1, 4))
    return moved.view(samples, height, width, channels).permute(0, 3, 1, 2)


def _neighbours(shifts: Tensor, sizes: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """Return for both columns of shifts [B, 2], of sides of so many cells, which two each cell falls between [B, size, 2], and shares."""
    if sizes[0] != sizes[1]:
        return [_neighbours(shift.expand(-1, 2), (size, size))[0] for shift, size in zip(shifts.split(1, dim=1), sizes, strict=True)]
    size = sizes[0]
    places = (torch.arange(size, device=shifts.device) + (size / 2) * shifts[..., None]).clamp_(0, size - 1)
    lower = places.floor()
    share = places - lower
    cells = torch.stack([lower, (lower + 1).clamp_(max=size - 1)], dim=-1).long()
    return list(zip(cells.unbind(1), torch.stack([1 - share, share], dim=-1).unbind(1), strict=True))


def with_noise(maps: Tensor, share: float) -> Tensor:
    """Add Gaussian noise to maps [B, C, h, w], whose standard deviation is this share of that of each map."""
    return maps + share * maps.std(dim=(1, 2, 3), keepdim=True) * torch.randn_like(maps)


def with_dropped_positions(maps: Tensor, share: float) -> Tensor:
    """Set a random share of the positions of maps [B, C, h, w] to zero in all channels, and scale the others up as dropout does."""
    return maps * F.dropout(maps.new_ones(len(maps), 1, *maps.shape[2:]), share)
