"""What lies in a cache folder: listed, checked against its datasets, and cleared."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import robomimic.utils.torch_utils as TorchUtils
import torch
import torch.nn.functional as F

from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.errors import DatasetError, RobomimicFrozenError
from robomimic_frozen.features.extraction import SAFE_SIMILARITY, FeatureExtraction
from robomimic_frozen.features.source import ImageSource, image_digest
from robomimic_frozen.features.store import DAMAGED, PARTIAL, CachedFeatures, FeatureStore, open_cache


@dataclasses.dataclass(frozen=True)
class Entry:
    """One folder of the store."""

    folder: Path  # its name is the key
    cache: CachedFeatures | None  # its content, if that is here and whole
    what: str  # it is for, or is wrong with it
    num_bytes: int
    last_used: float  # when a run last read or wrote it, in seconds since the epoch

    @property
    def days_unused(self) -> float:
        """Return the days since it was last read or written."""
        return (time.time() - self.last_used) / 86_400

    def summary(self) -> str:
        """Return one line: key, size, age, and what it is for."""
        return f"{self.folder.name[:12]}  {self.num_bytes / 2**20:8.1f} MB  {self.days_unused:5.1f} days  {self.what}"


def _purpose(metadata: Mapping[str, Any]) -> str:
    what, demos = metadata["description"], metadata["demos"]
    return (
        f"{what['backbone']}, {what['cached_crops']} crops, {what['dtype']}, {len(demos)} demos, "
        f"{sum(demo['frames'] for demo in demos)} frames of {metadata['obs_key']} in {metadata['dataset']}"
    )


def print_entries(root: str | Path | None) -> None:
    """Print one line for each cache in a folder or at a URL; there the age is that of the file. Raises CacheUnavailableError."""
    remote = FeatureStore(root).remote
    if remote is None:
        found = entries(root, checksums=False)
    else:
        found = [Entry(Path(key), None, _purpose(what), *remote.size_and_time(key)) for key, what in remote.metadata().items()]
    for entry in sorted(found, key=lambda entry: -entry.last_used):
        print(entry.summary())
    print(f"{len(found)} caches, {sum(entry.num_bytes for entry in found) / 2**20:.1f} MB")


def print_verification(root: str | Path | None, dataset: Path | None) -> None:
    """Print one line for each cache; raises RobomimicFrozenError in the end if any is not what it should be."""
    found, bad = entries(root, checksums=True), 0
    device = TorchUtils.get_torch_device(try_to_use_cuda=True)
    for entry in found:
        try:
            if entry.cache is None:
                raise RobomimicFrozenError(entry.what)
            finding = f"good (cosine similarity {verify(entry.cache, dataset, device):.5f})"
        except RobomimicFrozenError as error:
            finding, bad = str(error), bad + 1
        print(f"{entry.folder.name[:12]}: {finding}")
    if bad:
        raise RobomimicFrozenError(f"{bad} of {len(found)} caches could not be confirmed; see above")


def print_pruned(root: str | Path | None, unused_days: float | None, dry_run: bool) -> None:
    """Remove what is unfinished or damaged, and what was not used for `unused_days`, and print one line for each.

    What a process is extracting at the moment stays.
    """
    removed = []
    for entry in entries(root, checksums=True):
        unused = unused_days is not None and entry.days_unused >= unused_days
        if entry.cache is not None and not unused:
            continue
        lock = filelock.FileLock(entry.folder.parent / f"{entry.folder.name.removesuffix(PARTIAL)}.lock")
        with contextlib.suppress(filelock.Timeout), lock.acquire(timeout=0):
            if not dry_run:
                shutil.rmtree(entry.folder)
            removed.append(entry)
            print(entry.summary())
    freed = sum(entry.num_bytes for entry in removed) / 2**20
    print(f"{len(removed)} {'would be' if dry_run else 'were'} removed, {freed:.1f} MB")


def entries(root: str | Path | None, checksums: bool) -> list[Entry]:
    """Return everything in the store at `root` (None: as in FeatureStore). See `open_cache` for `checksums`."""
    return [_entry(folder, checksums) for folder in FeatureStore(root).root.glob("*") if folder.is_dir()]


def _entry(folder: Path, checksums: bool) -> Entry:
    files = [file.stat() for file in folder.iterdir()]
    size, last_used = sum(file.st_size for file in files), max((file.st_mtime for file in files), default=0.0)
    if folder.name.endswith(PARTIAL):
        return Entry(folder, None, "unfinished; the next run goes on with it", size, last_used)
    try:
        cache = open_cache(folder, checksums)
        return Entry(folder, cache, _purpose(cache.metadata), size, last_used)
    except DAMAGED as error:
        return Entry(folder, None, f"damaged: {error}", size, last_used)


def verify(cache: CachedFeatures, dataset: Path | None, device: torch.device) -> float:
    """Extract one demo again, the shortest, and return the smallest cosine similarity of old and new features.

    Args:
        dataset: the HDF5 file, where it is no longer at the place the cache remembers.

    Raises:
        DatasetError: the file is not there or has other images now.
        WeightsError: the weights are not there.
        RobomimicFrozenError: the weights are others, or the features differ.
    """
    metadata, demos = cache.metadata, cache.metadata["demos"]
    index = min(range(len(demos)), key=lambda index: demos[index]["frames"])
    demo, first = demos[index], sum(demo["frames"] for demo in demos[:index])
    source = ImageSource(dataset or metadata["dataset"], (demo["name"],), metadata["obs_key"])
    images = source.read(demo["name"])
    if image_digest(images) != demo["images"]:
        raise DatasetError(f"{source.path} has other images now than this cache was made from")
    spec = EncoderSpec.from_description(metadata["description"], metadata["weights"], source.image_shape())
    network = spec.build()
    if network.frozen_sha256() != metadata["description"]["weights_sha256"]:
        raise RobomimicFrozenError(f"the weights in {metadata['weights']} are others now than those this cache was made with")
    again = torch.from_numpy(FeatureExtraction(spec, network, device, images)(source.place_of(demo["name"]), images)).float()
    stored = torch.from_numpy(np.array(cache.features[first : first + demo["frames"]])).float()
    similarity = F.cosine_similarity(again, stored, dim=-1).min().item()
    if not similarity >= SAFE_SIMILARITY:
        raise RobomimicFrozenError(f"its features differ from newly extracted ones (cosine similarity {similarity:.4f})")
    return similarity
