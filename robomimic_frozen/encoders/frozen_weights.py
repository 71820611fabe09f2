"""Frozen weights in checkpoints: packed, or only named by their sha256. The one place that knows how they are written.

A frozen network's state dict has, in the place of its frozen stages, an extra state of torch's: a tensor of bytes, empty where nothing
is frozen, which is what `torch.save` makes of a record

    {"backbone": name, "stages": [names], "sha256": of the weights, "parameters": how many, "weights": {name: packed}, or None}

Equal records are one tensor, so that a checkpoint holds them once for all cameras.
"""

from __future__ import annotations

import io
import weakref
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import Tensor

from robomimic_frozen.encoders.weights import digest
from robomimic_frozen.errors import WeightsError

if TYPE_CHECKING:
    from robomimic_frozen.encoders.vision import VisionBackbone

EXTRA_STATE: Final = "_extra_state"
_OF_0_1_0: Final = "frozen"

# (backbone, sha256 of frozen weights) -> their record with the weights, while somebody uses it: packing takes a second.
_records: weakref.WeakValueDictionary[tuple[str, str], Tensor] = weakref.WeakValueDictionary()


def record_of(vision: VisionBackbone, include: bool) -> Tensor:
    """Return the record of a network's frozen stages, without the weights unless `include`."""
    if not vision.frozen_stages:
        return torch.empty(0, dtype=torch.uint8)
    stages = [vision.stages[name] for name in vision.frozen_stages]
    key = vision.spec.backbone.name, vision.frozen_sha256()
    record = {
        "backbone": key[0],
        "stages": vision.frozen_stages,
        "sha256": key[1],
        "parameters": sum(parameter.numel() for stage in stages for parameter in stage.parameters()),
        "weights": None,
    }
    if not include:
        return _as_bytes(record)
    found = _records.get(key)
    if found is None:
        found = _as_bytes({**record, "weights": {name: _pack(value) for name, value in vision.frozen_state().items()}})
        _records[key] = found
    return found


def read_record(extra_state: Tensor) -> dict[str, Any]:
    """Return a record; {} where nothing is frozen. Nothing in it is executed."""
    if not extra_state.numel():
        return {}
    return torch.load(io.BytesIO(extra_state.cpu().numpy().tobytes()), weights_only=True)


def _as_bytes(record: Mapping[str, Any]) -> Tensor:
    buffer = io.BytesIO()
    torch.save(dict(record), buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def weights_in(record: Mapping[str, Any], vision: VisionBackbone) -> dict[str, Tensor]:
    """Return 'stage.name' -> weight or buffer of a record; those it only names come from where `vision` is configured to get them.

    Raises:
        WeightsUnavailableError: those cannot be had.
        WeightsError: they are others, or the packed ones are damaged.
    """
    if record["weights"] is None:
        return referred_weights(vision, record)
    weights = {name: _unpack(packed) for name, packed in record["weights"].items()}
    if digest(weights) != record["sha256"]:
        raise WeightsError(f"the frozen weights of {record['backbone']} in the checkpoint are damaged; use another one")
    return weights


def referred_weights(vision: VisionBackbone, record: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights that a record names, from where `vision` is configured to get them. Raises as `weights_in`."""
    backbone, sha256 = record["backbone"], record["sha256"]
    stages = record.get("stages", vision.frozen_stages)  # which 0.1.0 did not write
    try:
        original = vision.as_configured()
    except WeightsError as error:
        raise type(error)(f"the checkpoint only refers to the frozen weights of {backbone}, sha256 {sha256}: {error}") from error
    weights = {name: value for name, value in original.items() if name.partition(".")[0] in stages}
    if digest(weights) != sha256:
        raise WeightsError(
            f"the checkpoint refers to frozen weights of {backbone} with sha256 {sha256}, and those at hand have {digest(weights)}; "
            "set core_kwargs.weights to the file that was trained with, or algo.checkpoint.frozen_weights to 'include' in training"
        )
    return weights


def frozen_records(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return sha256 -> record of all frozen weights in the state of a policy's networks."""
    extra = {id(value): value for name, value in upgraded(state).items() if name.endswith(EXTRA_STATE) and value.dtype == torch.uint8}
    records = [read_record(value) for value in extra.values()]
    return {record["sha256"]: record for record in records if record}


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state as this version writes it, where 0.1.0 kept {"users": {network: sha256}, "records": {sha256: record}} beside it."""
    state = dict(state)
    old = state.pop(_OF_0_1_0, {"users": {}, "records": {}})
    records = {sha256: _as_bytes({**record, "sha256": sha256}) for sha256, record in old["records"].items()}
    return {**state, **{f"{name}.{EXTRA_STATE}": records[sha256] for name, sha256 in old["users"].items()}}


def _pack(value: Tensor) -> dict[str, Any]:
    """Deflate a tensor without loss. The first bytes of all numbers come first, then the second ones: exponents repeat themselves."""
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
