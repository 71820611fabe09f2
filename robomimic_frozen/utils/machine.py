"""What this machine is, and which versions and which code are installed on it."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

OURS: Final = "robomimic_frozen"
PACKAGES: Final = (OURS, "robomimic", "robosuite", "mujoco", "torch", "torchvision", "numpy", "h5py")  # on which a result may depend


def installed_version(package: str) -> str | None:
    """Return the version of a package as its metadata tells it; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.lru_cache(maxsize=1)
def code_version() -> str:
    """Return the git revision of this package, with `-dirty` where files differ from it; its version where it was installed as a wheel."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return installed_version(OURS) or "unknown"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a CUDA device."""
    import torch

    return torch.cuda.mem_get_info(device)[0]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 arithmetic is faster than float32 there; torch has no public name for the CPU's answer."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, flag, bool)() for flag in flags)
