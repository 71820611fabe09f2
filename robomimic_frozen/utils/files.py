"""Files that are there as a whole or not at all, and folders that one process writes to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

import filelock

from robomimic_frozen.errors import ConfigError, DatasetError

# Room left on a disk for what is small beside images: states, scenes, and the tables of HDF5 files.
_SPARE_BYTES: Final = 2**24


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write to, which takes its name, and the place of an older one, unless the block fails.

    Its suffix is the same, and its folder is made. For one writer at a time: the next one writes to what a killed one left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any, indent: int | None = 2) -> None:
    """Write `content` as JSON to a file that is complete, on the disk too, or absent."""
    with atomic_write(path) as beside, beside.open("w") as file:
        file.write(json.dumps(content, indent=indent) + "\n")
        to_disk(file)


def to_disk(file: IO) -> None:
    """Wait until the disk has all that was written."""
    file.flush()
    os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    result = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def fingerprint(*parts: Any) -> str:
    """Return the sha256 of values that JSON can hold: another one where any of them differs."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write atomically where nothing may be replaced and others may want to write the same file.

    Raises:
        DatasetError: `path` exists, its folder cannot be written to, or another process is writing it.
    """
    refuse_existing(path)
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = filelock.FileLock(lock).acquire(blocking=False)
    except filelock.Timeout as error:
        raise DatasetError(f"another process is writing {path}; wait for it, or choose another name") from error
    except OSError as error:
        raise DatasetError(f"cannot write to {path.parent} ({error.strerror}); choose another folder") from error
    with held:
        try:
            refuse_existing(path)  # another process may have finished it in the meantime
            with atomic_write(path) as partial:
                yield partial
        finally:
            lock.unlink(missing_ok=True)


def refuse_existing(path: Path) -> None:
    """Raise DatasetError if there is such a file."""
    if path.exists():
        raise already_there(path)


def already_there(place: str | Path) -> DatasetError:
    """Return what to raise of a file, or a URL, that is there and must not be replaced."""
    return DatasetError(f"{place} exists already; delete it or choose another name")


def require_space(folder: Path, needed: int) -> None:
    """Raise DatasetError unless the disk of `folder` has so many bytes left, and some more for what is small.

    Asked beforehand because HDF5 takes a failed write badly: it goes unnoticed, or the process crashes.
    """
    free, needed = shutil.disk_usage(folder).free, needed + _SPARE_BYTES
    if free < needed:
        raise DatasetError(f"{folder} has {free // 10**6} MB free, and {needed // 10**6} are needed; free some, or write elsewhere")


def require_writable(folder: Path) -> None:
    """Raise ConfigError unless files can be written to `folder`, or to where it would be made. Makes nothing."""
    if re.match(r"\w\w+:/", str(folder)):  # a Path has lost one of two slashes
        raise ConfigError(f"{folder} is a URL, and this is written to a folder; choose one (train.output_dir, or --out)")
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {folder}: {existing} is no writable folder; choose another one (train.output_dir, or --out)")


@contextlib.contextmanager
def exclusive_lock(folder: Path, what: str) -> Iterator[None]:
    """Keep other processes out of such a block of the same folder, which is made. Raises ConfigError if one is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = filelock.FileLock(folder / ".lock").acquire(blocking=False)
    except filelock.Timeout as error:
        raise ConfigError(f"another {what} is writing to {folder}; wait for it, or choose another --out") from error
    with held:
        yield
