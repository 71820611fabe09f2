"""Networks pretrained for robots, or on far more than ImageNet, with the image size, normalisation, stage and files of their projects.

A grid of the final stage is read unless a config says otherwise: at 224 pixels it has 7 x 7 positions or more.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch import nn

from robomimic_frozen.encoders import resnet, timm_models
from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.encoders.weights import fetch_from_hub, read_weights
from robomimic_frozen.errors import WeightsError, WeightsUnavailableError, first_line
from robomimic_frozen.plugins import hookimpl

_IMAGE_SIZE: Final = 224
_FILES: Final = "https://dl.fbaipublicfiles.com"
_APACHE: Final = "Apache 2.0"
_NOT_COMMERCIAL: Final = "CC BY-NC 4.0"


@hookimpl
def frozen_backbones() -> list[Backbone]:
    dinov2 = [
        _transformer(
            f"dinov2_{size}", f"vit_{size}_patch14_reg4_dinov2", 14,
            f"{_FILES}/dinov2/dinov2_vit{letter}14/dinov2_vit{letter}14_reg4_pretrain.pth", _APACHE,
        )
        for size, letter in (("small", "s"), ("base", "b"), ("large", "l"))
    ]  # fmt: skip
    vc1 = [
        _transformer(f"vc1_{size}", f"vit_{size}_patch16_224", 16, f"{_FILES}/eai-vc/vc1_vit{letter}.pth", _NOT_COMMERCIAL)
        for size, letter in (("base", "b"), ("large", "l"))
    ]
    r3m = [_resnet(f"r3m_resnet{depth}", f"resnet{depth}", "r3m", functools.partial(_r3m_file, depth), "MIT") for depth in (18, 34, 50)]
    return [*dinov2, *vc1, *r3m, _resnet("vip_resnet50", "resnet50", "vip", _vip_file, _NOT_COMMERCIAL), _siglip()]


def _transformer(name: str, model: str, patch_size: int, url: str, licence: str) -> Backbone:
    return Backbone(
        name,
        functools.partial(timm_models.build, model),
        functools.partial(fetch_from_hub, url, name),
        stages=timm_models.TOKEN_STAGES,
        split=timm_models.split,
        feature_stage="final",
        pool="grid",
        patch_size=patch_size,
        image_size=_IMAGE_SIZE,
        read_weights=timm_models.read_transformer,
        unused_weights=("head.", "decoder_"),
        licence=licence,
    )


def _siglip() -> Backbone:
    model = "vit_base_patch16_siglip_224"
    return Backbone(
        "siglip_base",
        functools.partial(timm_models.build, model),
        functools.partial(timm_models.fetch_weights, f"{model}.webli", f"timm/{model}.webli"),
        split=timm_models.split,
        pool="grid",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        patch_size=16,
        image_size=_IMAGE_SIZE,
        read_weights=_read_siglip,
        licence=_APACHE,
    )


def _read_siglip(path: Path, network: Any) -> dict[str, Any]:
    """Read a file of timm or open_clip, or one of big_vision, SigLIP's own project, whose arrays (.npz) timm writes into a network."""
    if path.suffix != ".npz":
        return timm_models.read_transformer(path, network)
    try:
        with np.load(path) as arrays:
            depth, *_ = arrays["params/img/Transformer/encoderblock/LayerNorm_0/scale"].shape
            patches, built = arrays["params/img/embedding/kernel"].shape[:2], network.patch_embed.patch_size
        if (depth, patches) != (len(network.blocks), built):
            raise ValueError(f"{depth} blocks, patches of {list(patches)}")
        network.load_pretrained(str(path))
    except FileNotFoundError as error:
        raise WeightsUnavailableError(f"weights file {path} does not exist; correct core_kwargs.weights") from error
    except (EOFError, KeyError, OSError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"weights file {path} is not of a siglip_base of big_vision ({first_line(error)}); give another file") from error
    return network.state_dict()


def _resnet(name: str, architecture: str, key: str, fetch: Callable[[], Path], licence: str) -> Backbone:
    return Backbone(
        name,
        functools.partial(resnet.build, architecture),
        fetch,
        stages=resnet.STAGES,
        split=resnet.split,
        pool="grid",
        image_size=_IMAGE_SIZE,
        read_weights=functools.partial(_read_convnet, key),
        unused_weights=("fc.",),
        licence=licence,
    )


def _read_convnet(key: str, path: Path, network: nn.Module) -> dict[str, Any]:
    """Read the image network out of a file of R3M or VIP, which have it beside others; or a file of that network alone."""
    content, prefix = read_weights(path), "module.convnet."
    content = content[key] if isinstance(content.get(key), Mapping) else content
    convnet = {name.removeprefix(prefix): value for name, value in content.items() if name.startswith(prefix)}
    return convnet or content


def _r3m_file(depth: int) -> Path:
    path = Path.home() / ".r3m" / f"r3m_{depth}" / "model.pt"  # where its own load_r3m keeps it
    if not path.exists():
        raise WeightsUnavailableError(
            f"no pretrained weights for r3m_resnet{depth}: {path} does not exist; "
            "fetch it as github.com/facebookresearch/r3m says, or set core_kwargs.weights to a file"
        )
    return path


def _vip_file() -> Path:
    path = Path.home() / ".vip" / "resnet50" / "model.pt"  # where its own load_vip keeps it
    url = "https://pytorch.s3.amazonaws.com/models/rl/vip/model.pt"
    return path if path.exists() else fetch_from_hub(url, "vip_resnet50", "vip_resnet50.pt")
