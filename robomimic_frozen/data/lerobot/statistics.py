"""Statistics of features, as LeRobot notes them for each episode and for a whole set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

# What is looked at of images: so many frames of an episode, spread over it, and pixels as if a frame were so large.
_FRAMES, _SIDE = 100, 150
_QUANTILES: Final = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


def of_episode(values: np.ndarray) -> dict[str, list]:
    """Return the statistics of each number of [T, N] or [T] over the steps, or of each colour of images [T, H, W, 3], from 0 to 1."""
    count, rows = len(values), values.reshape(len(values), -1)
    if is_image := values.ndim == 4:
        steps = [math.ceil(length / most) for length, most in zip(values.shape, (_FRAMES, _SIDE, _SIDE), strict=False)]
        shown = values[:: steps[0], :: steps[1], :: steps[2]]
        count, rows = len(shown), shown.reshape(-1, 3) / 255
    rows = rows.astype(np.float64)
    found = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
    found |= dict(zip(_QUANTILES, np.quantile(rows, list(_QUANTILES.values()), axis=0), strict=True))
    return {**{name: (value.reshape(-1, 1, 1) if is_image else value).tolist() for name, value in found.items()}, "count": [count]}


def of_all(episodes: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Return the statistics of a feature over episodes, given those of each; quantiles are averages of theirs, as LeRobot makes them."""
    of = {name: np.array([episode[name] for episode in episodes]) for name in episodes[0]}
    weights = (of["count"] / of["count"].sum()).reshape(-1, *[1] * (of["mean"].ndim - 1))
    result = {name: (weights * of[name]).sum(axis=0) for name in ("mean", *_QUANTILES)}
    result["std"] = np.sqrt((weights * (of["std"] ** 2 + (of["mean"] - result["mean"]) ** 2)).sum(axis=0))
    result |= {"min": of["min"].min(axis=0), "max": of["max"].max(axis=0), "count": of["count"].sum(axis=0)}
    return {name: value.tolist() for name, value in result.items()}
