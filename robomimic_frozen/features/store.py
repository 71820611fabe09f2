"""The cache folder: complete caches, under names that their content decides.

    <root>/<key>/features.bin      float16 or float32 [frames, 1 + crops, F], demo after demo; or int8, see int8.py
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
from collections.abc import Mapping
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
from robomimic_frozen.features.int8 import SCALE_ROWS, Int8Features
from robomimic_frozen.features.remote import FEATURES, METADATA, RemoteCaches
from robomimic_frozen.features.source import ImageSource, image_digest
from robomimic_frozen.utils.files import fingerprint, to_disk, write_json
from robomimic_frozen.utils.parallel import Executor, retrying_map
from robomimic_frozen.utils.urls import LOCAL, is_url

logger = logging.getLogger(__name__)

PROGRESS, PARTIAL = "progress.jsonl", ".partial"
DAMAGED: Final = (OSError, ValueError, KeyError, TypeError)  # what `open_cache` raises for a cache that is not whole


@dataclass(frozen=True)
class CachedFeatures:
    """A complete cache.

    Attributes:
        features: [frames of all demos, 1 + cached_crops, F], the central crop first, memory-mapped.
        metadata: what the cache is for: 'description' (see `EncoderSpec.description`), 'dataset', 'obs_key', 'weights',
            'seconds' it took, and of each of its 'demos' the 'name', number of 'frames', sha256 of the 'images', and
            'crc32' of the features, and of int8 the 'error'.
        folder: where it lies; its name is the key.
    """

    features: np.ndarray | Int8Features
    metadata: dict[str, Any]
    folder: Path


def open_cache(folder: Path, checksums: bool = True) -> CachedFeatures:
    """Open the complete cache in `folder`; without `checksums` the features themselves are not read.

    Raises one of `DAMAGED` if it is incomplete, or its content is not what its name and its checksums say.
    """
    metadata = json.loads((folder / METADATA).read_text())
    description, demos = metadata["description"], metadata["demos"]
    if folder.name != _key(description, metadata["obs_key"], {demo["name"]: demo["images"] for demo in demos}):
        raise ValueError(f"{METADATA} belongs to another cache")
    frames = [demo["frames"] for demo in demos]
    variants, dim, dtype = 1 + description["cached_crops"], description["feature_dim"], description["dtype"]
    sizes = [_demo_bytes(count, variants, dim, dtype) for count in frames]
    if (folder / FEATURES).stat().st_size != sum(sizes):
        raise ValueError(f"{FEATURES} has another size than {sum(sizes)} bytes")
    if checksums:
        with (folder / FEATURES).open("rb") as file:  # not mapped: what is mapped would count as memory of this process
            for demo, size in zip(demos, sizes, strict=True):
                if zlib.crc32(file.read(size)) != demo["crc32"]:
                    raise ValueError(f"the checksum of {demo['name']} differs")
    if dtype == "int8":
        rows = np.memmap(folder / FEATURES, np.int8, mode="r", shape=(sum(sizes) // dim, dim))
        return CachedFeatures(Int8Features(rows, frames, variants), metadata, folder)
    return CachedFeatures(np.memmap(folder / FEATURES, dtype, mode="r", shape=(sum(frames), variants, dim)), metadata, folder)


def _demo_bytes(frames: int, variants: int, dim: int, dtype: str) -> int:
    return (frames * variants + (SCALE_ROWS if dtype == "int8" else 0)) * dim * np.dtype(dtype).itemsize


def _key(description: Mapping[str, Any], obs_key: str, images: Mapping[str, str]) -> str:
    """Return the name of the cache of these images, given as demo -> sha256, under this description."""
    return fingerprint(description, obs_key, list(images.items()))[:32]


def ensure_features(
    spec: EncoderSpec, source: ImageSource, executor: Executor | None = None, root: str | Path | None = None,
    device: torch.device | None = None,
) -> CachedFeatures:  # fmt: skip
    """Return the features of images, extracted first where they are not in the cache. Arguments and errors as of `FeatureStore.get`."""
    return FeatureStore(root).get(source, spec, device, executor)


class FeatureStore:
    """The caches in one folder, and those at a URL, of which the folder has copies.

    `root` is `algo.feature_cache.dir`: the folder, or the URL, whose copies go to `local`; None for `local` alone.
    """

    def __init__(self, root: str | Path | None = None, local: Path = LOCAL) -> None:
        self.remote = RemoteCaches(str(root)) if root is not None and is_url(root) else None
        self.root = Path(local if root is None or self.remote is not None else root).expanduser()

    def get(
        self, source: ImageSource, spec: EncoderSpec, device: torch.device | None = None, executor: Executor | None = None
    ) -> CachedFeatures:
        """Return the features of `source`, extracted first where they are not in the store; waits where another process is at it.

        Args:
            device: of the extraction; None for the GPU of whoever extracts, if there is one.
            executor: of the extraction; its workers read the dataset. None for this process.

        Raises:
            DatasetError: the dataset is unreadable or changes meanwhile.
            WeightsError: the features are not finite numbers.
            CacheUnavailableError: the folder or the URL cannot be written to, or the disk is full.
        """
        with torch.random.fork_rng(devices=[]):  # a run must not depend on whether its features were there before
            wanted = _Wanted(spec, source)
            try:
                return self._found_or_built(wanted, device, executor)
            except OSError as error:
                raise CacheUnavailableError(
                    f"the feature cache in {self.root} cannot be written ({error}); set algo.feature_cache.dir to another folder"
                ) from error

    def _found_or_built(self, wanted: _Wanted, device: torch.device | None, executor: Executor | None) -> CachedFeatures:
        self.root.mkdir(parents=True, exist_ok=True)
        found, built = self._find(wanted), False
        if found is None:
            with self._lock(wanted.name):
                found = self._find(wanted)  # another process may have built it while this one waited
                if found is None and self.remote is not None:
                    keys = [key for key, metadata in self.remote.metadata().items() if wanted.matches(metadata)]
                    found = self._open(keys[0]) if keys and self.remote.fetch(keys[0], self.root) else None
                if found is None:
                    if self.remote is not None:
                        self.remote.check_writable()
                    found, built = self._build(wanted, device, executor), True
        if self.remote is not None and (built or not self.remote.has(found.folder.name)):
            self.remote.publish(found.folder)
        return found

    def _find(self, wanted: _Wanted) -> CachedFeatures | None:
        """Return the complete cache of these features. Images are read and hashed only as long as one could be it."""
        for path in self.root.glob(f"*/{METADATA}"):
            with contextlib.suppress(*DAMAGED):
                if wanted.matches(json.loads(path.read_text())):
                    return self._open(path.parent.name)
        return None

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

    def _lock(self, name: str) -> filelock.BaseFileLock:
        lock = filelock.FileLock(self.root / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            logger.info("waiting for another process that extracts the same features (%s)", lock.lock_file)
            lock.acquire()
        return lock

    def _build(self, wanted: _Wanted, device: torch.device | None, executor: Executor | None) -> CachedFeatures:
        partial, start = self.root / f"{wanted.name}{PARTIAL}", time.monotonic()
        partial.mkdir(exist_ok=True)
        frames, size, obs_key = sum(wanted.frames.values()), wanted.num_bytes, wanted.source.key
        logger.info("features of %s: %d frames of %d bytes, %.1f MB in %s", obs_key, frames, size // frames, size / 1e6, self.root)
        demos = _extract(wanted, partial, device, executor)
        if wanted.spec.dtype == "int8":
            error = max(demo["error"] for demo in demos)
            logger.info("features of %s: int8 differs from them by %.2f %% at most (root mean square, in a demo)", obs_key, 100 * error)
        key = _key(wanted.description, obs_key, {demo["name"]: demo["images"] for demo in demos})
        found = self._open(key)  # made from another copy of the dataset meanwhile
        if found is not None:
            shutil.rmtree(partial)
            return found
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
        folder = self.root / key
        shutil.rmtree(folder, ignore_errors=True)  # it is damaged, if it is there
        partial.rename(folder)
        return open_cache(folder)


class _Wanted:
    """The features that are asked for, of the images of `source`."""

    def __init__(self, spec: EncoderSpec, source: ImageSource) -> None:
        network = spec.build()
        self.spec, self.source, self.origin = spec, source, network.origin
        self.description = json.loads(json.dumps(spec.description(network)))  # as metadata have it
        # Of each demo, in the order in which they are stored: the number of its frames, and where in the file its features begin.
        self.frames = dict(zip(source.demos, source.lengths(), strict=True))
        sizes = [_demo_bytes(count, 1 + spec.cached_crops, network.frozen_dim, spec.dtype) for count in self.frames.values()]
        *starts, self.num_bytes = itertools.accumulate(sizes, initial=0)
        self.offsets = dict(zip(self.frames, starts, strict=True))
        self.digests: dict[str, str] = {}  # of the images of each demo that was read
        self.name = fingerprint(self.description, source.key, self.frames, str(source.path))[:32]  # of the folder of the extraction

    def matches(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether a cache is of these features. Images are read as long as they are those that it was made from."""
        frames = [(demo["name"], demo["frames"]) for demo in metadata["demos"]]
        same = (metadata["description"], metadata["obs_key"], frames) == (self.description, self.source.key, list(self.frames.items()))
        return same and all(self.digest(demo["name"]) == demo["images"] for demo in metadata["demos"])

    def digest(self, demo: str) -> str:
        """Return the sha256 of a demo's images, which are read once for it."""
        if demo not in self.digests:
            self.digests[demo] = image_digest(self.source.read(demo))
        return self.digests[demo]


