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
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np

VARIANTS = {
    "unfrozen": "(a) unfrozen, float32, as stock robomimic runs it",
    "unfrozen_tuned": "(b) unfrozen, bfloat16 autocast, channels_last, only the frames the policy reads",
    "frozen": "(c) frozen, no cache",
    "cached": "(d) frozen, cached features",
    "cached_float32": "(e) as (d), with algo.precision float32",
}
# End to end: what one of robomimic's multi-human image sets amounts to.
TOTAL_STEPS, TOTAL_FRAMES, CROPS = 20_000, 30_000, 1


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
    report = _report(results, scaling, job)
    print(_markdown(report))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    if arguments.plot:
        _plot(report, arguments.plot)


def _variants(job: Job, backbone: str) -> dict[str, Job]:
    return {variant: dataclasses.replace(job, backbone=backbone, variant=variant) for variant in VARIANTS}


def _scaling(job: Job, backbone: str, folder: Path) -> dict[str, Job]:
    """Cached training with other numbers of cameras and with larger images."""
    many, cameras = _write_dataset(folder / "cameras.hdf5", 4, 84)
    large, _ = _write_dataset(folder / "large.hdf5", 2, 168)
    job = dataclasses.replace(job, backbone=backbone, variant="cached", image_size=84)
    jobs = {f"{n} cameras": dataclasses.replace(job, dataset=many, cameras=cameras[:n]) for n in (1, 2, 4)}
    return {**jobs, "images of 168x168": dataclasses.replace(job, dataset=large, cameras=cameras[:2], image_size=168)}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet34", "resnet50"])
    parser.add_argument("--steps", type=int, default=6, help="rounds: one step of (a) to (c) each, and 100 of (d) and (e)")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--image-size", type=int, default=84, help="of the generated dataset; cropped to 8 less")
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
            connection.send(100 if jobs[name].variant.startswith("cached") else 1)
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
    with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
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
    shapes = {camera: (3, job.image_size, job.image_size) for camera in job.cameras}
    shapes["robot0_eef_pos"] = (3,)
    model = algo_factory("fbc_frozen", config, shapes, 7, torch.device(job.device))
    with _frames_the_policy_reads() if job.variant in ("unfrozen_tuned", "frozen") else contextlib.nullcontext():
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

    robomimic_frozen.register()
    config = config_factory("fbc_frozen")
    config.train.data = job.dataset
    config.train.batch_size = job.batch_size
    config.train.cuda = job.device == "cuda"
    config.train.hdf5_cache_mode = "all"
    if job.variant in ("unfrozen", "cached_float32"):
        config.algo.precision = "float32"
    config.observation.modalities.obs.rgb = list(job.cameras)
    config.observation.modalities.obs.low_dim = ["robot0_eef_pos"]
    config.observation.encoder.rgb.core_kwargs.update(
        {
            "rgb_model_name": job.backbone,
            "pretrained_encoder": False,  # speed does not depend on the values of the weights
            "freeze_encoder": not job.variant.startswith("unfrozen"),
            "crop_shape": [job.image_size - 8] * 2,
        }
    )
    cache = {"enabled": job.variant.startswith("cached"), "dir": job.cache_dir, "cached_crops": CROPS}
    config.algo.feature_cache.update(cache)
    return config


@contextlib.contextmanager
def _frames_the_policy_reads() -> Iterator[None]:
    """Spare a variant that reads pixels the frames of the action horizon, which stock loads and nobody looks at."""
    from robomimic.utils.dataset import SequenceDataset

    original = SequenceDataset.get_obs_sequence_from_demo

    def first_frame(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **{**kwargs, "seq_length": 1})

    with mock.patch.object(SequenceDataset, "get_obs_sequence_from_demo", first_frame):
        yield


def _extraction_facts(config: Any, job: Job) -> dict[str, Any]:
    import torch

    from robomimic_frozen.features.extraction import FeatureExtraction
    from robomimic_frozen.features.spec import Extractor

    shape = (3, job.image_size, job.image_size)
    extractor = Extractor.from_config(config.observation.encoder.rgb.core_kwargs, config.algo.feature_cache, shape)
    extraction = FeatureExtraction(extractor, torch.device(job.device))
    images = np.random.default_rng(0).integers(0, 256, (320, *shape[1:], 3), dtype=np.uint8)
    extraction("warm-up", images[:64])
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        extraction("timed", images)
        rates.append(len(images) * (1 + CROPS) / (time.perf_counter() - start))
    return {
        "extraction_images_per_s": round(statistics.median(rates), 1),
        "extraction_precision": str(extraction.precision).removeprefix("torch."),
        "cache_bytes_per_frame": extractor.feature_bytes * len(job.cameras),
    }


