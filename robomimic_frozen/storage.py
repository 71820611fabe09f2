"""Files at URLs (s3://, gs://, file://, ...), brought to this machine and from it by fsspec."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import filelock
import fsspec
from fsspec.registry import known_implementations

from robomimic_frozen.errors import ConfigError, RemoteFileError, RobomimicFrozenError, first_line
from robomimic_frozen.files import complete_or_absent

LOCAL = Path("~/.cache/robomimic_frozen")
"""Where features are cached and copies of remote files lie, unless the user says otherwise."""
PROBE: Final = ".robomimic_frozen"
"""Name, or end of the name, of an empty file by which is tried whether a place can be written to."""


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
    """A copy of the file at a URL, fetched where this version of it is not in `folder` yet.

    Raises:
        ConfigError: there is no driver for the URL.
        RemoteFileError: the file is not there, or cannot be fetched.
    """
    files, path = filesystem(url)
    try:
        size, version = files.size(path), files.checksum(path)
        name = f"{_digest(f'{url} {version}')}-{Path(path).name}"
        copy = folder.expanduser() / "fetched" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(copy.with_name(f".{name}.lock")):
            if not copy.exists():
                with complete_or_absent(copy) as beside:
                    files.get_file(path, str(beside))
                    if beside.stat().st_size != size:
                        raise OSError(f"{beside.stat().st_size} of {size} bytes came")
    except FileNotFoundError as error:
        raise RemoteFileError(f"{url} does not exist; correct the URL") from error
    except Exception as error:  # each driver raises its own
        raise RemoteFileError(f"{url} cannot be fetched ({first_line(error)}); check the network and your permissions") from error
    return copy


def local_path(place: str, folder: Path = LOCAL) -> Path:
    """The file that a path or a URL names, on this machine. Raises as `staged`."""
    return staged(place, folder) if is_url(place) else Path(place)


def exists(place: str) -> bool:
    """Whether there is a file at a path or URL. Raises ConfigError, RemoteFileError."""
    if not is_url(place):
        return Path(place).exists()
    files, path = filesystem(place)
    with driver_errors_named(f"{place} cannot be read", "check the network and your permissions"):
        return files.exists(path)


@contextlib.contextmanager
def made_for(place: str, folder: Path = LOCAL) -> Iterator[Path]:
    """A file to make, which goes to `place` afterwards if that is a URL.

    Raises:
        ConfigError, RemoteFileError: the URL cannot be written to, which is tried beforehand, too.
    """
    if not is_url(place):
        yield Path(place)
        return
    files, path = filesystem(place)
    # An object store shows a file when it is complete, and a folder shows it before.
    beside = f"{path}.part" if "file" in files.protocol else path
    made = folder.expanduser() / "made" / _digest(place) / Path(path).name
    with driver_errors_named(f"{place} cannot be written", "check the URL, the network and your permissions"):
        files.pipe_file(f"{path}{PROBE}", b"")
        files.rm_file(f"{path}{PROBE}")
    yield made
    with driver_errors_named(f"{place} cannot be written", f"what was made lies in {made}: copy it there"):
        files.put_file(str(made), beside)
        if beside != path:
            files.mv(beside, path)
    made.unlink()


@contextlib.contextmanager
def driver_errors_named(what: str, remedy: str, kind: type[RobomimicFrozenError] = RemoteFileError) -> Iterator[None]:
    """Within it, what a driver of fsspec raises becomes one line of this `kind`. Each driver raises its own."""
    try:
        yield
    except Exception as error:
        raise kind(f"{what} ({first_line(error)}); {remedy}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
