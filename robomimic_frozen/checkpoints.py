"""robomimic checkpoints, read without executing anything in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

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


def find_checkpoint(path: Path, setting: str) -> Path:
    """`path`, or where it is the folder of a run or of several, the newest checkpoint in it. Raises ConfigError."""
    found = checkpoints_in(path, setting)
    return found[0] if len(found) == 1 else max(found, key=lambda checkpoint: checkpoint.stat().st_mtime)


def checkpoints_in(path: Path, setting: str) -> list[Path]:
    """`path`, or where it is the folder of a run or of several, all checkpoints in it, by name. Raises ConfigError."""
    path = path.expanduser()
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("**/models/*.pth"))
    if not found:
        raise ConfigError(f"{setting} {path} holds no checkpoint (models/*.pth); train first, or give the path of a .pth file")
    return found


def networks(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the networks in what an algo's `serialize` gave; robomimic 0.5 keeps that of the optimizers beside it."""
    return model.get("nets", model)


def with_networks(model: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """What an algo's `serialize` gave, with the state of its networks changed."""
    return {**model, "nets": change(model["nets"])} if "nets" in model else change(dict(model))
