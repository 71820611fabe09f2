"""Batches a second that are gathered from a feature cache in memory, from a file that the system has in memory, and from the disk.

The file holds random features, and the function is the one that training calls. A file larger than the machine's memory is read as a
training run on such a cache reads it.

    python scripts/benchmark_cache.py --gigabytes 4 --folder /var/tmp
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from robomimic_frozen.features.rows import take_rows

BATCH_SIZE = 100
_FEW = 10_000  # frames, which fit into any memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--feature-dim", type=int, default=15_488, help="of ResNet18's map of stride 8 (%(default)s)")
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="where the file is made; on the disk that is to be measured")
    arguments = parser.parse_args()
    dim = arguments.feature_dim
    frames = int(arguments.gigabytes * 1e9 / dim / 2)
    with tempfile.NamedTemporaryFile(dir=arguments.folder, suffix=".bin") as file:
        _write(Path(file.name), frames, dim)

        def opened() -> np.memmap:
            return np.memmap(file.name, np.float16, mode="r", shape=(frames, dim))

        rows = np.random.default_rng(0).integers(0, frames, (arguments.batches + 1, BATCH_SIZE))
        few = rows % _FEW
        print("| cache | batches/s |\n|---|---|")
        print(f"| in memory | {_rate(np.array(opened()[:_FEW]), few):.0f} |")
        _rate(opened(), few)
        print(f"| a file that the system has in memory | {_rate(opened(), few):.0f} |")
        # What a process has mapped stays in memory, so nothing is.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        print(f"| a file of {arguments.gigabytes:g} GB, from the disk | {_rate(opened(), rows):.1f} |")


def _write(path: Path, frames: int, dim: int) -> None:
    """Write features of so many frames: one block of random numbers again and again."""
    block = np.random.default_rng(0).normal(size=(2000, dim)).astype(np.float16)
    with path.open("wb") as file:
        for first in range(0, frames, len(block)):
            file.write(block[: frames - first].tobytes())
        os.fsync(file.fileno())


def _rate(features: np.ndarray, rows: np.ndarray) -> float:
    """Return how many of these batches are gathered in a second."""
    take_rows(features, rows[0])
    start = time.perf_counter()
    for batch in rows[1:]:
        take_rows(features, batch)
    return (len(rows) - 1) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
