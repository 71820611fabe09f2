"""What a result depends on besides its settings: code, packages, data, weights."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from robomimic.config.config import Config

from robomimic_frozen.code_digest import code_digest
from robomimic_frozen.encoders.backbones import get_backbone
from robomimic_frozen.encoders.core import FrozenResNetCore
from robomimic_frozen.encoders.vision import VisionBackbone

PACKAGES = ("robomimic", "robosuite", "mujoco", "torch", "torchvision", "numpy")


def environment() -> dict[str, Any]:
    """The code and the versions results are made with, and the machine."""
    return {
        "code_sha256": code_digest(),
        "git_revision": _git_revision(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }


def weights_digest(config: Config) -> str | None:
    """sha256 of the weights the image encoder starts from; None where its seed or another core decides. Raises WeightsError."""
    encoder = config.observation.encoder.rgb
    kwargs = encoder.core_kwargs
    pretrained = kwargs.get("pretrained_encoder", True)
    if encoder.core_class != FrozenResNetCore.__name__ or not (pretrained or kwargs.get("freeze_encoder", True) is True):
        return None
    return VisionBackbone(get_backbone(kwargs["rgb_model_name"]), kwargs.get("weights"), pretrained).frozen_sha256()


def fingerprint(*parts: Any) -> str:
    """A short name for what results depend on: another one where any of it differs."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # installed from a wheel


def processor() -> str:
    """Its name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
