"""Policies as safetensors and JSON: nothing in them can be executed, and nothing names the machine that they were made on.

`policy.json` holds what a checkpoint does, with the name of a tensor of `policy.safetensors` in the place of each tensor. Frozen weights,
which checkpoints pack, are tensors like any other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robomimic_frozen.encoders.weights import EXTRA_STATE, read_record, unpacked_record, write_record
from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.policies.optimization import averages_as_weights
from robomimic_frozen.policies.states import with_networks
from robomimic_frozen.utils.files import sha256_of, write_json

DESCRIPTION: Final = "policy.json"
TENSORS: Final = "policy.safetensors"
FILES: Final = (DESCRIPTION, TENSORS)

_FORMAT: Final = 1
_TENSOR, _FROZEN = "tensor of policy.safetensors", "frozen weights"
# An absolute path, or a URL, of a file or folder of somebody's.
_PLACE: Final = re.compile(r"(?<![\w.:/~-])(?:[A-Za-z][\w+.-]*://|~?/|[A-Za-z]:[\\/]|\\\\)[^\s\"',;]+")
_OF_TRAINING: Final = ("optimizers", "lr_schedulers")


def write_portable(checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Write the policy of a checkpoint, as robomimic saves it, to `policy.json` and `policy.safetensors` in a folder.

    What training would go on from is left out: optimizers, and the weights behind the averages that act. Of paths and URLs the last part
    is kept.
    """
    tensors: dict[str, Tensor] = {}
    content = {
        **checkpoint,
        "config": json.dumps(without_places(json.loads(checkpoint["config"])), indent=4),
        "env_metadata": without_places(checkpoint["env_metadata"]),
        "model": with_networks({k: v for k, v in checkpoint["model"].items() if k not in _OF_TRAINING}, averages_as_weights),
    }
    if "variable_state" in checkpoint:  # what training goes on from, and by whose name 0.5 is known
        content["variable_state"] = None
    tree = _as_json(content, "", tensors)
    save_file(tensors, folder / TENSORS)
    write_json(folder / DESCRIPTION, {"format": _FORMAT, "sha256": sha256_of(folder / TENSORS), "checkpoint": tree})


def read_portable(description: Path, tensors: Path) -> dict[str, Any]:
    """Return the checkpoint that `write_portable` wrote to two files. Raises ConfigError if they are damaged, or something else."""
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}, and this version reads {_FORMAT}; pip install -U robomimic_frozen")
        if sha256_of(tensors) != content["sha256"]:
            raise ValueError(f"damaged: the sha256 of {TENSORS} is another one; fetch it again")
        return _from_json(content["checkpoint"], load_file(tensors))
    except Exception as error:  # safetensors and JSON of something else raise almost anything
        raise ConfigError(f"{description.parent} holds no policy of robomimic_frozen ({first_line(error)})") from error


def without_places(value: Any) -> Any:
    """Return JSON-like content in whose strings the last part of each absolute path and URL is left."""
    if isinstance(value, str):
        return _PLACE.sub(lambda match: PurePath(match[0].replace("\\", "/")).name, value)
    if isinstance(value, Mapping):
        return {key: without_places(each) for key, each in value.items()}
    return [without_places(each) for each in value] if isinstance(value, (list, tuple)) else value


def _as_json(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return what JSON can hold of a value that is called `name`; its tensors go to `tensors`, equal ones once."""
    if isinstance(value, Tensor):
        if name.endswith(EXTRA_STATE) and value.dtype == torch.uint8 and value.numel():
            record = unpacked_record(read_record(value))
            return {_FROZEN: _as_json(record, f"frozen.{record['sha256']}", tensors)}
        tensors.setdefault(name, value.contiguous().clone())  # safetensors takes no two that share memory
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {key: _as_json(each, f"{name}.{key}".lstrip("."), tensors) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each, f"{name}.{index}", tensors) for index, each in enumerate(value)]
    return value


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(each, tensors) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {_TENSOR}:
        return tensors[value[_TENSOR]]
    content = {key: _from_json(each, tensors) for key, each in value.items()}
    return write_record(content[_FROZEN]) if content.keys() == {_FROZEN} else content
