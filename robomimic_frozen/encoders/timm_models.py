"""The image networks of timm, as `rgb_model_name: "timm:NAME"` (Wightman, https://github.com/huggingface/pytorch-image-models).

A convolutional network has the stages timm lists for it, under timm's names (with '_' for '.'). Any other is one stage, 'final': its
last activation, laid out as a map. A vision transformer that has a class token gives that as a second one, 'class_token'.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone, BackboneFamily
from robomimic_frozen.encoders.weights import read_weights
from robomimic_frozen.errors import ConfigError, WeightsError, WeightsUnavailableError, first_line
from robomimic_frozen.plugins import hookimpl

TOKEN_STAGES: Final = ("final", "class_token")
"""The stages of a vision transformer that has a class token: the map of its patches, and that token."""

_TRANSFORMERS: Final = ("Eva", "VisionTransformer")  # classes of timm whose last tokens are those of `TOKEN_STAGES`
_WEIGHTS_FILE = "model.safetensors"
# Classes of timm whose stages, one after the other, give the activations that the whole network gives.
_CHAINS = (
    "ByobNet", "ConvNeXt", "CspNet", "DenseNet", "DLA", "DPN", "EfficientNet", "FasterNet", "FastVit", "GhostNet", "MobileNetV3",
    "NormFreeNet", "RegNet", "RepVit", "ResNet", "ResNetV2", "RexNet", "VGG",
)  # fmt: skip


@hookimpl
def frozen_backbones() -> list[BackboneFamily]:
    return [BackboneFamily("timm", _get)]


@functools.lru_cache
def _get(name: str) -> Backbone:
    timm = _import_timm(f"timm:{name}")
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3) or ["resnet18"]
        raise ConfigError(f"timm has no model {name!r}; did you mean {' or '.join(f'timm:{other}' for other in close)}?")
    with torch.random.fork_rng(devices=[]):  # a policy must not depend on whether its backbone was looked up before
        network = build(name)
    settings = network.pretrained_cfg
    classifiers = settings.get("classifier") or ()
    stages: tuple[str, ...] = ("final",)
    if type(network).__name__ in _CHAINS:
        stages = tuple(name.replace(".", "_") for name in _stage_modules(network))
    elif _has_class_token(network):
        stages = TOKEN_STAGES
    return Backbone(
        f"timm:{name}",
        functools.partial(build, name),
        functools.partial(fetch_weights, name, settings.get("hf_hub_id")),
        stages=stages,
        split=split,
        feature_stage="final" if stages == TOKEN_STAGES else None,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        licence=settings.get("license"),
        patch_size=network.patch_embed.patch_size[0] if settings["fixed_input_size"] else 1,
        read_weights=read_transformer if type(network).__name__ == "VisionTransformer" else None,
        unused_weights=tuple(f"{prefix}." for prefix in ([classifiers] if isinstance(classifiers, str) else classifiers)),
    )


def _import_timm(backbone: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"backbone {backbone!r} needs a package: pip install 'robomimic_frozen[timm]'") from error
    return timm


def build(name: str) -> Any:
    """Make a network of timm for images of any size, without its classifier. Raises ConfigError if timm cannot, or is not there."""
    timm = _import_timm(f"timm:{name}")
    settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
    # Transformers are made for one image size unless told otherwise.
    any_size: dict[str, Any] = {"dynamic_img_size": True, "dynamic_img_pad": True} if settings and settings.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **any_size)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"timm cannot build {name!r} for images of any size ({first_line(error)}); choose another") from error


def _has_class_token(network: Any) -> bool:
    # Hybrid ones make patches of the map of a convolutional network, and say nothing of how large those are in pixels.
    of_pixels = type(network).__name__ in _TRANSFORMERS and type(network.patch_embed).__name__ == "PatchEmbed"
    return of_pixels and network.cls_token is not None and network.pretrained_cfg["fixed_input_size"]


def _stage_modules(network: Any) -> list[str]:
    """Return the names of the modules that timm says end a stage."""
    info = network.feature_info
    return [feature["module"] for feature in (info if isinstance(info, list) else info.info)]


def split(network: Any) -> list[nn.Module]:
    """Return the network in pieces, one for each of its stages."""
    from timm.models import FeatureListNet

    if _has_class_token(network):
        return [_Tokens(network), _ClassToken()]
    if type(network).__name__ not in _CHAINS:
        return [_LastActivation(network)]
    names = _stage_modules(network)
    chain = FeatureListNet(network, tuple(range(len(names))), flatten_sequential=any("." in name for name in names))
    stages: list[list[nn.Module]] = [[]]
    for name, module in chain.items():
        stages[-1].append(module)
        if name in chain.return_layers:
            stages.append([])
    return [nn.Sequential(*stage) for stage in stages if stage]


class _LastActivation(nn.Module):
    """Images [B, 3, H, W] -> the last activation of a network of timm [B, C, h, w]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]


class _Tokens(_LastActivation):
    """Images [B, 3, H, W] -> the last tokens of a vision transformer [B, n + h * w, C]: class token, registers, patches."""

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_features(images)


class _ClassToken(nn.Module):
    """Tokens [B, n, C] -> the first one [B, C]."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def read_transformer(path: Path, network: Any) -> dict[str, Any]:
    """Read a file of weights of a vision transformer in any of the layouts that timm knows. Raises WeightsError."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    content = read_weights(path)
    flat = content.get("model", content)
    flat = flat.get("state_dict", flat) if isinstance(flat, Mapping) else {}
    patches, positions = network.patch_embed.proj.weight.shape, network.pos_embed.shape[1]
    for name, value in flat.items():  # of what timm would make fit
        wrong_patches = name.endswith("patch_embed.proj.weight") and value.shape != patches
        # The class token may have a position in the file alone.
        if wrong_patches or (name.endswith("pos_embed") and "decoder" not in name and value.shape[1] not in (positions, positions + 1)):
            what = f"weights file {path} has {name} of {list(value.shape)}, and the network {positions} patches of {list(patches)}"
            raise WeightsError(f"{what}; set rgb_model_name to the file's architecture or weights to another file")
    try:
        return checkpoint_filter_fn(content, network)
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:  # of what is laid out in no way that it knows
        raise WeightsError(f"weights file {path} is of no vision transformer that timm knows ({first_line(error)})") from error


def fetch_weights(name: str, repository: str | None) -> Path:
    """Return the file of a network's weights in the cache of huggingface_hub, downloaded when absent. Raises WeightsUnavailableError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import HfHubHTTPError

    hint = "set core_kwargs.weights to a file, or core_kwargs.pretrained_encoder to false"
    if repository is None:
        raise WeightsUnavailableError(f"timm publishes no weights for {name!r}; {hint}")
    try:
        return Path(hf_hub_download(repository, _WEIGHTS_FILE))
    except (OSError, ValueError, RuntimeError, HfHubHTTPError) as error:  # RuntimeError: a client that cannot connect
        raise WeightsUnavailableError(
            f"no pretrained weights for timm:{name}: {_WEIGHTS_FILE} of huggingface.co/{repository} is not in the cache of "
            f"huggingface_hub and could not be downloaded ({first_line(error)}); {hint}"
        ) from error
