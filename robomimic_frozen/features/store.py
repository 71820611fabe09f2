"""The cache folder: complete caches, under names that their content decides.

    <root>/<key>/features.bin     float16 or float32 [frames, 1 + crops, F], demo after demo
    <root>/<key>/metadata.json    shape, checksums, and what it is for; written last, touched at each use
    <root>/<key>.partial/         one that is being built, or was when its process died
    <root>/<key>.lock             held by the process that builds it
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import torch
from tqdm import tqdm

from robomimic_frozen.errors import CacheUnavailableError
from robomimic_frozen.executors.executor import Executor, surviving_map
from robomimic_frozen.executors.processes import ThisProcess
from robomimic_frozen.features.extraction import make_demo_extraction
from robomimic_frozen.features.shared import FEATURES, METADATA, SharedCaches
from robomimic_frozen.features.source import ImageSource
from robomimic_frozen.features.spec import Extractor, cache_key
from robomimic_frozen.files import to_disk, write_json
from robomimic_frozen.storage import LOCAL, is_url

logger = logging.getLogger(__name__)

PROGRESS, PARTIAL = "progress.jsonl", ".partial"
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
    """The caches in one folder, and those at a URL, of which the folder has copies.

    Args:
        root: `algo.feature_cache.dir`: a folder, or a URL; None for `local`.
        local: the folder where `root` is none.
    """

    def __init__(self, root: str | Path | None = None, local: Path = LOCAL) -> None:
        self.shared = SharedCaches(str(root)) if root is not None and is_url(root) else None
        self.root = Path(local if root is None or self.shared is not None else root).expanduser()

    def get(
        self, source: ImageSource, extractor: Extractor, device: torch.device | None, executor: Executor | None = None
    ) -> CachedFeatures:
        """The features of `source`, extracted first where they are not in the store.

        When another process is extracting the same ones, waits for it.

        Args:
            device: of the extraction; None for the GPU of whoever extracts, if there is one.
            executor: of the extraction; its workers read the dataset. None for this process.

        Raises:
            DatasetError: the dataset is unreadable or changes meanwhile.
            WeightsError: the features are not finite numbers.
            CacheUnavailableError: the folder or the URL cannot be written to, or the disk is full.
        """
        digests = source.digests()
        description = extractor.description()
        key = cache_key(description, source.key, dict(zip(source.demos, digests, strict=True)))
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            found, built = self._open(key), False
            if found is None:
                with self._lock(key):
                    found = self._open(key) or self._fetched(key)  # another process may have built it while this one waited
                    if found is None:
                        if self.shared is not None:
                            self.shared.check_writable()
                        self._build(key, source, digests, extractor, description, device, executor or ThisProcess())
                        found, built = open_cache(self.root / key), True
            if self.shared is not None and (built or not self.shared.has(key)):
                self.shared.publish(found.folder)
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

    def _fetched(self, key: str) -> CachedFeatures | None:
        return self._open(key) if self.shared is not None and self.shared.fetch(key, self.root) else None

    def _build(
        self,
        key: str,
        source: ImageSource,
        digests: list[str],
        extractor: Extractor,
        description: dict[str, Any],
        device: torch.device | None,
        executor: Executor,
    ) -> None:
        partial = self.root / f"{key}{PARTIAL}"
        partial.mkdir(exist_ok=True)
        start = time.monotonic()
        with _Progress(partial) as progress, _ProgressBar(source.key, len(source.demos), len(progress.demos)) as bar:
            demos = list(zip(source.demos, source.lengths(), digests, strict=True))
            starts = itertools.accumulate((frames * extractor.feature_bytes for _, frames, _ in demos), initial=0)
            offsets = dict(zip(source.demos, starts, strict=False))
            missing = [demo for demo in demos if demo[0] not in progress.demos]
            build = functools.partial(make_demo_extraction, source, missing, extractor, device, executor.threads)
            with contextlib.closing(surviving_map(build, len(missing), executor)) as extracted:
                for number, features in extracted:
                    if isinstance(features, Exception):
                        raise features
                    name, frames, digest = missing[number]
                    progress.add(name, frames, digest, features, offsets[name])
                    bar.add(frames * (1 + extractor.cached_crops))
        metadata = {
            "description": description,
            "dataset": str(source.path),
            "weights": extractor.vision.origin,
            "obs_key": source.key,
            "demos": [progress.demos[demo] for demo in source.demos],
            "seconds": round(time.monotonic() - start, 1),
        }
        write_json(partial / METADATA, metadata, indent=None)
        (partial / PROGRESS).unlink()
        shutil.rmtree(self.root / key, ignore_errors=True)  # it is damaged, if it is there
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
    if checksums:
        _check_sums(folder / FEATURES, demos, expected // max(1, frames))
    return CachedFeatures(np.memmap(folder / FEATURES, description["dtype"], mode="r", shape=shape), metadata, folder)


def _check_sums(path: Path, demos: Sequence[dict[str, Any]], frame_bytes: int) -> None:
    # Read, not mapped: what is mapped would count as memory of this process.
    with path.open("rb") as file:
        for demo in demos:
            if zlib.crc32(file.read(demo["frames"] * frame_bytes)) != demo["crc32"]:
                raise ValueError(f"the checksum of {demo['name']} differs")


class _Progress:
    """What is on disk of a cache that is being built, from which a later process goes on.

    Attributes:
        demos: what the metadata say of each demo whose features are written.
    """

    def __init__(self, folder: Path) -> None:
        listing = folder / PROGRESS
        self.demos: dict[str, dict[str, Any]] = {}
        for line in listing.read_text().splitlines() if listing.exists() else ():
            with contextlib.suppress(ValueError):  # one may be incomplete
                self.demos |= {(demo := json.loads(line))["name"]: demo}
        (folder / FEATURES).touch()
        self._features, self._listing = (folder / FEATURES).open("rb+"), listing.open("a")

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._features.close()
        self._listing.close()

    def add(self, name: str, frames: int, images: str, features: bytes, offset: int) -> None:
        """Write the features of a demo to where they belong."""
        self._features.seek(offset)
        self._features.write(features)
        to_disk(self._features)
        self.demos[name] = {"name": name, "frames": frames, "images": images, "crc32": zlib.crc32(features)}
        self._listing.write(f"\n{json.dumps(self.demos[name])}")
        to_disk(self._listing)


class _ProgressBar(tqdm):
    """Demos done, time left, and images a second, crops counted."""

    def __init__(self, key: str, total: int, done: int) -> None:
        super().__init__(desc=f"features of {key}", total=total, initial=done, unit="demo")
        self._images = 0

    def add(self, images: int) -> None:
        self.update()
        self._images += images
        self.set_postfix_str(f"{self._images / max(self.format_dict['elapsed'], 1e-9):.0f} images/s")
