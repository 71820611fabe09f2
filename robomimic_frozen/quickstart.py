"""Demonstrations -> stock training -> stock evaluation -> a summary, in minutes on two cores."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from robomimic_frozen import compat
from robomimic_frozen.config import FBCFrozenConfig
from robomimic_frozen.data import generate_demos
from robomimic_frozen.errors import RobomimicFrozenError
from robomimic_frozen.files import write_json
from robomimic_frozen.preflight import check_output_dir

_DOWNLOAD_SECONDS = 10
_EPOCHS = 12
_STEPS_PER_EPOCH = 500
_HORIZON = 200
_CACHED_CROPS = 3  # extraction takes as long as half the training with the default of 8


class QuickstartError(RobomimicFrozenError):
    """A stage of the quickstart failed; the message names the stage and its log."""


def quickstart(out: Path, num_demos: int, num_rollouts: int, seed: int, workers: int) -> dict[str, Any]:
    """Run all stages into the folder `out`; returns what `out/summary.json` holds.

    Demonstrations that an earlier quickstart made with the same settings are used again.

    Raises:
        QuickstartError: training or evaluation failed.
        RenderingError, DatasetError, ConfigError: as the stages say.
    """
    check_output_dir(out)
    compat.select_gl_backend()
    out.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    backbone = _choose_backbone()
    dataset = out / f"lift_{num_demos}_demos_seed{seed}.hdf5"
    with _timed(seconds, "demos"):
        if not dataset.exists():
            print(f"[1/3] {num_demos} scripted Lift demonstrations -> {dataset}", flush=True)
            generate_demos(dataset, num_demos=num_demos, seed=seed, workers=workers)
        else:
            print(f"[1/3] using the demonstrations in {dataset}", flush=True)
    with _timed(seconds, "train"):
        print(f"[2/3] robomimic's train.py: fbc_frozen on frozen {backbone}", flush=True)
        checkpoint = _train(out, dataset, backbone, seed)
    with _timed(seconds, "eval"):
        print(f"[3/3] robomimic's run_trained_agent.py: {num_rollouts} rollouts of Lift", flush=True)
        video = out / "rollouts.mp4"
        stats = _evaluate(out, checkpoint, num_rollouts, video)
    summary = {
        "success_rate": stats["Success_Rate"],
        "num_rollouts": num_rollouts,
        "mean_episode_length": stats["Horizon"],
        "num_demos": num_demos,
        "backbone": backbone,
        "weights": "imagenet",
        "seed": seed,
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()} | {"total": round(sum(seconds.values()), 1)},
        "dataset": str(dataset),
        "checkpoint": str(checkpoint),
        "video": str(video),
    }
    write_json(out / "summary.json", summary, indent=4)
    _print_summary(summary, out)
    return summary


def _choose_backbone() -> str:
    """resnet18 when its ImageNet weights are here or arrive quickly, else the backbone that needs no download."""
    fetch = (
        "from robomimic_frozen.encoders import get_backbone; backbone = get_backbone('resnet18');"
        "print('ready', flush=True); backbone.fetch_weights()"
    )
    process = subprocess.Popen([sys.executable, "-c", fetch], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None  # a pipe
    process.stdout.readline()  # the seconds that importing torch takes are not the download's
    try:
        found = process.wait(timeout=_DOWNLOAD_SECONDS) == 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # upon which torch.hub removes its partial file
        process.wait()
        found = False
    if found:
        print("backbone: resnet18 (its ImageNet weights are in torch's hub cache)", flush=True)
        return "resnet18"
    print(
        "backbone: efficientnet_lite0 (its ImageNet weights come with a package; those of resnet18 are not in torch's "
        f"hub cache and could not be downloaded within {_DOWNLOAD_SECONDS} s)",
        flush=True,
    )
    return "efficientnet_lite0"


def _train(out: Path, dataset: Path, backbone: str, seed: int) -> Path:
    config = _config(out, dataset, backbone, seed)
    config_path = out / "config.json"
    config_path.write_text(config.dump())
    log = out / "train.log"
    with tqdm(total=config.train.num_epochs, unit="epoch") as bar:
        for line in _run([sys.executable, "-m", "robomimic.scripts.train", "--config", str(config_path)], log):
            if line.startswith("Train Epoch"):
                bar.update()
            elif match := re.match(r'\s*"Loss": ([\d.e-]+)', line):
                bar.set_postfix(loss=f"{float(match.group(1)):.4f}")
    if "finished run successfully!" not in log.read_text():
        raise QuickstartError(f"training failed; its last words are at the end of {log}")
    checkpoints = Path(config.train.output_dir, config.experiment.name).glob("*/models/*.pth")
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime)
    return Path(os.path.relpath(newest))


def _config(out: Path, dataset: Path, backbone: str, seed: int) -> FBCFrozenConfig:
    config = FBCFrozenConfig()
    config.experiment.name = "quickstart"
    config.experiment.rollout.enabled = False  # the evaluation stage does them
    config.experiment.render_video = False
    config.experiment.epoch_every_n_steps = _STEPS_PER_EPOCH
    config.experiment.save.every_n_epochs = _EPOCHS
    config.experiment.rollout.horizon = _HORIZON
    config.train.data = str(dataset.absolute())
    config.train.output_dir = str((out / "trained").absolute())
    config.train.num_epochs = _EPOCHS
    config.train.seed = seed
    config.algo.feature_cache.cached_crops = _CACHED_CROPS
    config.observation.encoder.rgb.core_kwargs.rgb_model_name = backbone
    return config


def _evaluate(out: Path, checkpoint: Path, num_rollouts: int, video: Path) -> dict[str, float]:
    log = out / "eval.log"
    command = [sys.executable, "-m", "robomimic.scripts.run_trained_agent", "--agent", str(checkpoint)]
    command += ["--n_rollouts", str(num_rollouts), "--video_path", str(video)]
    command += ["--camera_names", "agentview", "robot0_eye_in_hand"]
    for _ in _run(command, log):
        pass
    _, marker, stats = log.read_text().partition("Average Rollout Stats\n")
    if not marker:
        raise QuickstartError(f"evaluation failed; its last words are at the end of {log}")
    return json.JSONDecoder().raw_decode(stats)[0]


def _run(command: list[str], log: Path) -> Iterator[str]:
    """Run a stock script and yield its output line by line; all of it goes to `log`."""
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None  # pipes
        # Stock train.py asks whether to delete an earlier run of the same name.
        process.stdin.write("n\n")
        process.stdin.close()
        for line in process.stdout:
            file.write(line)
            yield line


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    successes = round(summary["success_rate"] * summary["num_rollouts"])
    spent = ", ".join(f"{stage} {value:.0f} s" for stage, value in summary["seconds"].items())
    print(
        f"\nsuccess rate {summary['success_rate']:.2f} ({successes} of {summary['num_rollouts']} rollouts), "
        f"frozen {summary['backbone']}, {summary['num_demos']} demonstrations\n"
        f"time         {spent}\n"
        f"checkpoint   {summary['checkpoint']}\n"
        f"video        {summary['video']}\n"
        f"summary      {out / 'summary.json'}"
    )
