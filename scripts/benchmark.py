"""Training speed with the encoder unfrozen, frozen, and cached, measured side by side.

Every variant is the same fbc_frozen policy with the same batches, trained by robomimic's own `TrainUtils.run_epoch`
through a DataLoader, in a process of its own (for its peak memory); the processes take turns, so that a noisy machine
is noisy for all of them.

    python scripts/benchmark.py --json result.json --plot result.png
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from benchmark_report import FINE_TUNING, VARIANTS, draw, make_report, markdown


@dataclasses.dataclass(frozen=True)
class Job:
    """One policy to train."""

    backbone: str
    variant: str
    dataset: str
    cameras: tuple[str, ...]
    image_size: int
    batch_size: int
    device: str
    cache_dir: str


def main() -> None:
    arguments = _parse()
    with tempfile.TemporaryDirectory() as folder:
        size = arguments.image_size
        if arguments.dataset:
            dataset = str(arguments.dataset)
            cameras, size = _cameras_of(dataset, arguments.cameras)
        else:
            dataset, cameras = _write_dataset(Path(folder, "random.hdf5"), arguments.cameras, size)
        job = Job("", "", dataset, cameras, size, arguments.batch_size, arguments.device, f"{folder}/cache")
        results = {name: _measure(_variants(job, name), arguments.steps) for name in arguments.backbones}
        scaling = _measure(_scaling(job, arguments.backbones[0], Path(folder)), arguments.steps)
        fine_tuning = _measure(_fine_tuning(job, arguments.backbones[0]), arguments.steps)
    report = make_report(results, scaling, fine_tuning, dataclasses.asdict(job))
    print(markdown(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.plot:
        draw(report, arguments.plot)


def _variants(job: Job, backbone: str) -> dict[str, Job]:
    return {variant: dataclasses.replace(job, backbone=backbone, variant=variant) for variant in VARIANTS}


def _scaling(job: Job, backbone: str, folder: Path) -> dict[str, Job]:
    """Cached training with other numbers of cameras and with larger images."""
    many, cameras = _write_dataset(folder / "cameras.hdf5", 4, 84)
    large, _ = _write_dataset(folder / "large.hdf5", 2, 168)
    job = dataclasses.replace(job, backbone=backbone, variant="cached", image_size=84)
    jobs = {f"{n} cameras": dataclasses.replace(job, dataset=many, cameras=cameras[:n]) for n in (1, 2, 4)}
    return {**jobs, "images of 168x168": dataclasses.replace(job, dataset=large, cameras=cameras[:2], image_size=168)}


def _fine_tuning(job: Job, backbone: str) -> dict[str, Job]:
    """Training the last stage (ResNet's layer4) and the policy, the stages before it frozen."""
    return {variant: dataclasses.replace(job, backbone=backbone, variant=variant) for variant in FINE_TUNING}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet34", "resnet50"])
    parser.add_argument("--steps", type=int, default=6, help="rounds: one step of (a) to (c) each (10 on a GPU), and 100 of (d) and (e)")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=84, help="of the generated dataset; unfrozen policies see crops of 8 less")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dataset", type=Path, help="a robomimic image dataset; random images when omitted")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG of seconds against steps")
    return parser.parse_args()


def _write_dataset(path: Path, num_cameras: int, size: int) -> tuple[str, tuple[str, ...]]:
    """Random images (what a convolution costs does not depend on what it sees) -> (path, cameras)."""
    random, cameras = np.random.default_rng(0), tuple(f"camera{number}_image" for number in range(num_cameras))
    with h5py.File(path, "w") as file:
        for demo in range(8):
            group = file.create_group(f"data/demo_{demo}")
            group.attrs["num_samples"] = 64
            group["actions"] = random.uniform(-1, 1, (64, 7))
            group["obs/robot0_eef_pos"] = random.normal(size=(64, 3))
            for camera in cameras:
                group[f"obs/{camera}"] = random.integers(0, 256, (64, size, size, 3), dtype=np.uint8)
        file["data"].attrs["env_args"] = "{}"
    return str(path), cameras


def _cameras_of(dataset: str, count: int) -> tuple[tuple[str, ...], int]:
    with h5py.File(dataset, "r") as file:
        observations = next(iter(file["data"].values()))["obs"]
        cameras = tuple(key for key in observations if key.endswith("_image"))[:count]
        return cameras, observations[cameras[0]].shape[1]


