"""Policies that `robomimic-frozen push` has shared on the Hugging Face hub, and their checkpoints on this machine."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import filelock
import torch

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies.portable import FILES, DamagedPolicyError, read_portable
from robomimic_frozen.utils.files import atomic_write
from robomimic_frozen.utils.hub import REPOSITORY, hub_errors_named, repository_in
from robomimic_frozen.utils.urls import LOCAL

logger = logging.getLogger(__name__)

def fetch_policy(place: str, folder: Path = LOCAL) -> Path:
    """Return the checkpoint, as robomimic loads it, that is made here of the policy `hf://OWNER/NAME[@REVISION]` of the hub.

    huggingface_hub's own settings count (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN, ...).

    Raises:
        ConfigError: that is written otherwise, or the repository holds no policy of this package.
        RemoteFileError: it is not there or private, or cannot be fetched.
    """
    (name, _), snapshot = repository_in(place), _snapshot(place)
    if missing := [file for file in FILES if not (snapshot / file).is_file()]:
        raise ConfigError(f"{place} holds no policy of this package, for it lacks {missing[0]}; give one that robomimic-frozen push made")
    logger.info("%s is at commit %s", place, snapshot.name)
    path = folder.expanduser() / "policies" / f"{name.replace('/', '--')}-{snapshot.name[:12]}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            checkpoint = _read(snapshot)
            with atomic_write(path) as beside:
                torch.save(checkpoint, beside)
    return path


def pinned(place: str) -> str:
    """Return `hf://OWNER/NAME@COMMIT` of the policy that is newest now, or of the revision that is named. Raises as `fetch_policy`."""
    return f"{REPOSITORY}{repository_in(place)[0]}@{_snapshot(place).name}"


def _snapshot(place: str) -> Path:
    from huggingface_hub import snapshot_download

    name, revision = repository_in(place)
    with hub_errors_named(f"{place} could not be fetched", "check the name and the network, and run again"):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))


def _read(snapshot: Path) -> dict[str, Any]:
    try:
        return read_portable(*(snapshot / file for file in FILES))
    except DamagedPolicyError:
        for file in FILES:  # they would be taken for the right ones as long as they are there
            (snapshot / file).resolve().unlink(missing_ok=True)
            (snapshot / file).unlink(missing_ok=True)
        raise
