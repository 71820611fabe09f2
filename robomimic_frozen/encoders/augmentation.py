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
    x, y = shifts[:, 0] * (width / 2), shifts[:, 1] * (height / 2)  # in cells
    left, top = x.floor(), y.floor()
    right, bottom = x - left, y - top
    # Each cell becomes a sum of four, by shares that are those of its sample. embedding_bag computes it sooner than grid_sample does.
    shares = torch.stack([(1 - right) * (1 - bottom), right * (1 - bottom), (1 - right) * bottom, right * bottom], dim=-1).to(maps.dtype)
    columns = torch.arange(width, device=maps.device, dtype=torch.int32) + left.int()[:, None]
    columns = torch.stack([columns, columns + 1, columns, columns + 1], dim=-1).clamp_(0, width - 1)
    rows = torch.arange(height, device=maps.device, dtype=torch.int32) + top.int()[:, None]
    rows = torch.stack([rows, rows, rows + 1, rows + 1], dim=-1).clamp_(0, height - 1) * width
    rows += height * width * torch.arange(samples, device=maps.device, dtype=torch.int32).view(-1, 1, 1)
    cells = (rows[:, :, None] + columns[:, None]).view(-1, 4)
    positions = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    moved = F.embedding_bag(cells, positions, mode="sum", per_sample_weights=shares.repeat_interleave(height * width, dim=0))
    return moved.view(samples, height, width, channels).permute(0, 3, 1, 2)


def with_noise(maps: Tensor, share: float) -> Tensor:
    """Add Gaussian noise to maps [B, C, h, w], whose standard deviation is this share of that of each map."""
    return maps + share * maps.std(dim=(1, 2, 3), keepdim=True) * torch.randn_like(maps)


def with_dropped_positions(maps: Tensor, share: float) -> Tensor:
    """Set a random share of the positions of maps [B, C, h, w] to zero in all channels, and scale the others up as dropout does."""
    return maps * F.dropout(maps.new_ones(len(maps), 1, *maps.shape[2:]), share)
