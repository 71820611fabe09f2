"""Resizing and cropping of image batches."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import torch
import torchvision.transforms.v2.functional as TVF
from torch import Tensor, nn

from robomimic_frozen.errors import ConfigError


class ResizeAndCrop(nn.Module):
    """Images [B, 3, H, W] -> resized to `resize_shape`, then cropped to `crop_shape` (each [height, width] or None): [B, 3, *output_size].

    The crop is the central one in eval mode; in training mode each image gets a position of its own, unless
    `random_crop` is False. Raises ConfigError if the crop does not fit.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        resize_shape: Sequence[int] | None = None,
        crop_shape: Sequence[int] | None = None,
        random_crop: bool = True,
    ) -> None:
        super().__init__()
        self.resize_shape = _height_and_width("resize_shape", resize_shape)
        self.crop_shape = _height_and_width("crop_shape", crop_shape)
        self.random_crop = random_crop
        height, width = self.resize_shape or (image_shape[-2], image_shape[-1])
        self.output_size = self.crop_shape or (height, width)
        if self.output_size[0] > height or self.output_size[1] > width:
            raise ConfigError(
                f"crop_shape {list(self.output_size)} is larger than the image [{height}, {width}] it is cut from; "
                "choose a smaller crop_shape or a larger resize_shape"
            )

    def forward(self, images: Tensor) -> Tensor:
        return self.crop(self.resize(images))

    def resize(self, images: Tensor) -> Tensor:
        """Resize images [B, 3, H, W] to [B, 3, *resize_shape]."""
        return images if self.resize_shape is None else TVF.resize(images, list(self.resize_shape), antialias=True)

    def crop(self, images: Tensor) -> Tensor:
        """Crop resized images to [B, 3, *crop_shape]; random positions are drawn from torch's global generator."""
        if self.crop_shape is None:
            return images
        if not (self.training and self.random_crop):
            return TVF.center_crop(images, list(self.crop_shape))
        batch, _, height, width = images.shape
        tops = torch.randint(height - self.crop_shape[0] + 1, (batch,), device=images.device)
        lefts = torch.randint(width - self.crop_shape[1] + 1, (batch,), device=images.device)
        return crop_at(images, tops, lefts, self.crop_shape)

    def extra_repr(self) -> str:
        return f"resize_shape={self.resize_shape}, crop_shape={self.crop_shape}, random_crop={self.random_crop}"


def crop_at(images: Tensor, tops: Tensor, lefts: Tensor, crop_shape: tuple[int, int]) -> Tensor:
    """Cut a crop [C, *crop_shape] out of each of the images [B, C, H, W], at its own position of `tops` [B] and `lefts` [B]."""
    rows = tops[:, None] + torch.arange(crop_shape[0], device=images.device)
    columns = lefts[:, None] + torch.arange(crop_shape[1], device=images.device)
    batch = torch.arange(len(images), device=images.device)
    # Advanced indices on both sides of a slice put the sliced dimension last.
    return images[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _height_and_width(setting: str, value: Iterable[int] | None) -> tuple[int, int] | None:
    return None if value is None else two_sizes(setting, value, "[height, width] in pixels, or null")


def two_sizes(setting: str, value: Iterable[int], expected: str) -> tuple[int, int]:
    """Return a setting of two whole numbers from 1 on, numpy's too, as ints. Raises ConfigError that asks for what is `expected`."""
    try:
        sizes = tuple(operator.index(size) for size in value)
    except TypeError:  # one number, or not whole ones
        sizes = ()
    if len(sizes) != 2 or min(sizes) < 1:
        raise ConfigError(f"{setting} is {value!r}; give {expected}")
    return sizes[0], sizes[1]
