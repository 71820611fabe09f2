"""Demonstrations -> stock training -> rollouts -> a summary, in minutes on two cores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from robomimic_frozen.config import FBCFrozenConfig
from robomimic_frozen.data import generate_demos
from robomimic_frozen.evaluation.evaluate import evaluate, recorded_episode
from robomimic_frozen.policies.checkpoints import find_checkpoint
from robomimic_frozen.simulation.gl import select_gl_backend
from robomimic_frozen.study.training import StudyError, run_stock_train
from robomimic_frozen.utils.files import require_writable, write_json
from robomimic_frozen.utils.parallel import Processes

_DOWNLOAD_SECONDS: Final = 10
_EPOCHS: Final = 12
_STEPS_PER_EPOCH: Final = 500
_HORIZON: Final = 200
_CACHED_CROPS: Final = 3
"""Extraction takes as long as half the training with the default of 8."""


def quickstart(out: Path, num_demos: int, num_rollouts: int, seed: int, workers: int) -> dict[str, Any]:
    """Run all stages into the folder `out`, and return what `out/summary.json` holds.

    Demonstrations that an earlier quickstart made with the same settings are used again.

    Raises:
        StudyError: training or rollouts failed.
        RenderingError, DatasetError, ConfigError: as the stages say.
    """
    require_writable(out)
    select_gl_backend()
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
        print(f"[2/3] robomimic's train.py: fbc_frozen on frozen {backbone}, {_EPOCHS} epochs; log in {out / 'train.log'}", flush=True)
        run = run_stock_train(_config(out, dataset, backbone, seed), out)
        checkpoint = Path(os.path.relpath(find_checkpoint(run, "the run")))
    with _timed(seconds, "eval"):
        print(f"[3/3] {num_rollouts} rollouts of Lift", flush=True)
        (rolled_out,) = evaluate([checkpoint], num_rollouts, _HORIZON, Processes(workers), seed, out / "rollouts", num_videos=1)
        if rolled_out.errors:
            raise StudyError(f"{rolled_out.errors} of {num_rollouts} rollouts ended in an error; see {out / 'rollouts'}")
    spent = {stage: round(value, 1) for stage, value in seconds.items()} | {"total": round(sum(seconds.values()), 1)}
    summary = {
        "success_rate": rolled_out.success_rate,
        "num_rollouts": num_rollouts,
        "mean_episode_length": rolled_out.mean_steps,
        "num_demos": num_demos,
        "backbone": backbone,
        "weights": "imagenet",
        "seed": seed,
        "seconds": spent,
        "dataset": str(dataset),
        "checkpoint": str(checkpoint),
        "video": str(recorded_episode(checkpoint, _HORIZON, seed, out / "rollouts")),
    }
    write_json(out / "summary.json", summary, indent=4)
    print(
        f"\nsuccess rate {rolled_out.success_rate:.2f} ({rolled_out.successes} of {num_rollouts} rollouts), "
        f"frozen {backbone}, {num_demos} demonstrations\n"
        f"time         {', '.join(f'{stage} {value:.0f} s' for stage, value in spent.items())}\n"
        f"checkpoint   {checkpoint}\n"
        f"video        {summary['video']}\n"
        f"summary      {out / 'summary.json'}"
    )
    return summary


def _choose_backbone() -> str:
    """Return resnet18 when its ImageNet weights are here or arrive quickly, else the backbone that needs no download."""
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


def _config(out: Path, dataset: Path, backbone: str, seed: int) -> FBCFrozenConfig:
    config = FBCFrozenConfig()
    config.experiment.name = "quickstart"
    config.experiment.rollout.enabled = False  # the last stage does them
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


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - start
