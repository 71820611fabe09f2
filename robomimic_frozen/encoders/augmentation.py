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
    samples, channels, height, width = maps.shape
    rows, columns = _cells(shifts[:, 1], height), _cells(shifts[:, 0], width)
    first = height * width * torch.arange(samples, device=maps.device)
    pairs = [(row, column) for row in rows for column in columns]
    cells = torch.stack([first[:, None, None] + width * row[0][:, :, None] + column[0][:, None, :] for row, column in pairs], dim=-1)
    shares = torch.stack([row[1][:, :, None] * column[1][:, None, :] for row, column in pairs], dim=-1).to(maps.dtype)
    # A sum of four cells, with all channels side by side, is what embedding_bag computes, sooner than grid_sample does.
    positions = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    moved = F.embedding_bag(cells.view(-1, 4), positions, mode="sum", per_sample_weights=shares.view(-1, 4))
    return moved.view(samples, height, width, channels).permute(0, 3, 1, 2)


def _cells(shifts: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Return of each cell of a side of `size` cells, moved by shifts [B], the two [B, size] that it lies between, and their shares."""
    places = (torch.arange(size, device=shifts.device) + shifts[:, None] * size / 2).clamp(0, size - 1)
    lower = places.floor().long()
    share = places - lower
    return [(lower, 1 - share), ((lower + 1).clamp(max=size - 1), share)]


def with_noise(maps: Tensor, share: float) -> Tensor:
    """Add Gaussian noise to maps [B, C, h, w], whose standard deviation is this share of that of each map."""
    return maps + share * maps.std(dim=(1, 2, 3), keepdim=True) * torch.randn_like(maps)


def with_dropped_positions(maps: Tensor, share: float) -> Tensor:
    """Set a random share of the positions of maps [B, C, h, w] to zero in all channels, and scale the others up as dropout does."""
    return maps * F.dropout(maps.new_ones(len(maps), 1, *maps.shape[2:]), share)
