"""What tests have to say otherwise to robomimic's master branch (0.5) than to 0.3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import robomimic.utils.file_utils as FileUtils
import robomimic.utils.train_utils as TrainUtils

IS_0_5 = hasattr(TrainUtils, "MetaDataset")


def as_train_data(dataset: Path) -> Any:
    """What robomimic's own functions take as `train.data`; train.py, and ours, take a path in both."""
    return [{"path": str(dataset)}] if IS_0_5 else str(dataset)


def shape_metadata(dataset: Path, config: Any) -> dict[str, Any]:
    keys = {"all_obs_keys": config.all_obs_keys}
    if IS_0_5:
        return FileUtils.get_shape_metadata_from_dataset({"path": str(dataset)}, ["actions"], **keys)
    return FileUtils.get_shape_metadata_from_dataset(str(dataset), **keys)
