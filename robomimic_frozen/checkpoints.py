"""robomimic checkpoints, read without executing anything in them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robomimic_frozen.class_names import check_class_names
from robomimic_frozen.errors import ConfigError, first_line


def read_checkpoint(path: Path, setting: str) -> dict[str, Any]:
    """What robomimic saved at `path`; `setting` says where the path came from. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"checkpoint {path} does not exist; give the path of a .pth file with {setting}")
    try:
        checkpoint = read_archive(path)
        checkpoint["algo_name"], checkpoint["config"], checkpoint["env_metadata"], checkpoint["model"]
        config = json.loads(checkpoint["config"])
    except Exception as error:  # a damaged archive or pickle raises almost anything
        raise ConfigError(f"{path} is not a robomimic checkpoint ({first_line(error)}); give another {setting}") from error
    check_class_names(config, f"checkpoint {path}")
    return checkpoint


def read_archive(path: Path) -> Any:
    """Tensors and plain values that `torch.save` wrote, on the CPU; nothing in the file is executed.

    Raises:
        Exception: of almost any class, if the file is another or is damaged.
    """
    check_sums(path)
    # robomimic 0.5 keeps the best return so far as numpy's float.
    numbers: list[Any] = [np.core.multiarray.scalar, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))]  # type: ignore[attr-defined]
    with torch.serialization.safe_globals(numbers):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def check_sums(path: Path) -> None:
    """Raise ValueError if the checksums in an archive of `torch.save`, which torch does not look at, say that it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError(f"damaged: {first_line(error)}") from error
    if damaged is not None:
        raise ValueError(f"damaged: the checksum of {damaged} differs")


def find_checkpoint(path: Path, setting: str) -> Path:
    """`path`, or where it is the folder of a run or of several, the newest checkpoint in it. Raises ConfigError."""
    found = checkpoints_in(path, setting)
    return found[0] if len(found) == 1 else max(found, key=lambda checkpoint: checkpoint.stat().st_mtime)


def checkpoints_in(path: Path, setting: str) -> list[Path]:
    """`path`, or where it is the folder of a run or of several, all checkpoints in it, by name. Raises ConfigError."""
    path = path.expanduser()
    if not path.is_dir():
        return [path]
    # Not those that begin with a dot: a killed run may have left one half-written.
    found = sorted(path.glob("**/models/[!.]*.pth"))
    if not found:
        raise ConfigError(f"{setting} {path} holds no checkpoint (models/*.pth); train first, or give the path of a .pth file")
    return found


def networks(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of the networks in what an algo's `serialize` gave; robomimic 0.5 keeps that of the optimizers beside it."""
    return model.get("nets", model)


def with_networks(model: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """What an algo's `serialize` gave, with the state of its networks changed."""
    return {**model, "nets": change(model["nets"])} if "nets" in model else change(dict(model))
