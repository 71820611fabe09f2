"""robomimic checkpoints, read without executing anything in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robomimic_frozen.errors import ConfigError, first_line


def read_checkpoint(path: Path, setting: str) -> dict[str, Any]:
    """What robomimic saved at `path`; `setting` says where the path came from. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"checkpoint {path} does not exist; give the path of a .pth file with {setting}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["algo_name"], checkpoint["config"], checkpoint["env_metadata"], checkpoint["model"]
    except Exception as error:  # a damaged archive or pickle raises almost anything
        raise ConfigError(f"{path} is not a robomimic checkpoint ({first_line(error)}); give another {setting}") from error
    return checkpoint


def networks(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state dict of the algo's networks, which robomimic 0.5 keeps beside that of the optimizers."""
    model = checkpoint["model"]
    return model["nets"] if "nets" in model else model