def _report(results: dict[str, Any], scaling: dict[str, Any], setting: Job) -> dict[str, Any]:
    import torch
    import torchvision

    speedup = {}
    for backbone, variants in results.items():
        seconds = {variant: facts["seconds"] for variant, facts in variants.items()}
        extraction = TOTAL_FRAMES * len(setting.cameras) * (1 + CROPS) / variants["cached"]["extraction_images_per_s"]
        median = {variant: statistics.median(values) for variant, values in seconds.items()}
        speedup[backbone] = {
            "step": median["unfrozen"] / median["cached"],
            "step_range": _range_of_ratios(seconds["unfrozen"], seconds["cached"]),
            "step_float32": median["unfrozen"] / median["cached_float32"],
            "step_vs_tuned": median["unfrozen_tuned"] / median["cached"],
            "step_vs_tuned_range": _range_of_ratios(seconds["unfrozen_tuned"], seconds["cached"]),
            "end_to_end": TOTAL_STEPS * median["unfrozen"] / (TOTAL_STEPS * median["cached"] + extraction),
            "end_to_end_vs_tuned": TOTAL_STEPS * median["unfrozen_tuned"] / (TOTAL_STEPS * median["cached"] + extraction),
        }
    cached = {backbone: variants["cached"] for backbone, variants in results.items()}
    return {
        "speedup": speedup,
        "extraction": {
            backbone: {"images_per_s": facts["extraction_images_per_s"], "precision": facts["extraction_precision"]}
            for backbone, facts in cached.items()
        },
        "variants": [
            {
                "backbone": backbone,
                "variant": variant,
                "seconds_per_step": statistics.median(facts["seconds"]),
                **{key: value for key, value in facts.items() if not key.startswith("extraction")},
            }
            for backbone, variants in results.items()
            for variant, facts in variants.items()
        ],
        "cached_step_scaling": {
            "backbone": next(iter(results)),
            "seconds_per_step": {name: statistics.median(facts["seconds"]) for name, facts in scaling.items()},
        },
        "setting": {
            "cameras": len(setting.cameras),
            "image_size": setting.image_size,
            "crop": setting.image_size - 8,
            "batch_size": setting.batch_size,
            "end_to_end": {"steps": TOTAL_STEPS, "frames": TOTAL_FRAMES, "random_crops": CROPS},
        },
        "device": torch.cuda.get_device_name() if setting.device == "cuda" else _cpu_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__},
    }


def _range_of_ratios(slow: list[float], fast: list[float]) -> list[float]:
    """Smallest and largest ratio of the two in one round."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return [min(ratios), max(ratios)]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores"


def _markdown(report: dict[str, Any]) -> str:
    setting = report["setting"]
    lines = [
        f"{report['device']}; {setting['cameras']} cameras {setting['image_size']}x{setting['image_size']} cropped to "
        f"{setting['crop']}x{setting['crop']}, batch {setting['batch_size']}",
        "",
        "| backbone | variant | ms/step | trainable of encoder parameters | peak RSS |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['backbone']} | {VARIANTS[row['variant']]} | {1000 * row['seconds_per_step']:.1f} | "
        f"{row['trainable_encoder_parameters']:,} of {row['encoder_parameters']:,} | {row['peak_rss_mb']} MB |"
        for row in report["variants"]
    ]
    end_to_end = setting["end_to_end"]
    lines += ["", "| ratio (range over rounds) | " + " | ".join(report["speedup"]) + " |", "|---|" + "---|" * len(report["speedup"])]
    rows = {
        "train step, (a) / (d)": lambda r: f"{r['step']:.0f}x ({r['step_range'][0]:.0f}-{r['step_range'][1]:.0f})",
        "train step, (a) / (e)": lambda r: f"{r['step_float32']:.0f}x",
        "train step, (b) / (d)": lambda r: f"{r['step_vs_tuned']:.0f}x "
        f"({r['step_vs_tuned_range'][0]:.0f}-{r['step_vs_tuned_range'][1]:.0f})",
        f"end to end (a) / (d), {end_to_end['steps']:,} steps, extraction of {end_to_end['frames']:,} frames included": lambda r: (
            f"{r['end_to_end']:.0f}x"
        ),
        "end to end (b) / (d)": lambda r: f"{r['end_to_end_vs_tuned']:.0f}x",
    }
    lines += [f"| {name} | " + " | ".join(show(ratio) for ratio in report["speedup"].values()) + " |" for name, show in rows.items()]
    rates = [f"{facts['images_per_s']:.0f} ({facts['precision']})" for facts in report["extraction"].values()]
    lines.append("| extraction, images/s | " + " | ".join(rates) + " |")
    sizes = [f"{row['cache_bytes_per_frame']:,}" for row in report["variants"] if row["variant"] == "cached"]
    lines.append("| cache, bytes/frame | " + " | ".join(sizes) + " |")
    scaling = report["cached_step_scaling"]
    lines += ["", f"| cached {scaling['backbone']} step | ms |", "|---|---|"]
    lines += [f"| {name} | {1000 * seconds:.1f} |" for name, seconds in scaling["seconds_per_step"].items()]
    return "\n".join(lines)


def _plot(report: dict[str, Any], path: Path) -> None:
    """Seconds against steps on logarithmic axes; the cached line starts with the extraction, so the two cross."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    setting = report["setting"]
    steps = np.logspace(0, np.log10(setting["end_to_end"]["steps"]), 100)
    figure, panels = plt.subplots(1, len(report["speedup"]), figsize=(4.2 * len(report["speedup"]), 3.6), squeeze=False)
    for panel, backbone in zip(panels[0], report["speedup"], strict=True):
        images = setting["end_to_end"]["frames"] * setting["cameras"] * (1 + setting["end_to_end"]["random_crops"])
        extraction = images / report["extraction"][backbone]["images_per_s"]
        for row in report["variants"]:
            if row["backbone"] == backbone:
                offset = extraction if row["variant"].startswith("cached") else 0
                panel.loglog(steps, offset + steps * row["seconds_per_step"], label=VARIANTS[row["variant"]][:3] + " " + row["variant"])
        panel.set(title=backbone, xlabel="gradient steps", ylabel="seconds, extraction included")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
