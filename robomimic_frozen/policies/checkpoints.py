"""robomimic's checkpoints: read without executing anything in them, and what they hold."""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from robomimic_frozen.encoders.weights import frozen_records
from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.policies.hub import fetch_policy, pinned
from robomimic_frozen.policies.states import networks
from robomimic_frozen.utils.hub import is_repository
from robomimic_frozen.utils.machine import installed_version
from robomimic_frozen.utils.urls import is_url, local_path

# Entries of a state dict that are buffers of BatchNorm, not parameters, and what is no tensor at all.
_NO_PARAMETERS: Final = ("running_mean", "running_var", "num_batches_tracked", "_extra_state")


def read_checkpoint(place: str | Path, setting: str) -> dict[str, Any]:
    """Read what robomimic saved at a path or URL; `setting` says where that came from. Raises ConfigError, or as `local_checkpoint`."""
    path = local_checkpoint(place)
    if not path.is_file():
        raise ConfigError(f"checkpoint {path} does not exist; give the path of a .pth file with {setting}, or hf://OWNER/NAME")
    try:
        checkpoint = read_archive(path)
        checkpoint["algo_name"], checkpoint["config"], checkpoint["env_metadata"], checkpoint["model"]
        config = json.loads(checkpoint["config"])
        config.keys()
    except Exception as error:  # a damaged archive or pickle raises almost anything
        raise ConfigError(f"{path} is not a robomimic checkpoint ({first_line(error)}); give another {setting}") from error
    check_class_names(config, f"checkpoint {path}")
    return checkpoint


def local_checkpoint(place: str | Path) -> Path:
    """Return where the checkpoint at a path or URL, or the policy `hf://OWNER/NAME` of the hub, lies here; fetched where need be.

    Raises:
        ConfigError: there is no driver for the URL, or the repository holds no policy.
        RemoteFileError: it is not there, or cannot be fetched.
    """
    return fetch_policy(str(place)) if is_repository(place) else local_path(place)


def read_archive(path: Path) -> Any:
    """Read tensors and plain values that `torch.save` wrote, executing nothing. A damaged file raises almost any Exception."""
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


