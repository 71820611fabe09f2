"""Caches in an object store, or in any other place that fsspec reaches: complete, or not there for anyone.

    <url>/<key>/<digest>.bin     features.bin of a local cache
    <url>/<key>/metadata.json    its metadata.json, written last and in one step; the digest is its own
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from robomimic_frozen.errors import CacheUnavailableError
from robomimic_frozen.utils.urls import PROBE, driver_errors_named, filesystem

FEATURES, METADATA = "features.bin", "metadata.json"


class RemoteCaches:
    """The caches in the folder at a URL. Drivers try again on their own where a server fails or a connection breaks.

    All methods raise CacheUnavailableError where the store does not answer, or does not let us read or write.

    Raises:
        ConfigError: there is no driver for the URL.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._files, self._path = filesystem(url.rstrip("/"))

    def has(self, key: str) -> bool:
        """Return whether the cache of this name is there."""
        with self._errors_named("read"):
            self._files.invalidate_cache()
            return self._files.exists(f"{self._path}/{key}/{METADATA}")

    def fetch(self, key: str, folder: Path) -> bool:
        """Copy the cache of this name into `folder`, and return whether there is one. What comes is not checked here."""
        if not self.has(key):
            return False
        remote, beside = f"{self._path}/{key}", folder / f"{key}.fetched"
        try:
            with self._errors_named("read"):
                shutil.rmtree(beside, ignore_errors=True)
                beside.mkdir(parents=True)
                self._files.get_file(f"{remote}/{METADATA}", str(beside / METADATA))
                self._files.get_file(f"{remote}/{_content_name(beside)}", str(beside / FEATURES))
                shutil.rmtree(folder / key, ignore_errors=True)  # it is damaged, if it is there
                beside.rename(folder / key)
                return True
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def metadata(self) -> dict[str, dict[str, Any]]:
        """Return the key of each complete cache -> its metadata."""
        with self._errors_named("read"):
            self._files.invalidate_cache()
            paths = self._files.glob(f"{self._path}/*/{METADATA}")
            contents = self._files.cat(paths) if paths else {}
        return {path.split("/")[-2]: json.loads(content) for path, content in contents.items()}

    def size_and_time(self, key: str) -> tuple[int, float]:
        """Return the bytes of a cache, and when it was written, in seconds since the epoch."""
        with self._errors_named("read"):
            return self._files.du(f"{self._path}/{key}"), self._files.modified(f"{self._path}/{key}/{METADATA}").timestamp()

    def check_writable(self) -> None:
        """Write an empty file, for the error to come before hours of work, not after."""
        with self._errors_named("written"):
            self._files.pipe_file(f"{self._path}/{PROBE}", b"")

    def publish(self, cache: Path) -> None:
        """Copy a complete cache there."""
        remote = f"{self._path}/{cache.name}"
        with self._errors_named("written"):
            self._files.put_file(str(cache / FEATURES), f"{remote}/{_content_name(cache)}")
            self._files.pipe_file(f"{remote}/{METADATA}", (cache / METADATA).read_bytes())

    def _errors_named(self, done: str) -> contextlib.AbstractContextManager[None]:
        what, remedy = f"the feature cache at {self.url} cannot be {done}", "check the URL, the network and your permissions"
        return driver_errors_named(what, remedy, CacheUnavailableError)


def _content_name(cache: Path) -> str:
    # Not one name for all: of two that publish at once, on machines whose last bits differ, neither gets the other's features.
    return f"{hashlib.sha256((cache / METADATA).read_bytes()).hexdigest()[:16]}.bin"
