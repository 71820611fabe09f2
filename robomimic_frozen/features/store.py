"""The cache folder: complete caches, under names that their content decides.

    <root>/<key>/features.bin      float16 or float32 [frames, 1 + crops, F], demo after demo
    <root>/<key>/metadata.json     shape, checksums, and what it is for; written last, touched at each use
    <root>/<name>.partial/         one that is being built, or was when its process died
    <root>/<name>.lock             held by the process that builds it
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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import filelock
import numpy as np
import torch
from tqdm import tqdm

from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.errors import CacheUnavailableError, DatasetError
from robomimic_frozen.features.extraction import extract_demo
from robomimic_frozen.features.remote import FEATURES, METADATA, RemoteCaches
from robomimic_frozen.features.source import ImageSource, image_digest
from robomimic_frozen.utils.files import fingerprint, to_disk, write_json
from robomimic_frozen.utils.parallel import Executor, retrying_map
from robomimic_frozen.utils.urls import LOCAL, is_url

logger = logging.getLogger(__name__)

PROGRESS, PARTIAL = "progress.jsonl", ".partial"
DAMAGED: Final = (OSError, ValueError, KeyError, TypeError)
"""What `open_cache` raises for a cache that is not whole."""


@dataclass(frozen=True)
class CachedFeatures:
    """A complete cache, memory-mapped.

    Attributes:
        features: [frames of all demos, 1 + cached_crops, F], the central crop first.
        metadata: what the cache is for: 'description' (see `EncoderSpec.description`), 'dataset', 'obs_key', 'weights',
            'seconds' it took, and of each of its 'demos' the 'name', number of 'frames', sha256 of the 'images', and
            'crc32' of the features.
        folder: where it lies.
    """

    features: np.ndarray
    metadata: dict[str, Any]
    folder: Path

    def of(self, name: str) -> np.ndarray:
        """Return the features of one demo."""
        first = 0
        for demo in self.metadata["demos"]:
            if demo["name"] == name:
                return self.features[first : first + demo["frames"]]
            first += demo["frames"]
        raise KeyError(name)


def ensure_features(
    spec: EncoderSpec,
    source: ImageSource,
    executor: Executor | None = None,
    root: str | Path | None = None,
    device: torch.device | None = None,
) -> CachedFeatures:
    """Return the features of images, extracted first where they are not in the cache. Arguments and errors as of `FeatureStore.get`."""
    return FeatureStore(root).get(source, spec, device, executor)


class FeatureStore:
    """The caches in one folder, and those at a URL, of which the folder has copies.

    Args:
        root: `algo.feature_cache.dir`: a folder, or a URL; None for `local`.
        local: the folder where `root` is none.
    """

    def __init__(self, root: str | Path | None = None, local: Path = LOCAL) -> None:
        self.remote = RemoteCaches(str(root)) if root is not None and is_url(root) else None
        self.root = Path(local if root is None or self.remote is not None else root).expanduser()

    def get(
        self, source: ImageSource, spec: EncoderSpec, device: torch.device | None = None, executor: Executor | None = None
    ) -> CachedFeatures:
        """Return the features of `source`, extracted first where they are not in the store.

        When another process is extracting the same ones, waits for it.

        Args:
            device: of the extraction; None for the GPU of whoever extracts, if there is one.
            executor: of the extraction; its workers read the dataset. None for this process.

        Raises:
            DatasetError: the dataset is unreadable or changes meanwhile.
            WeightsError: the features are not finite numbers.
            CacheUnavailableError: the folder or the URL cannot be written to, or the disk is full.
        """
        with torch.random.fork_rng(devices=[]):  # a run must not depend on whether its features were there before
            return self._get(_Wanted(spec, source), device, executor)

    def _get(self, wanted: _Wanted, device: torch.device | None, executor: Executor | None) -> CachedFeatures:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            found, built = self._find(wanted), False
            if found is None:
                with self._lock(wanted.name):
                    found = self._find(wanted) or self._fetched(wanted)  # another process may have built it while this one waited
                    if found is None:
                        if self.remote is not None:
                            self.remote.check_writable()
                        found, built = self._build(wanted, device, executor), True
            if self.remote is not None and (built or not self.remote.has(found.folder.name)):
                self.remote.publish(found.folder)
            return found
        except OSError as error:
            raise CacheUnavailableError(
                f"the feature cache in {self.root} cannot be written ({error}); set algo.feature_cache.dir to another folder"
            ) from error

    def _find(self, wanted: _Wanted) -> CachedFeatures | None:
        """Return the complete cache of these features. Only while one could be it, images are read and hashed."""
        for path in self.root.glob(f"*/{METADATA}"):
            with contextlib.suppress(*DAMAGED):
                if not path.parent.name.endswith(PARTIAL) and wanted.matches(json.loads(path.read_text())):
                    return self._open(path.parent.name)
        return None

    def _lock(self, name: str) -> filelock.BaseFileLock:
        lock = filelock.FileLock(self.root / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.info("waiting for another process that extracts the same features (%s)", lock.lock_file)
            lock.acquire()
        return lock

    def _open(self, key: str) -> CachedFeatures | None:
        """Return the complete cache of this name, or None; a damaged one counts for nothing and is named in a warning."""
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

    def _fetched(self, wanted: _Wanted) -> CachedFeatures | None:
        if self.remote is None:
            return None
        key = cache_key(wanted.description, wanted.source.key, {demo: wanted.digest(demo) for demo in wanted.frames})
        return self._open(key) if self.remote.fetch(key, self.root) else None

    def _build(self, wanted: _Wanted, device: torch.device | None, executor: Executor | None) -> CachedFeatures:
        partial = self.root / f"{wanted.name}{PARTIAL}"
        partial.mkdir(exist_ok=True)
        start = time.monotonic()
        with _Progress(partial) as progress:
            progress.keep(wanted)
            self._extract(wanted, progress, device, executor)
        demos = [progress.demos[demo] for demo in wanted.frames]
        key = cache_key(wanted.description, wanted.source.key, {demo["name"]: demo["images"] for demo in demos})
        found = self._open(key)  # made from another copy of the dataset meanwhile
        if found is None:
            metadata = {
                "description": wanted.description,
                "dataset": str(wanted.source.path),
                "weights": wanted.origin,
                "obs_key": wanted.source.key,
                "demos": demos,
                "seconds": round(time.monotonic() - start, 1),
            }
            write_json(partial / METADATA, metadata, indent=None)
            (partial / PROGRESS).unlink()
            shutil.rmtree(self.root / key, ignore_errors=True)  # it is damaged, if it is there
            partial.rename(self.root / key)
            return open_cache(self.root / key)
        shutil.rmtree(partial)
        return found

    def _extract(self, wanted: _Wanted, progress: _Progress, device: torch.device | None, executor: Executor | None) -> None:
        spec, source = wanted.spec, wanted.source
        missing = [demo for demo in wanted.frames if demo not in progress.demos]
        threads = None if executor is None else executor.threads
        function = functools.partial(extract_demo, spec, source, wanted.description["weights_sha256"], device, threads)
        bar = _ProgressBar(source.key, len(wanted.frames), len(progress.demos))
        with bar, contextlib.closing(retrying_map(function, missing, executor)) as extracted:
            for number, result in extracted:
                if isinstance(result, Exception):
                    raise result
                demo, (digest, features) = missing[number], result
                if wanted.digests.get(demo, digest) != digest:
                    raise DatasetError(f"{source.path} changed while its features were extracted; run again when it is complete")
                progress.add(demo, wanted.frames[demo], digest, features, wanted.offset(demo))
                bar.add(wanted.frames[demo] * (1 + spec.cached_crops))


class _Wanted:
    """The features that are asked for.

    Attributes:
        description: of `spec`.
        frames: demo -> number of its frames, in the order in which they are stored.
        origin: of the weights.
        digests: demo -> sha256 of its images, of those that were read.
        name: of the place where these features of this file are extracted.
    """

    def __init__(self, spec: EncoderSpec, source: ImageSource) -> None:
        network = spec.build()
        self.spec, self.source, self.description, self.origin = spec, source, spec.description(network), network.origin
        self.frames = dict(zip(source.demos, source.lengths(), strict=True))
        self.digests: dict[str, str] = {}
        self.name = fingerprint(self.description, source.key, self.frames, str(source.path))[:32]
        frame_bytes = (1 + spec.cached_crops) * network.frozen_dim * np.dtype(spec.dtype).itemsize
        offsets = itertools.accumulate((count * frame_bytes for count in self.frames.values()), initial=0)
        self._offsets = dict(zip(self.frames, offsets, strict=False))

    def offset(self, demo: str) -> int:
        """Return where in the file the features of a demo begin."""
        return self._offsets[demo]

    def digest(self, demo: str) -> str:
        """Return the sha256 of a demo's images, which are read once for it."""
        if demo not in self.digests:
            self.digests[demo] = image_digest(self.source.read(demo))
        return self.digests[demo]

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether a cache is of these features. Images are read as long as they are what it was made from."""
        return (
            metadata["description"] == json.loads(json.dumps(self.description))
            and metadata["obs_key"] == self.source.key
            and [(demo["name"], demo["frames"]) for demo in metadata["demos"]] == list(self.frames.items())
            and all(self.digest(demo["name"]) == demo["images"] for demo in metadata["demos"])
        )


def cache_key(description: Mapping[str, Any], obs_key: str, images: Mapping[str, str]) -> str:
    """Return the name of the cache of these images, given as demo -> sha256, under this description."""
    return fingerprint(description, obs_key, list(images.items()))[:32]


def open_cache(folder: Path, checksums: bool = True) -> CachedFeatures:
    """Open the complete cache in `folder`; without `checksums` the features themselves are not read.

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

    def keep(self, wanted: _Wanted) -> None:
        """Forget the demos whose images are others today."""
        self.demos = {name: demo for name, demo in self.demos.items() if wanted.digest(name) == demo["images"]}

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
