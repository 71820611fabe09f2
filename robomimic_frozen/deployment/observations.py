"""Observations as cameras and robots give them, checked against what a policy was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import robomimic.utils.obs_utils as ObsUtils

from robomimic_frozen.errors import ObservationError

Observation = dict[str, np.ndarray]

_IMAGES = ("rgb", "depth")


def raw_shapes(shapes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return obs key -> shape of one observation as it is recorded, images [H, W, C], for shapes as robomimic's networks take them."""
    return {key: (*shape[1:], shape[0]) if _is_image(key) else tuple(shape) for key, shape in shapes.items()}


def split_batch(observation: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> tuple[list[Observation], bool]:
    """Return the observation of each environment, and whether what was given is a batch of them [B, ...].

    Args:
        observation: obs key -> numbers, images as uint8; other keys than those of `shapes` are passed over.
        shapes: as `raw_shapes` returns them.

    Raises:
        ObservationError: a key is missing, has another shape or dtype, or holds NaN.
    """
    if missing := [key for key in shapes if key not in observation]:
        has = ", ".join(sorted(map(str, observation))) or "nothing"
        raise ObservationError(f"the observation lacks {missing[0]!r}, which the policy looks at, and has {has}; add it under that name")
    arrays = {key: _checked(key, observation[key], shape) for key, shape in shapes.items()}
    leading = {key: array.shape[: array.ndim - len(shapes[key])] for key, array in arrays.items()}
    first, *others = leading
    for key in others:
        if leading[key] != leading[first]:
            what = f"observation {key!r} is {list(arrays[key].shape)}, and {first!r} is {list(arrays[first].shape)}"
            raise ObservationError(f"{what}; give all of them of as many environments, or all without a batch dimension")
    if not leading[first]:
        return [arrays], False
    return [{key: array[index] for key, array in arrays.items()} for index in range(*leading[first])], True


def _checked(key: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.ascontiguousarray(value)  # torch takes no image that was flipped in place
    where = f"observation {key!r}"
    if array.shape[-len(shape) :] != shape or array.ndim > len(shape) + 1 or 0 in array.shape:
        remedy = "resize it as the demonstrations were" if _is_image(key) else "give what was recorded"
        raise ObservationError(f"{where} is {list(array.shape)}, and the policy was trained on {list(shape)}, or [B, ...] of it; {remedy}")
    if ObsUtils.key_is_obs_modality(key, "rgb"):
        if array.dtype != np.uint8:
            raise ObservationError(f"{where} is {array.dtype}, and images are uint8 [H, W, 3], as cameras give them; do not scale them")
    elif array.dtype.kind not in "fiu":
        raise ObservationError(f"{where} is {array.dtype}; give real numbers")
    elif not np.isfinite(array).all():
        raise ObservationError(f"{where} holds NaN or infinity; look after the sensor, and repeat its last good reading or stop")
    return array


def _is_image(key: str) -> bool:
    return any(ObsUtils.key_is_obs_modality(key, modality) for modality in _IMAGES)
