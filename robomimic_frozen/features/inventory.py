"""What lies in a cache folder: listed, checked against its datasets, and cleared."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import robomimic.utils.torch_utils as TorchUtils
import torch
import torch.nn.functional as F

from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.errors import DatasetError, RobomimicFrozenError
from robomimic_frozen.features.extraction import SAFE_SIMILARITY, FeatureExtraction
from robomimic_frozen.features.source import ImageSource, image_digest
from robomimic_frozen.features.store import DAMAGED, PARTIAL, CachedFeatures, FeatureStore, open_cache

SECONDS_PER_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Entry:
    """One folder of the store.

    Attributes:
        folder: where it lies; its name is the key.
        cache: its content; None when that is not whole.
        damage: why it is not whole; None when it is.
        num_bytes: its size on disk.
        last_used: when a run last read or wrote it, in seconds since the epoch.
    """

    folder: Path
    cache: CachedFeatures | None
    damage: str | None
    num_bytes: int
    last_used: float

    @property
    def days_unused(self) -> float:
        """Return the days since it was last read or written."""
        return _days_since(self.last_used)

    def summary(self) -> str:
        """Return one line: key, size, age, and what it is for."""
        what = self.damage if self.cache is None else _purpose(self.cache.metadata)
        return _line(self.folder.name, self.num_bytes, self.last_used, what)


def _days_since(moment: float) -> float:
    return (time.time() - moment) / SECONDS_PER_DAY


def _line(name: str, num_bytes: int, last_used: float, what: str | None) -> str:
    return f"{name[:12]}  {num_bytes / 2**20:8.1f} MB  {_days_since(last_used):5.1f} days  {what}"


def _purpose(metadata: Mapping[str, Any]) -> str:
    what, demos = metadata["description"], metadata["demos"]
    frames = sum(demo["frames"] for demo in demos)
    return (
        f"{what['backbone']}, {what['cached_crops']} crops, {what['dtype']}, "
        f"{len(demos)} demos, {frames} frames of {metadata['obs_key']} in {metadata['dataset']}"
    )


def print_entries(root: str | Path | None) -> None:
    """Print one line for each cache in a folder or at a URL; there the age is that of the file. Raises CacheUnavailableError."""
    store = FeatureStore(root)
    if store.remote is None:
        found = [(entry.num_bytes, entry.summary()) for entry in entries(root, checksums=False)]
    else:
        found = [
            (cache.num_bytes, _line(cache.key, cache.num_bytes, cache.written, _purpose(cache.metadata))) for cache in store.remote.all()
        ]
    for _, line in found:
        print(line)
    print(f"{len(found)} caches, {sum(num_bytes for num_bytes, _ in found) / 2**20:.1f} MB")


def print_verification(root: str | Path | None, dataset: Path | None) -> None:
    """Print one line for each cache; raises RobomimicFrozenError in the end if any is not what it should be."""
    found, bad = entries(root, checksums=True), 0
    device = TorchUtils.get_torch_device(try_to_use_cuda=True)
    for entry in found:
        try:
            if entry.cache is None:
                finding, bad = entry.damage, bad + 1
            else:
                finding = f"good (cosine similarity {verify(entry.cache, dataset, device):.5f})"
        except RobomimicFrozenError as error:
            finding, bad = str(error), bad + 1
        print(f"{entry.folder.name[:12]}: {finding}")
    if bad:
        raise RobomimicFrozenError(f"{bad} of {len(found)} caches could not be confirmed; see above")


def print_pruned(root: str | Path | None, unused_days: float | None, dry_run: bool) -> None:
    """Print one line for each cache that goes."""
    removed = prune(root, unused_days, dry_run)
    for entry in removed:
        print(entry.summary())
    freed = sum(entry.num_bytes for entry in removed) / 2**20
    print(f"{len(removed)} {'would be' if dry_run else 'were'} removed, {freed:.1f} MB")


def entries(root: str | Path | None, checksums: bool) -> list[Entry]:
    """Return everything in the store at `root` (None: as in FeatureStore), the last used first. See `open_cache` for `checksums`."""
    folders = FeatureStore(root).root.glob("*")
    found = [_entry(folder, checksums) for folder in folders if folder.is_dir()]
    return sorted(found, key=lambda entry: -entry.last_used)


def _entry(folder: Path, checksums: bool) -> Entry:
    files = [file.stat() for file in folder.iterdir()]
    size, last_used = sum(file.st_size for file in files), max((file.st_mtime for file in files), default=0.0)
    if folder.name.endswith(PARTIAL):
        return Entry(folder, None, "unfinished; the next run goes on with it", size, last_used)
    try:
        return Entry(folder, open_cache(folder, checksums), None, size, last_used)
    except DAMAGED as error:
        return Entry(folder, None, f"damaged: {error}", size, last_used)


def verify(cache: CachedFeatures, dataset: Path | None, device: torch.device) -> float:
    """Extract one demo again, the shortest, and compare: the smallest cosine similarity of old and new features.

    Args:
        dataset: the HDF5 file, where it is no longer at the place the cache remembers.

    Raises:
        DatasetError: the file is not there or has other images now.
        WeightsError: the weights are not there, or are others.
        RobomimicFrozenError: the features differ.
    """
    metadata = cache.metadata
    demo = min(metadata["demos"], key=lambda demo: demo["frames"])
    source = ImageSource(dataset or Path(metadata["dataset"]), (demo["name"],), metadata["obs_key"])
    images = source.read(demo["name"])
    if image_digest(images) != demo["images"]:
        raise DatasetError(f"{source.path} has other images now than this cache was made from")
    spec = EncoderSpec.from_description(metadata["description"], metadata["weights"], source.image_shape())
    network = spec.build()
    if network.frozen_sha256() != metadata["description"]["weights_sha256"]:
        raise RobomimicFrozenError(f"the weights in {metadata['weights']} are others now than those this cache was made with")
    extraction = FeatureExtraction(spec, network, device, images)
    again = torch.from_numpy(extraction(source.place_of(demo["name"]), images)).float()
    stored = torch.from_numpy(cache.of(demo["name"]).copy()).float()
    similarity = F.cosine_similarity(again, stored, dim=-1).min().item()
    if not similarity >= SAFE_SIMILARITY:
        raise RobomimicFrozenError(f"its features differ from newly extracted ones (cosine similarity {similarity:.4f})")
    return similarity


def prune(root: str | Path | None, unused_days: float | None, dry_run: bool) -> list[Entry]:
    """Remove what is unfinished or damaged, and what was not used for `unused_days`; returns it.

    What a process is extracting at the moment stays.
    """
    removed = []
    for entry in entries(root, checksums=True):
        unused = unused_days is not None and entry.days_unused >= unused_days
        if entry.cache is not None and not unused:
            continue
        lock = filelock.FileLock(entry.folder.parent / f"{entry.folder.name.removesuffix(PARTIAL)}.lock")
        try:
            with lock.acquire(timeout=0):
                if not dry_run:
                    shutil.rmtree(entry.folder)
                removed.append(entry)
        except filelock.Timeout:
            continue
    return removed
