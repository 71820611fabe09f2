"""The image networks of timm, as `rgb_model_name: "timm:NAME"` (Wightman, https://github.com/huggingface/pytorch-image-models).

A convolutional network has the stages timm lists for it, under timm's names (with '_' for '.'). Any other, a vision transformer say,
is one stage, 'final': its last activation, laid out as a map.
"""

from __future__ import annotations

import difflib
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robomimic_frozen.encoders.backbones import Backbone, BackboneFamily
from robomimic_frozen.errors import ConfigError, WeightsUnavailableError, first_line
from robomimic_frozen.plugins import hookimpl

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
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"backbone 'timm:{name}' needs a package: pip install 'robomimic_frozen[timm]'") from error
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3) or ["resnet18"]
        raise ConfigError(f"timm has no model {name!r}; did you mean {' or '.join(f'timm:{other}' for other in close)}?")
    with torch.random.fork_rng(devices=[]):  # a policy must not depend on whether its backbone was looked up before
        network = _build(name)
    settings = network.pretrained_cfg
    stages = tuple(name.replace(".", "_") for name in _stage_modules(network)) if type(network).__name__ in _CHAINS else ("final",)
    classifiers = settings.get("classifier") or ()
    return Backbone(
        f"timm:{name}",
        functools.partial(_build, name),
        functools.partial(_fetch_weights, name, settings.get("hf_hub_id")),
        stages=stages,
        split=_split,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        patch_size=network.patch_embed.patch_size[0] if settings["fixed_input_size"] else 1,
        unused_weights=tuple(f"{prefix}." for prefix in ([classifiers] if isinstance(classifiers, str) else classifiers)),
    )


def _build(name: str) -> Any:
    import timm

    settings = timm.get_pretrained_cfg(name, allow_unregistered=False)
    # Transformers are made for one image size unless told otherwise.
    any_size: dict[str, Any] = {"dynamic_img_size": True, "dynamic_img_pad": True} if settings and settings.fixed_input_size else {}
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **any_size)
    except (TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"timm cannot build {name!r} for images of any size ({first_line(error)}); choose another") from error


def _stage_modules(network: Any) -> list[str]:
    """Return the names of the modules that timm says end a stage."""
    info = network.feature_info
    return [feature["module"] for feature in (info if isinstance(info, list) else info.info)]


def _split(network: nn.Module) -> list[nn.Module]:
    from timm.models import FeatureListNet

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


def _fetch_weights(name: str, repository: str | None) -> Path:
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
