"""What would not stop a run, and is rarely meant: crops that show little, and actions that robosuite clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from robomimic_frozen.config import has_absolute_actions, selections
from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.features.source import each_demo
from robomimic_frozen.utils import hdf5

_LITTLE: Final = 0.5  # of an image
_SHOWN_OF_A_SIDE: Final = 76 / 84  # by the crops of robomimic's image configs


def small_crop(spec: EncoderSpec) -> str | None:
    """Return a warning where a crop shows less than half of an image, and which sizes would make it show as much as robomimic's does."""
    size, crop = spec.resize_shape or spec.image_shape[1:], spec.preprocessing().output_size
    shown = crop[0] * crop[1] / (size[0] * size[1])
    if shown >= _LITTLE:
        return None
    if spec.backbone.image_size is not None:  # the size is right, then
        return f"crop_shape {list(crop)} shows {shown:.0%} of an image of {list(size)}; set core_kwargs.crop_shape to {usual_crop(spec)}"
    resized = [min(side, round(part / _SHOWN_OF_A_SIDE)) for side, part in zip(size, crop, strict=True)]
    return (
        f"crop_shape {list(crop)} shows {shown:.0%} of an image of {list(size)}; "
        f"set observation.encoder.rgb.core_kwargs.resize_shape to {resized}, or choose a larger crop_shape"
    )


def usual_crop(spec: EncoderSpec) -> list[int]:
    """Return the crop of the resized image that shows as much as those of robomimic's image configs, in whole patches."""
    patch = spec.backbone.patch_size
    return [max(patch, round(side * _SHOWN_OF_A_SIDE / patch) * patch) for side in spec.resize_shape or spec.image_shape[1:]]


def large_actions(config: Any) -> Iterator[str]:
    """Yield a warning for each array of relative actions that leaves [-1, 1] and that training takes as it is. Raises as `each_demo`."""
    train = config.train
    # robomimic 0.3 has neither setting.
    settings, keys = train.get("action_config") or {}, train.get("action_keys") or ["actions"]
    if has_absolute_actions(keys):
        return
    for selection in selections(config, train.hdf5_filter_key):
        for key in [key for key in keys if not settings.get(key, {}).get("normalization")]:
            blocks = (block for demo in each_demo(selection) for block in hdf5.blocks(hdf5.array_in(demo, key)))
            extremes = [(block.min(), block.max()) for block in blocks]
            low, high = np.min(extremes), np.max(extremes)
            if low < -1 or high > 1:
                yield (
                    f"{key} of {selection.path} are from {low:.4g} to {high:.4g}, and robosuite clips them to [-1, 1]; "
                    "scale them, or set their normalization in train.action_config"
                )
