"""Feature extraction by local processes and by Ray on this machine: time, memory, and whether the caches are the same.

    python scripts/benchmark_executors.py --images 20000
    python scripts/benchmark_executors.py --images 10000 100000 --image-size 32 --executors ray

Prints JSON. Images are random: what is measured does not depend on what they show. Each measurement is a process of its own, start of
workers included; the memory is the largest sum of the proportional set sizes of all processes below it, Ray's own among them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FRAMES_OF_A_DEMO = 100
KEY = "obs/agentview_image"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[20_000])
    parser.add_argument("--image-size", type=int, default=84)
    parser.add_argument("--executors", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--measure", nargs=2, metavar=("EXECUTOR", "DATASET"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        executor, dataset = arguments.measure
        print(json.dumps(measure(executor, Path(dataset), arguments.workers)))
        return
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in arguments.images:
            dataset = write_images(Path(folder) / f"{count}.hdf5", count, arguments.image_size)
            for _ in range(arguments.repeat):
                for executor in arguments.executors:  # one after the other, so that both meet the same neighbours
                    command = [sys.executable, __file__, "--measure", executor, str(dataset), "--workers", str(arguments.workers)]
                    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                    found.append({"executor": executor, "images": count, **json.loads(output.splitlines()[-1])})
                    print(found[-1], file=sys.stderr)
            dataset.unlink()
    print(json.dumps(found, indent=2))


def write_images(path: Path, count: int, size: int) -> Path:
    import h5py

    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for demo in range(count // FRAMES_OF_A_DEMO):
            file[f"data/demo_{demo}/{KEY}"] = generator.integers(0, 256, (FRAMES_OF_A_DEMO, size, size, 3), dtype=np.uint8)
    return path


def measure(name: str, dataset: Path, workers: int) -> dict[str, Any]:
    import h5py
    import torch

    from robomimic_frozen.encoders import get_backbone
    from robomimic_frozen.encoders.preprocessing import ResizeAndCrop
    from robomimic_frozen.encoders.vision import VisionBackbone
    from robomimic_frozen.executors.processes import Processes
    from robomimic_frozen.executors.ray_cluster import RayCluster
    from robomimic_frozen.features.source import ImageSource
    from robomimic_frozen.features.spec import Extractor
    from robomimic_frozen.features.store import FeatureStore
    from robomimic_frozen.files import sha256_of

    with h5py.File(dataset) as file:
        demos = tuple(sorted(file["data"], key=lambda demo: int(demo.split("_")[1])))
    source = ImageSource(dataset, demos, KEY)
    torch.manual_seed(0)
    vision = VisionBackbone(get_backbone("resnet18"), pretrained=False)
    extractor = Extractor(vision, ResizeAndCrop(source.image_shape()).eval(), cached_crops=0, crop_seed=0, dtype="float16")
    with tempfile.TemporaryDirectory() as folder, peak_memory() as peak, contextlib.ExitStack() as stack:
        start = time.perf_counter()
        executor: Any = Processes(workers)
        if name == "ray":
            executor = stack.enter_context(contextlib.closing(RayCluster(workers)))
        connected = time.perf_counter()
        cache = FeatureStore(folder).get(source, extractor, torch.device("cpu"), executor).folder
        end = time.perf_counter()
        digest, cache_bytes = sha256_of(cache / "features.bin"), (cache / "features.bin").stat().st_size
    start_of_hashing = time.perf_counter()
    source.digests()
    return {
        "seconds": round(end - start, 1), "seconds_until_connected": round(connected - start, 1),
        "seconds_of_reading_and_hashing": round(time.perf_counter() - start_of_hashing, 2),
        "dataset_mb": round(dataset.stat().st_size / 10**6, 1), "cache_mb": round(cache_bytes / 10**6, 1),
        "peak_memory_mb": round(max(peak) / 2**20), "sha256": digest,
    }  # fmt: skip


@contextlib.contextmanager
def peak_memory() -> Iterator[list[int]]:
    """A list that is filled with the memory of all processes below this one, and of itself, in bytes."""
    import psutil

    sums, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.5):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += process.memory_full_info().pss
            sums.append(total)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield sums
    finally:
        stop.set()
        sampler.join()


if __name__ == "__main__":
    main()
