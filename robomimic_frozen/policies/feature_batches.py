"""Batches whose image observations are cached features."""

from __future__ import annotations

from typing import Any

import robomimic.utils.obs_utils as ObsUtils

GROUPS = ("obs", "next_obs", "goal_obs")


class FeatureBatches:
    """Mixin for robomimic algos: keeps robomimic's image processing away from features [..., F, 1, 1]."""

    def postprocess_batch_for_training(self, batch: dict[str, Any], obs_normalization_stats: Any) -> dict[str, Any]:
        """As robomimic's, with features handed through unchanged."""
        features = {}
        for group in GROUPS:
            observations = batch.get(group) or {}
            features[group] = {key: value for key, value in observations.items() if _is_feature(key, value)}
            if features[group]:
                batch[group] = {key: value for key, value in observations.items() if key not in features[group]}
        batch = super().postprocess_batch_for_training(batch, obs_normalization_stats)  # type: ignore[misc]
        for group, values in features.items():
            if values:
                batch[group] = {**batch[group], **values}
        return batch


def _is_feature(key: str, value: Any) -> bool:
    return ObsUtils.key_is_obs_modality(key, "rgb") and value.shape[-2:] == (1, 1)