def _extract(wanted: _Wanted, folder: Path, device: torch.device | None, executor: Executor | None) -> list[dict[str, Any]]:
    """Write the features of all demos, and return what the metadata say of each. Goes on where an earlier process has stopped."""
    # Unless the images of a demo are others today.
    done = {name: demo for name, demo in _progress(folder / PROGRESS).items() if wanted.digest(name) == demo["images"]}
    missing = [demo for demo in wanted.frames if demo not in done]
    threads = None if executor is None else executor.threads
    function = functools.partial(extract_demo, wanted.spec, wanted.source, wanted.description["weights_sha256"], device, threads)
    (folder / FEATURES).touch()
    with (
        (folder / FEATURES).open("rb+") as features,
        (folder / PROGRESS).open("a") as progress,
        tqdm(desc=f"features of {wanted.source.key}", total=len(wanted.frames), initial=len(done), unit="demo") as bar,
        contextlib.closing(retrying_map(function, missing, executor)) as extracted,
    ):
        images = 0
        for number, result in extracted:
            if isinstance(result, Exception):
                raise result
            demo, (digest, content, error) = missing[number], result
            if wanted.digests.setdefault(demo, digest) != digest:
                raise DatasetError(f"{wanted.source.path} changed while its features were extracted; run again when it is complete")
            features.seek(wanted.offsets[demo])
            features.write(content)
            to_disk(features)
            done[demo] = {"name": demo, "frames": wanted.frames[demo], "images": digest, "crc32": zlib.crc32(content)}
            if error is not None:
                done[demo]["error"] = error
            progress.write(f"\n{json.dumps(done[demo])}")
            to_disk(progress)
            bar.update()
            images += wanted.frames[demo] * (1 + wanted.spec.cached_crops)
            bar.set_postfix_str(f"{images / max(bar.format_dict['elapsed'], 1e-9):.0f} images/s")
    return [done[demo] for demo in wanted.frames]


def _progress(path: Path) -> dict[str, dict[str, Any]]:
    demos = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # one may be incomplete
            demo = json.loads(line)
            demos[demo["name"]] = demo
    return demos