def check_class_names(config: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError, beginning with `where`, if robomimic's own image cores would call `eval` with what names no class of theirs."""
    import robomimic.models.obs_core as obs_core

    for place, name in _class_names(config.get("observation"), "observation"):
        if name is not None and not isinstance(getattr(obs_core, str(name), None), type):
            raise ConfigError(
                f"{where}: {place} is {name!r}, which robomimic would evaluate as Python "
                "and is no class of its own; do not use what you do not know the author of"
            )


def _class_names(section: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the place of each name of a class within a section, and the name: hierarchical algorithms have encoders of several parts."""
    for key, value in section.items() if isinstance(section, Mapping) else ():
        if key in ("backbone_class", "pool_class"):
            yield f"{place}.{key}", value
        yield from _class_names(value, f"{place}.{key}")


def find_checkpoint(place: str | Path, setting: str) -> Path:
    """Return where the checkpoint at a path or URL lies here; the newest one if it is the folder of a run or of several.

    Raises as `checkpoints_in` and `local_checkpoint`.
    """
    found = [place] if is_url(place) else checkpoints_in(place, setting)
    return local_checkpoint(found[0]) if len(found) == 1 else max(map(Path, found), key=lambda checkpoint: checkpoint.stat().st_mtime)


def checkpoints_in(place: str | Path, setting: str) -> list[str | Path]:
    """Return `place`, of the hub with its commit, or where it is the folder of a run or of several, all checkpoints in it, by name.

    Raises:
        ConfigError: the folder holds none.
        RemoteFileError: the hub does not give the policy.
    """
    if is_repository(place):
        return [pinned(str(place))]
    path = Path(place).expanduser()
    if is_url(place) or not path.is_dir():
        return [place if is_url(place) else path]
    # Not those that begin with a dot: a killed run may have left one half-written.
    if found := sorted(path.glob("**/models/[!.]*.pth")):
        return [*found]
    raise ConfigError(f"{setting} {path} holds no checkpoint (models/*.pth); train first, or give the path of a .pth file")


def environments_in(checkpoint: Mapping[str, Any]) -> list[Any]:
    """Return the metadata of the environment of each dataset that was trained on; robomimic 0.5 saves a list where they are several."""
    metadata = checkpoint["env_metadata"]
    return metadata if isinstance(metadata, list) else [metadata]


def loadable(checkpoint: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a checkpoint as robomimic can load it: with the environment and the observations of the first dataset, if there are several.

    Raises:
        ConfigError: a newer robomimic has saved it than is installed; the message begins with `where`.
    """
    from robomimic.algo import Algo

    if "variable_state" in checkpoint and "load_optimizers" not in inspect.signature(Algo.deserialize).parameters:
        installed = installed_version("robomimic")
        raise ConfigError(f"{where} was saved by robomimic 0.5, and {installed} is installed; install robomimic's master branch")
    several = ("env_metadata", "shape_metadata")
    return {key: value[0] if key in several and isinstance(value, list) else value for key, value in checkpoint.items()}


def describe_checkpoint(place: str | Path) -> list[tuple[str, str]]:
    """Return (what, its value) in the order to print, without building networks. Raises as `read_checkpoint`."""
    path = local_checkpoint(place)
    return [*describe(read_checkpoint(path, "CKPT"), path), ("file size", f"{path.stat().st_size / 1e6:.1f} MB")]


def describe(checkpoint: Mapping[str, Any], place: str | Path) -> list[tuple[str, str]]:
    """Return what `describe_checkpoint` does of the content of a checkpoint; `place` names it in the ConfigError if it is none."""
    try:
        return list(_rows(checkpoint, json.loads(checkpoint["config"]), networks(checkpoint["model"])))
    except (AttributeError, KeyError, TypeError) as error:
        what = f"lacks what robomimic saves with a policy ({type(error).__name__}: {first_line(error)})"
        raise ConfigError(f"checkpoint {place} {what}; use one that robomimic's train.py has saved") from error


def _rows(checkpoint: Mapping[str, Any], config: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    total, trainable = count_parameters(state)
    yield "algorithm", checkpoint["algo_name"]
    yield "environment", ", ".join(dict.fromkeys(str(metadata.get("env_name")) for metadata in environments_in(checkpoint)))
    yield "experiment", config["experiment"]["name"]
    data = config["train"]["data"]
    yield "dataset", ", ".join(entry["path"] for entry in data) if isinstance(data, list) else str(data)
    yield "seed", str(config["train"]["seed"])
    if "epoch" in state:
        yield "epoch", str(state["epoch"])
    yield "parameters", f"{total:,}"
    yield "  trainable", f"{trainable:,}"
    yield "  frozen", f"{total - trainable:,}, what cameras share counted once"
    for place, encoders in _encoders_in(config["observation"]):
        yield f"encoder{place and f' of {place}'}", encoders["rgb"]["core_class"]
        yield from ((f"  {name}", json.dumps(value)) for name, value in encoders["rgb"]["core_kwargs"].items())
    for sha256, record in frozen_records(state).items():
        where = "in this file" if record["weights"] is not None else "to be found elsewhere"
        yield "frozen weights", f"{record['backbone']}, sha256 {sha256}, {where}"


def _encoders_in(observation: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each place in a config's `observation` that has encoders, and these by modality; only hierarchical algorithms have parts."""
    if "encoder" in observation:
        yield place, observation["encoder"]
        return
    for part, section in observation.items():
        yield from _encoders_in(section, f"{place}.{part}".lstrip("."))


def count_parameters(state: Mapping[str, Any]) -> tuple[int, int]:
    """Return (all, trainable) parameters in the state of a policy's networks, what cameras share counted once."""
    tensors = {name: value for name, value in state.items() if torch.is_tensor(value) and not name.endswith(_NO_PARAMETERS)}
    policy = {name: value for name, value in tensors.items() if name.startswith("policy.")} or tensors  # which others call otherwise
    parameters = {(value.untyped_storage().data_ptr(), value.storage_offset()): value.numel() for value in policy.values()}
    trainable = sum(parameters.values())
    return trainable + sum(record["parameters"] for record in frozen_records(state).values()), trainable
