"""What a checkpoint holds, told without building its networks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from robomimic_frozen.checkpoints import networks, read_checkpoint
from robomimic_frozen.encoders.frozen_weights import frozen_records

# Entries of a state dict that are buffers of BatchNorm, not parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def describe_checkpoint(path: Path) -> list[tuple[str, str]]:
    """(what, its value) in the order to print. Raises ConfigError if `path` is no robomimic checkpoint."""
    checkpoint = read_checkpoint(path, "CKPT")
    config, state = json.loads(checkpoint["config"]), networks(checkpoint["model"])
    return [
        ("algorithm", checkpoint["algo_name"]),
        ("environment", str(checkpoint["env_metadata"].get("env_name"))),
        ("experiment", config["experiment"]["name"]),
        ("dataset", str(config["train"]["data"])),
        ("seed", str(config["train"]["seed"])),
        *([("epoch", str(state["epoch"]))] if "epoch" in state else []),
        *_parameters(state),
        *_encoder(config["observation"]["encoder"]["rgb"]),
        *_frozen_weights(state),
        ("file size", f"{path.stat().st_size / 1e6:.1f} MB"),
    ]


def checkpoint_config(path: Path) -> str:
    """The config of a checkpoint's run, as JSON. Raises ConfigError if `path` is no robomimic checkpoint."""
    return read_checkpoint(path, "CKPT")["config"]


def count_parameters(state: Mapping[str, Any]) -> tuple[int, int]:
    """(all, trainable) parameters in the state of a policy's networks, what cameras share counted once."""
    policy = {name: value for name, value in state.items() if name.startswith("policy.") and not name.endswith(_BUFFERS)}
    tensors = {(value.untyped_storage().data_ptr(), value.storage_offset()): value.numel() for value in policy.values()}
    trainable = sum(tensors.values())
    frozen = sum(record["parameters"] for record in frozen_records(state).values())
    return trainable + frozen, trainable


def _parameters(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    total, trainable = count_parameters(state)
    yield "parameters", f"{total:,}"
    yield "  trainable", f"{trainable:,}"
    yield "  frozen", f"{total - trainable:,}, what cameras share counted once"


def _encoder(rgb: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "encoder", rgb["core_class"]
    for name, value in rgb["core_kwargs"].items():
        yield f"  {name}", json.dumps(value)


def _frozen_weights(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for sha256, record in frozen_records(state).items():
        where = "in this file" if record["weights"] is not None else "to be found elsewhere"
        yield "frozen weights", f"{record['backbone']}, sha256 {sha256}, {where}"
