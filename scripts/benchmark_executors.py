"""`robomimic-frozen precompute` by local processes and by Ray on this machine: time, memory, and whether the caches are the same.

    python scripts/benchmark_executors.py --images 20000 --repeat 3
    python scripts/benchmark_executors.py --images 10000 100000 --image-size 32 --executors ray --memory

Prints JSON. Images and weights are random: what is measured does not depend on what they show. Seconds are those of the whole command,
from the shell and back to it. Memory is the largest sum of the proportional set sizes of all its processes, Ray's own among them; to
add it up takes time, so it has runs of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import torch
import torchvision

from robomimic_frozen.utils.files import sha256_of

FRAMES_OF_A_DEMO = 100
KEY = "agentview_image"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[20_000])
    parser.add_argument("--image-size", type=int, default=84)
    parser.add_argument("--executors", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="measure memory in the place of time")
    arguments = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.save(torchvision.models.resnet18(weights=None).state_dict(), folder / "weights.pth")
        for count in arguments.images:
            dataset = write_images(folder / f"{count}.hdf5", count, arguments.image_size)
            for _ in range(arguments.repeat):
                for executor in arguments.executors:  # one after the other, so that both meet the same neighbours
                    measured = measure(command(folder, dataset, executor, arguments.workers), folder / "cache", arguments.memory)
                    found.append({"executor": executor, "images": count, **measured})
                    print(found[-1], file=sys.stderr)
            dataset.unlink()
    print(json.dumps(found, indent=2))


def write_images(path: Path, count: int, size: int) -> Path:
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = "{}"
        for number in range(count // FRAMES_OF_A_DEMO):
            demo = file["data"].create_group(f"demo_{number}")
            demo.attrs["num_samples"] = FRAMES_OF_A_DEMO
            demo["actions"] = np.zeros((FRAMES_OF_A_DEMO, 7))
            demo[f"obs/{KEY}"] = generator.integers(0, 256, (FRAMES_OF_A_DEMO, size, size, 3), dtype=np.uint8)
    return path


def command(folder: Path, dataset: Path, executor: str, workers: int) -> list[str]:
    settings = {
        "observation.modalities.obs.low_dim": "[]", "observation.modalities.obs.rgb": f'["{KEY}"]', "train.cuda": "false",
        "observation.encoder.rgb.core_kwargs.weights": folder / "weights.pth", "observation.encoder.rgb.core_kwargs.augment": "null",
        "algo.feature_cache.cached_crops": 0, "algo.feature_cache.dir": folder / "cache",
    }  # fmt: skip
    flags = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    start = [sys.executable, "-m", "robomimic_frozen.cli", "precompute", "--dataset", str(dataset)]
    return [*start, "--executor", executor, "--workers", str(workers), *flags]


def measure(words: list[str], cache: Path, memory: bool) -> dict[str, Any]:
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=errors)
        peak = peak_memory(process) if memory else None
        process.wait()
        seconds = time.perf_counter() - start
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(errors.read())
    (features,) = cache.glob("*/features.bin")
    found = {"cache_mb": round(features.stat().st_size / 10**6, 1), "sha256": sha256_of(features)}
    shutil.rmtree(cache)
    return {"seconds": round(seconds, 1), **found} if peak is None else {"peak_memory_mb": round(peak / 2**20), **found}


def peak_memory(process: subprocess.Popen) -> int:
    """Of a process and all below it, until it ends, in bytes."""
    peak = 0
    while process.poll() is None:
        total = 0
        with contextlib.suppress(psutil.Error):
            for each in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += each.memory_full_info().pss
        peak = max(peak, total)
        time.sleep(0.5)
    return peak


if __name__ == "__main__":
    main()
