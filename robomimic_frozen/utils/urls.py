"""Files at URLs (s3://, gs://, file://, ...), brought to this machine and from it by fsspec."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import filelock
import fsspec
from fsspec.implementations.cache_mapper import AbstractCacheMapper
from fsspec.registry import known_implementations

from robomimic_frozen.errors import ConfigError, RemoteFileError, RobomimicFrozenError, first_line
from robomimic_frozen.utils.files import fingerprint

LOCAL: Final = Path("~/.cache/robomimic_frozen")
"""Where features are cached and copies of remote files lie, unless the user says otherwise."""
PROBE: Final = ".robomimic_frozen"
"""Name, or end of the name, of an empty file by which is tried whether a place can be written to."""


class _NamedCopies(AbstractCacheMapper):
    """Names copies after their originals, so that a person who looks knows what they are."""

    def __call__(self, path: str) -> str:
        return f"{fingerprint(path)[:16]}-{Path(path).name}"


def is_url(path: str | Path) -> bool:
    """Return whether it names a file or folder by URL; of a Path, which has lost one of two slashes, never."""
    return isinstance(path, str) and "://" in path


def filesystem(url: str) -> tuple[Any, str]:
    """Return fsspec's filesystem of a URL, and the path in it. Raises ConfigError if there is no driver, or it cannot be set up."""
    protocol = url.partition("://")[0]
    try:
        # Object stores have no folders; to make one could make a bucket.
        return fsspec.core.url_to_fs(url, **({"auto_mkdir": True} if protocol in ("file", "local") else {}))
    except ImportError as error:
        needed = known_implementations.get(protocol, {}).get("err", f"install fsspec's driver of {protocol}://")
        raise ConfigError(f"{url} cannot be used: {needed}") from error
    except Exception as error:  # each driver raises its own
        raise ConfigError(f"{url} cannot be used ({first_line(error)}); correct the URL") from error


def local_path(place: str | Path, folder: Path = LOCAL) -> Path:
    """Return where the file that a path or a URL names lies on this machine; one at a URL is fetched where its copy is not of this version.

    Raises:
        ConfigError: there is no driver for the URL.
        RemoteFileError: the file is not there, or cannot be fetched.
    """
    if not is_url(place):
        return Path(place).expanduser()
    (files, path), copies = filesystem(str(place)), folder.expanduser() / "fetched"
    cached = fsspec.filesystem(
        "filecache", fs=files, cache_storage=str(copies), check_files=True, expiry_time=False, cache_mapper=_NamedCopies(),
        skip_instance_cache=True,
    )  # fmt: skip
    copies.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(copies / f".{_NamedCopies()(path)}.lock"), cached.open(path) as copy:
            found, size, expected = Path(copy.name), Path(copy.name).stat().st_size, files.size(path)
            if size != expected:
                cached.pop_from_cache(path)
                raise OSError(f"{size} of {expected} bytes came")
            return found
    except FileNotFoundError as error:
        raise RemoteFileError(f"{place} does not exist; correct the URL") from error
    except Exception as error:  # each driver raises its own
        raise RemoteFileError(f"{place} cannot be fetched ({first_line(error)}); check the network and your permissions") from error


def exists(place: str) -> bool:
    """Return whether there is a file at a path or URL. Raises ConfigError, RemoteFileError."""
    if not is_url(place):
        return Path(place).exists()
    files, path = filesystem(place)
    with driver_errors_named(f"{place} cannot be read", "check the network and your permissions"):
        return files.exists(path)


@contextlib.contextmanager
def upload_to(place: str, folder: Path = LOCAL) -> Iterator[Path]:
    """Give a file to make, which goes to `place` afterwards if that is a URL.

    Raises:
        ConfigError, RemoteFileError: the URL cannot be written to, which is tried beforehand, too.
    """
    if not is_url(place):
        yield Path(place)
        return
    files, path = filesystem(place)
    # An object store shows a file when it is complete, and a folder shows it before.
    beside = f"{path}.part" if "file" in files.protocol else path
    made = folder.expanduser() / "made" / fingerprint(place)[:16] / Path(path).name
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
    """Turn what a driver of fsspec raises in the block into one line of this `kind`. Each driver raises its own."""
    try:
        yield
    except Exception as error:
        raise kind(f"{what} ({first_line(error)}); {remedy}") from error
