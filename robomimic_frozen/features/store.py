"""The cache folder: complete caches, under names that their content decides.

    <root>/<key>/features.bin     float16 or float32 [frames, 1 + crops, F], demo after demo
    <root>/<key>/metadata.json    shape, checksums, and what it is for; written last, touched at each use
    <root>/<key>.partial/         one that is being built, or was when its process died
    <root>/<key>.lock             held by the process that builds it
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from tqdm import tqdm

from robomimic_frozen.errors import CacheUnavailableError, DatasetError
from robomimic_frozen.features.extraction import FeatureExtraction
from robomimic_frozen.features.source import ImageSource, image_digest
from robomimic_frozen.features.spec import Extractor, cache_key
from robomimic_frozen.files import to_disk, write_json

logger = logging.getLogger(__name__)

FEATURES, METADATA, PROGRESS = "features.bin", "metadata.json", "progress.json"
PARTIAL = ".partial"
DAMAGED = (OSError, ValueError, KeyError, TypeError)
"""What `open_cache` raises for a cache that is not whole."""


@dataclass(frozen=True)
class CachedFeatures:
    """A complete cache, memory-mapped.

    Attributes:
        features: [frames of all demos, 1 + cached_crops, F], the central crop first.
        metadata: what the cache is for: 'description' (see `Extractor.description`), 'dataset', 'obs_key', 'weights',
            'seconds' it took, and of each of its 'demos' the 'name', number of 'frames', sha256 of the 'images', and
            'crc32' of the features.
        folder: where it lies.
    """

    features: np.ndarray
    metadata: dict[str, Any]
    folder: Path

    def of(self, name: str) -> np.ndarray:
        """The features of one demo."""
        first = 0
        for demo in self.metadata["demos"]:
            if demo["name"] == name:
                return self.features[first : first + demo["frames"]]
            first += demo["frames"]
        raise KeyError(name)


class FeatureStore:
    """The caches in one folder.

    Args:
        root: `algo.feature_cache.dir`; None for `~/.cache/robomimic_frozen`.
    """

    def __init__(self, root: str | Path | None = None) -> None:
        self.root = Path(root or "~/.cache/robomimic_frozen").expanduser()

    def get(self, source: ImageSource, extractor: Extractor, device: torch.device) -> CachedFeatures:
        """The features of `source`, extracted first where they are not in the store.

        When another process is extracting the same ones, waits for it.

        Raises:
            DatasetError: the dataset is unreadable or changes meanwhile.
            WeightsError: the features are not finite numbers.
            CacheUnavailableError: the folder cannot be written to, or the disk is full.
        """
        digests = source.digests()
        description = extractor.description()
        key = cache_key(description, source.key, dict(zip(source.demos, digests, strict=True)))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            found = self._open(key)
            if found is not None:
                return found
            with self._lock(key):
                found = self._open(key)  # another process may have built it while this one waited
                if found is None:
                    shutil.rmtree(self.root / key, ignore_errors=True)
                    self._build(key, source, digests, extractor, description, device)
                    found = open_cache(self.root / key)
                return found
        except OSError as error:
            raise CacheUnavailableError(
                f"the feature cache in {self.root} cannot be written ({error}); set algo.feature_cache.dir to another folder"
            ) from error

    def _lock(self, key: str) -> filelock.BaseFileLock:
        lock = filelock.FileLock(self.root / f"{key}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.info("waiting for another process that extracts the same features (%s)", lock.lock_file)
            lock.acquire()
        return lock

    def _open(self, key: str) -> CachedFeatures | None:
        """The complete cache of this name, or None; a damaged one counts for nothing and is named in a warning."""
        folder = self.root / key
        if not folder.exists():
            return None
        try:
            cache = open_cache(folder)
        except DAMAGED as error:
            logger.warning("feature cache %s is damaged (%s) and will be extracted again", folder, error)
            return None
        with contextlib.suppress(PermissionError):  # a cache may be shared read-only
            os.utime(folder / METADATA)
        return cache

    def _build(
        self,
        key: str,
        source: ImageSource,
        digests: list[str],
        extractor: Extractor,
        description: dict[str, Any],
        device: torch.device,
    ) -> None:
        partial = self.root / f"{key}{PARTIAL}"
        partial.mkdir(exist_ok=True)
        progress = _Progress(partial / PROGRESS)
        extraction = FeatureExtraction(extractor, device)
        start = time.monotonic()
        with (partial / FEATURES).open("ab") as file, _ProgressBar(source, len(source.demos), progress.done) as bar:
            file.truncate(sum(entry["frames"] for entry in progress.demos) * extractor.feature_bytes)
            for demo, expected, images in _remaining(source, digests, progress.done):
                if image_digest(images) != expected:
                    raise DatasetError(f"{source.path} changed while its features were extracted; run again when it is complete")
                features = extraction(source.frames_of(demo), images).tobytes()
                file.write(features)
                to_disk(file)
                progress.add(demo, len(images), expected, zlib.crc32(features))
                bar.update()
                bar.set_postfix_str(f"{bar.images_per_second(len(images) * (1 + extractor.cached_crops)):.0f} images/s")
        metadata = {
            "description": description,
            "dataset": str(source.path),
            "weights": extractor.vision.origin,
            "obs_key": source.key,
            "demos": progress.demos,
            "seconds": round(time.monotonic() - start, 1),
        }
        write_json(partial / METADATA, metadata, indent=None)
        (partial / PROGRESS).unlink()
        partial.rename(self.root / key)


def open_cache(folder: Path, checksums: bool = True) -> CachedFeatures:
    """The complete cache in `folder`; without `checksums` the features themselves are not read.

    Raises:
        One of `DAMAGED`: it is incomplete, or its content is not what its name and its checksums say.
    """
    metadata = json.loads((folder / METADATA).read_text())
    description, demos = metadata["description"], metadata["demos"]
    if folder.name != cache_key(description, metadata["obs_key"], {demo["name"]: demo["images"] for demo in demos}):
        raise ValueError(f"{METADATA} belongs to another cache")
    frames = sum(demo["frames"] for demo in demos)
    shape = (frames, 1 + description["cached_crops"], description["feature_dim"])
    expected = int(np.prod(shape)) * np.dtype(description["dtype"]).itemsize
    if (folder / FEATURES).stat().st_size != expected:
        raise ValueError(f"{FEATURES} has another size than {expected} bytes")
    cache = CachedFeatures(np.memmap(folder / FEATURES, description["dtype"], mode="r", shape=shape), metadata, folder)
    for demo in demos if checksums else ():
        if zlib.crc32(cache.of(demo["name"]).data) != demo["crc32"]:
            raise ValueError(f"the checksum of {demo['name']} differs")
    return cache


def _remaining(source: ImageSource, digests: list[str], done: int) -> Iterator[tuple[str, str, np.ndarray]]:
    return zip(source.demos[done:], digests[done:], source.images(first=done), strict=True)


class _Progress:
    """The demos whose features are on disk: what a later process goes on from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.demos: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []

    @property
    def done(self) -> int:
        return len(self.demos)

    def add(self, name: str, frames: int, images: str, checksum: int) -> None:
        self.demos.append({"name": name, "frames": frames, "images": images, "crc32": checksum})
        write_json(self.path, self.demos, indent=None)


class _ProgressBar(tqdm):
    """Demos done, time left, and images a second."""

    def __init__(self, source: ImageSource, total: int, done: int) -> None:
        super().__init__(desc=f"features of {source.key}", total=total, initial=done, unit="demo")
        self._images = 0

    def images_per_second(self, more: int) -> float:
        self._images += more
        return self._images / max(self.format_dict["elapsed"], 1e-9)
