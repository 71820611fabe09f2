"""Frozen weights in checkpoints: each once and packed, or only named by their sha256."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.encoders.weights import digest
from robomimic_frozen.errors import WeightsError

FROZEN = "frozen"
"""Entry of a compact state that holds {name of a VisionBackbone: sha256} and {sha256: record}."""


def compact(network: nn.Module, state: Mapping[str, Any], include: bool) -> dict[str, Any]:
    """`state`, a state dict of `network`, with one record for each different set of frozen weights in it.

    A record is {"backbone": its name, "parameters": how many, "weights": {name: packed tensor}, or None without `include`}.
    """
    state, users, records = dict(state), {}, {}
    for name, vision in _with_frozen_stages(network):
        weights = vision.frozen_state()
        for key in weights:
            del state[f"{name}.stages.{key}"]
        sha256 = users[name] = digest(weights)
        if sha256 not in records:
            records[sha256] = {
                "backbone": vision.backbone.name,
                "parameters": sum(p.numel() for stage in vision.frozen_stages for p in vision.stages[stage].parameters()),
                "weights": {key: _pack(value) for key, value in weights.items()} if include else None,
            }
    return {**state, FROZEN: {"users": users, "records": records}}


def expanded(network: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict `compact` made this of. Frozen weights it only names come from where `network` is configured to get them.

    Raises:
        WeightsUnavailableError: those cannot be had.
        WeightsError: they are others, or the packed ones are damaged.
    """
    state = dict(state)
    records = frozen_records(state)
    users = state.pop(FROZEN, {"users": {}})["users"]
    modules = dict(network.named_modules())
    weights: dict[str, dict[str, Tensor]] = {}
    for name, sha256 in users.items():
        if sha256 not in weights:
            record = records[sha256]
            if record["weights"] is not None:
                weights[sha256] = _included(record, sha256)
            elif isinstance(modules.get(name), VisionBackbone):
                weights[sha256] = _referred(modules[name], record["backbone"], sha256)
            else:
                continue  # whoever loads this finds out that the networks are different ones
        state.update({f"{name}.stages.{key}": value for key, value in weights[sha256].items()})
    return state


def frozen_records(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """sha256 -> record, of a state that `compact` made; none of any other."""
    return state.get(FROZEN, {"records": {}})["records"]


def _included(record: Mapping[str, Any], sha256: str) -> dict[str, Tensor]:
    weights = {key: _unpack(packed) for key, packed in record["weights"].items()}
    if digest(weights) != sha256:
        raise WeightsError(f"the frozen weights of {record['backbone']} in the checkpoint are damaged; use another one")
    return weights


def check_references(network: nn.Module) -> None:
    """Raise WeightsError unless all frozen weights can be restored from their sha256, on this machine at least."""
    for _, vision in _with_frozen_stages(network):
        _referred(vision, vision.backbone.name, vision.frozen_sha256())


def _referred(vision: VisionBackbone, backbone: str, sha256: str) -> dict[str, Tensor]:
    hint = "set core_kwargs.weights to the file that was trained with, or algo.checkpoint.frozen_weights to 'include' in training"
    try:
        original = vision.as_configured()
    except WeightsError as error:
        raise type(error)(f"the checkpoint only refers to the frozen weights of {backbone}, sha256 {sha256}: {error}") from error
    weights = {key: value for key, value in original.items() if key in vision.frozen_state()}
    if digest(weights) != sha256:
        raise WeightsError(
            f"the checkpoint refers to frozen weights of {backbone} with sha256 {sha256}, and those at hand have "
            f"{digest(weights)}; {hint}"
        )
    return weights


def _with_frozen_stages(network: nn.Module) -> Iterator[tuple[str, VisionBackbone]]:
    for name, module in network.named_modules():
        if isinstance(module, VisionBackbone) and module.frozen_stages:
            yield name, module


def _pack(value: Tensor) -> dict[str, Any]:
    """Deflated without loss. The first bytes of all numbers come first, then the second ones: exponents repeat themselves."""
    numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).reshape(-1, value.element_size())
    packed = zlib.compress(numbers.numpy().T.tobytes(), level=1)
    return {
        "shape": list(value.shape),
        "dtype": str(value.dtype).removeprefix("torch."),
        "bytes": torch.from_numpy(np.frombuffer(packed, np.uint8).copy()),
    }


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    dtype = getattr(torch, packed["dtype"])
    planes = np.frombuffer(zlib.decompress(packed["bytes"].numpy().tobytes()), np.uint8).reshape(dtype.itemsize, -1)
    return torch.from_numpy(planes.T.copy()).view(dtype).reshape(packed["shape"])