def _measure(jobs: dict[str, Job], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds a step of each job, round by round, and what else its process reports of itself."""
    context = multiprocessing.get_context("spawn")
    workers = {}
    for name, job in jobs.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        process.start()
        workers[name] = (ours, process, ours.recv())  # one at a time: each is alone while it sets itself up
        print(f"{job.backbone}, {name}: ready", file=sys.stderr, flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, (connection, _, _) in workers.items():
            slow = 1 if jobs[name].device == "cpu" else 10
            connection.send(100 if jobs[name].variant.startswith("cached") else slow)
            took = connection.recv()
            if number:  # the first round warms up
                seconds[name].append(took)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    results = {}
    for name, (connection, process, facts) in workers.items():
        connection.send(None)
        results[name] = {"seconds": seconds[name], **facts, **connection.recv()}
        process.join()
    return results


def _serve(connection: Any, job: Job) -> None:
    with Path(os.devnull).open("w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        run, facts = _prepare(job)
        connection.send(facts)
        while (steps := connection.recv()) is not None:
            connection.send(run(steps))
    import torch

    memory = {"peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    if job.device == "cuda":
        memory["peak_gpu_mb"] = round(torch.cuda.max_memory_allocated() / 2**20)
    connection.send(memory)


def _prepare(job: Job) -> tuple[Any, dict[str, Any]]:
    """(seconds a step for a number of steps, facts about the variant)"""
    import robomimic.utils.obs_utils as ObsUtils
    import robomimic.utils.train_utils as TrainUtils
    import torch
    from robomimic.algo import algo_factory
    from torch.utils.data import DataLoader

    torch.set_num_threads(max(2, os.cpu_count() or 2) if job.device == "cuda" else 2)  # 2: as stock train.py
    config = _config(job)
    ObsUtils.initialize_obs_utils_with_config(config)
    shapes = dict.fromkeys(job.cameras, (3, job.image_size, job.image_size))
    shapes["robot0_eef_pos"] = (3,)
    model = algo_factory("fbc_frozen", config, shapes, 7, torch.device(job.device))
    if job.variant == "unfrozen":
        _load_all_frames()
    dataset = TrainUtils.dataset_factory(config, list(shapes))
    loader = DataLoader(dataset, batch_size=job.batch_size, shuffle=True, drop_last=True)
    autocast: Any = contextlib.nullcontext
    if job.variant == "unfrozen_tuned":
        model.nets.to(memory_format=torch.channels_last)
        autocast = lambda: torch.autocast(job.device, dtype=torch.bfloat16)  # noqa: E731

    def run(steps: int) -> float:
        with autocast():
            start = time.perf_counter()
            TrainUtils.run_epoch(model, loader, epoch=1, num_steps=steps)
            if job.device == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - start) / steps

    parameters = list(model.nets["policy"].encoder.parameters())
    facts = {
        "encoder_parameters": sum(parameter.numel() for parameter in parameters),
        "trainable_encoder_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }
    if job.variant == "cached":
        facts |= _extraction_facts(config, job)
    return run, facts


def _config(job: Job) -> Any:
    from robomimic.config import config_factory

    import robomimic_frozen
    from robomimic_frozen.config import POSITIONS

    robomimic_frozen.register()
    config = config_factory("fbc_frozen")
    config.train.data = job.dataset
    config.train.batch_size = job.batch_size
    config.train.cuda = job.device == "cuda"
    if job.variant != "fine_tune":
        config.train.hdf5_cache_mode = "all"
    if job.variant in ("unfrozen", "cached_float32"):
        config.algo.precision = "float32"
    config.observation.modalities.obs.rgb = list(job.cameras)
    config.observation.modalities.obs.low_dim = ["robot0_eef_pos"]
    config.observation.encoder.rgb.core_kwargs.update(
        {
            "rgb_model_name": job.backbone,
            "pretrained_encoder": False,  # speed does not depend on the values of the weights
            "freeze_encoder": _last_frozen(job) if job.variant.startswith("fine_tune") else not job.variant.startswith("unfrozen"),
        }
    )
    if job.variant == "cached_positions":
        config.observation.encoder.rgb.core_kwargs.update(POSITIONS)
    if job.variant.startswith("unfrozen"):  # as robomimic's image configs train, and faster than whole images
        config.observation.encoder.rgb.core_kwargs.update({"augment": "crops", "crop_shape": [job.image_size - 8] * 2})
    config.algo.feature_cache.update({"enabled": "cached" in job.variant, "dir": job.cache_dir})
    return config


def _last_frozen(job: Job) -> str:
    """The stage before the last one."""
    from robomimic_frozen.encoders import get_backbone

    return get_backbone(job.backbone).stages[-2]


def _load_all_frames() -> None:
    """Have this process load the frames of the action horizon, as robomimic does; nobody looks at them."""
    from robomimic.utils.dataset import SequenceDataset

    from robomimic_frozen.features.dataset import ActionKeysDataset

    ActionKeysDataset.get_obs_sequence_from_demo = SequenceDataset.get_obs_sequence_from_demo  # type: ignore[method-assign]


def _extraction_facts(config: Any, job: Job) -> dict[str, Any]:
    import torch

    from robomimic_frozen.encoders import EncoderSpec
    from robomimic_frozen.features.extraction import FeatureExtraction, keep_freed_memory

    shape = (3, job.image_size, job.image_size)
    spec = EncoderSpec.from_core_kwargs(config.observation.encoder.rgb.core_kwargs, shape, config.algo.feature_cache)
    network = spec.build()
    images = np.random.default_rng(0).integers(0, 256, (320, *shape[1:], 3), dtype=np.uint8)
    keep_freed_memory()  # as in the processes that extract
    extraction = FeatureExtraction(spec, network, torch.device(job.device), images)
    extraction("warm-up", images[:64])
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        extraction("timed", images)
        rates.append(len(images) / (time.perf_counter() - start))
    return {
        "extraction_images_per_s": round(statistics.median(rates), 1),
        "extraction_precision": str(extraction.precision).removeprefix("torch."),
        "cache_bytes_per_frame": network.frozen_dim * np.dtype(spec.dtype).itemsize * len(job.cameras),
    }


if __name__ == "__main__":
    main()
