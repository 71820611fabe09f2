"""What a checkpoint holds, told without building its networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from robomimic_frozen.checkpoints import networks, read_checkpoint
from robomimic_frozen.encoders.weights import digest


def describe_checkpoint(path: Path) -> list[tuple[str, str]]:
    """(what, its value) in the order to print. Raises ConfigError if `path` is no robomimic checkpoint."""
    checkpoint = read_checkpoint(path, "CKPT")
    config, state = json.loads(checkpoint["config"]), networks(checkpoint)
    weights = {name: value for name, value in state.items() if name.startswith("policy.")}
    rows = [
        ("algorithm", checkpoint["algo_name"]),
        ("environment", str(checkpoint["env_metadata"].get("env_name"))),
        ("experiment", config["experiment"]["name"]),
        ("dataset", str(config["train"]["data"])),
        ("seed", str(config["train"]["seed"])),
        ("file size", f"{path.stat().st_size / 1e6:.1f} MB"),
        ("parameters and buffers", f"{_count(weights):,}, what cameras share counted once"),
    ]
    averaged = [name for name in state if name.startswith("ema.") and name != "ema._extra_state"]
    if averaged:
        rows.append(("of which trained", f"{sum(state[name].numel() for name in averaged):,}"))
        rows.append(("gradient steps", str(int(state["ema._extra_state"]))))
    core = config["observation"]["encoder"]["rgb"]
    if core["core_class"] == "FrozenResNetCore":
        kwargs = core["core_kwargs"]
        rows.append(("backbone", kwargs["rgb_model_name"]))
        rows.append(("frozen", json.dumps(kwargs.get("freeze_encoder", True))))
        rows.extend(("sha256 of the backbone", value) for value in sorted(_backbone_digests(weights)))
    return rows


def _count(state: Mapping[str, Tensor]) -> int:
    unique = {(value.untyped_storage().data_ptr(), value.storage_offset()): value.numel() for value in state.values()}
    return sum(unique.values())


def _backbone_digests(weights: Mapping[str, Any]) -> set[str]:
    """One for all cameras whose backbones are equal."""
    marker = ".backbone."
    cameras = {name.partition(marker)[0] for name in weights if marker in name}
    return {
        digest({name.partition(marker)[2]: value for name, value in weights.items() if name.startswith(camera + marker)})
        for camera in cameras
    }
