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
from urllib.parse import urlsplit

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from robomimic_frozen.config import place_in
from robomimic_frozen.encoders.weights import EXTRA_STATE, read_record, unpacked_record, write_record
from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.policies.optimization import averages_as_weights
from robomimic_frozen.policies.states import with_networks
from robomimic_frozen.utils.files import sha256_of, write_json
from robomimic_frozen.utils.hub import is_repository

DESCRIPTION: Final = "policy.json"
TENSORS: Final = "policy.safetensors"
FILES: Final = (DESCRIPTION, TENSORS)

_FORMAT: Final = 1
_TENSOR, _FROZEN = "tensor of policy.safetensors", "frozen weights"
# How a place begins that is somebody's: an absolute path, one from a home or through a parent, a URL, a file of another host.
_BEGINNING: Final = r"(?:~|\.{0,2}/|[A-Za-z]:[\\/]|\\\\|[A-Za-z][\w+.-]+:/|[\w.-]+@[\w.-]+)"
_WHOLE: Final = re.compile(rf"{_BEGINNING}.*", re.DOTALL)
_WITHIN: Final = re.compile(rf"(?<![\w.:/~@-]){_BEGINNING}[^\s\"',;]*")
# Settings that are a file or folder, also of relative ones.
_PLACES: Final = (
    "train.data", "experiment.ckpt_path", "algo.init_from", "meta.hp_base_config_file", "observation.encoder.rgb.core_kwargs.weights",
)  # fmt: skip
# Settings that are folders of this machine, and what is shared in their place.
_FOLDERS: Final = {"train.output_dir": "runs", "algo.feature_cache.dir": None}
_OF_TRAINING: Final = ("optimizers", "lr_schedulers")


class DamagedPolicyError(ConfigError):
    """The files of a shared policy are not as they were written."""


def write_portable(checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Write the policy of a checkpoint, as robomimic saves it, to `policy.json` and `policy.safetensors` in a folder.

    What training would go on from is left out: optimizers, and the weights behind the averages that act. Of paths and URLs the last part
    is kept.
    """
    tensors: dict[str, Tensor] = {}
    content = {
        **checkpoint,
        "config": json.dumps(shareable_config(json.loads(checkpoint["config"])), indent=4),
        "env_metadata": without_places(checkpoint["env_metadata"]),
        "model": with_networks({k: v for k, v in checkpoint["model"].items() if k not in _OF_TRAINING}, averages_as_weights),
    }
    if "variable_state" in checkpoint:  # what training goes on from, and by whose name 0.5 is known
        content["variable_state"] = None
    tree = _as_json(content, "", tensors)
    save_file(tensors, folder / TENSORS)
    write_json(folder / DESCRIPTION, {"format": _FORMAT, "sha256": sha256_of(folder / TENSORS), "checkpoint": tree})


def read_portable(description: Path, tensors: Path) -> dict[str, Any]:
    """Return the checkpoint that `write_portable` wrote to two files.

    Raises:
        DamagedPolicyError: they are not as they were written.
        ConfigError: a later version wrote them.
    """
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        version, sha256, tree = content["format"], content["sha256"], content["checkpoint"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedPolicyError(f"{description} describes no policy of this package ({first_line(error)}); fetch it again") from error
    if version != _FORMAT:
        raise ConfigError(f"{description} is of format {version}, and this version reads {_FORMAT}; pip install -U robomimic_frozen")
    if sha256_of(tensors) != sha256:
        raise DamagedPolicyError(f"{tensors} is damaged, for its sha256 is another one; fetch it again")
    return _from_json(tree, load_file(tensors))


def shareable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config, as JSON has it, without the places of files: of each its name is left, and `hf://OWNER/NAME` as it is.

    What somebody has written into a name, that of the experiment say, is left as it is.
    """
    shared = without_places(config)
    for path in _PLACES:
        section, key = place_in(shared, path)
        if isinstance(section.get(key), str) and not is_repository(place_in(config, path)[0][key]):
            section[key] = _name_of(section[key])
    for entry in shared["train"]["data"] if isinstance(shared["train"]["data"], list) else []:
        entry["path"] = _name_of(entry["path"])
    for path, other in _FOLDERS.items():
        section, key = place_in(shared, path)
        if key in section:
            section[key] = other
    return shared


def without_places(value: Any) -> Any:
    """Return JSON-like content in whose strings of places, absolute paths and URLs among them, their last part is left."""
    if isinstance(value, Mapping):
        return {key: without_places(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_places(each) for each in value]
    if not isinstance(value, str) or is_repository(value):
        return value
    return _name_of(value) if _WHOLE.fullmatch(value) else _WITHIN.sub(lambda match: _name_of(match[0]), value)


def _name_of(place: str) -> str:
    return PurePath(urlsplit(place.replace("\\", "/")).path).name


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
