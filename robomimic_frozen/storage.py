"""Files at URLs (s3://, gs://, file://, ...), brought to a folder of this machine by fsspec."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import filelock
import fsspec
from fsspec.registry import known_implementations

from robomimic_frozen.errors import ConfigError, DatasetError, first_line
from robomimic_frozen.files import complete_or_absent

LOCAL = Path("~/.cache/robomimic_frozen")
"""Where features are cached and copies of remote files lie, unless the user says otherwise."""


def is_url(path: str | Path) -> bool:
    """Whether it names a file or folder by URL; of a Path, which has lost one of two slashes, never."""
    return isinstance(path, str) and "://" in path


def filesystem(url: str) -> tuple[Any, str]:
    """fsspec's filesystem of a URL, and the path in it. Raises ConfigError if there is no driver, or it cannot be set up."""
    protocol = url.partition("://")[0]
    try:
        # Object stores have no folders; to make one could make a bucket.
        return fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if protocol in ("file", "local") else {}))
    except ImportError as error:
        needed = known_implementations.get(protocol, {}).get("err", f"install fsspec's driver of {protocol}://")
        raise ConfigError(f"{url} cannot be used: {needed}") from error
    except Exception as error:  # each driver raises its own
        raise ConfigError(f"{url} cannot be used ({first_line(error)}); correct the URL") from error


def staged(url: str, folder: Path = LOCAL) -> Path:
    """A copy of a dataset, fetched where this version of it is not in `folder` yet.

    Raises:
        ConfigError: there is no driver for the URL.
        DatasetError: the file is not there, or cannot be fetched.
    """
    files, path = filesystem(url)
    try:
        size, version = files.size(path), files.checksum(path)
        name = f"{hashlib.sha256(f'{url} {version}'.encode()).hexdigest()[:16]}-{Path(path).name}"
        copy = folder.expanduser() / "datasets" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(copy.with_name(f".{name}.lock")):
            if not copy.exists():
                with complete_or_absent(copy) as beside:
                    files.get_file(path, str(beside))
                    if beside.stat().st_size != size:
                        raise OSError(f"{beside.stat().st_size} of {size} bytes came")
    except FileNotFoundError as error:
        raise DatasetError(f"dataset {url} does not exist; correct the URL") from error
    except Exception as error:  # each driver raises its own
        raise DatasetError(f"dataset {url} cannot be fetched ({first_line(error)}); check the network and your permissions") from error
    return copy
