"""What would not stop a run, and is rarely meant: crops that show little, and actions that robosuite clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from robomimic_frozen.config import datasets_of, has_absolute_actions
from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.features.source import demos_in
from robomimic_frozen.utils import hdf5

_LITTLE: Final = 0.5  # of an image
_SHOWN_OF_A_SIDE: Final = 76 / 84  # by the crops of robomimic's image configs


def small_crop(spec: EncoderSpec) -> str | None:
    """Return a warning where a crop shows less than half of an image, with the size at which it would show as much as robomimic's does."""
    size, crop = spec.resize_shape or spec.image_shape[1:], spec.preprocessing().output_size
    shown = crop[0] * crop[1] / (size[0] * size[1])
    if shown >= _LITTLE:
        return None
    resized = [min(side, round(part / _SHOWN_OF_A_SIDE)) for side, part in zip(size, crop, strict=True)]
    return (
        f"crop_shape {list(crop)} shows {shown:.0%} of an image of {list(size)}; "
        f"set observation.encoder.rgb.core_kwargs.resize_shape to {resized}, or choose a larger crop_shape"
    )


def large_actions(config: Any) -> Iterator[str]:
    """Yield a warning for each array of relative actions that leaves [-1, 1] and that training takes as it is. Raises as `demos_in`."""
    train = config.train
    # robomimic 0.3 has neither setting.
    settings, keys = train.get("action_config") or {}, train.get("action_keys") or ["actions"]
    if has_absolute_actions(keys):
        return
    for entry in datasets_of(config):
        demos = demos_in(entry["path"], entry.get("filter_key") or train.hdf5_filter_key)[: entry.get("demo_limit")]
        for key in [key for key in keys if not settings.get(key, {}).get("normalization")]:
            with hdf5.opened(entry["path"]) as file:
                arrays = [hdf5.array_in(hdf5.group_in(file["data"], demo), key) for demo in demos]
                extremes = [(block.min(), block.max()) for array in arrays for block in hdf5.blocks(array)]
            low, high = np.min(extremes), np.max(extremes)
            if low < -1 or high > 1:
                yield (
                    f"{key} of {entry['path']} are from {low:.4g} to {high:.4g}, and robosuite clips them to [-1, 1]; "
                    "scale them, or set their normalization in train.action_config"
                )
