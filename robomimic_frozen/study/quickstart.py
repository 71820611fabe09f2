"""Demonstrations -> stock training -> rollouts -> a summary, in minutes on two cores."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from robomimic_frozen.config import POSITIONS, FBCFrozenConfig
from robomimic_frozen.data import generate_demos
from robomimic_frozen.evaluation.evaluate import evaluate, recorded_episode
from robomimic_frozen.policies.checkpoints import find_checkpoint
from robomimic_frozen.simulation.gl import select_gl_backend
from robomimic_frozen.simulation.tasks import Task, get_task
from robomimic_frozen.study.training import StudyError, run_stock_train
from robomimic_frozen.utils.files import require_writable, write_json
from robomimic_frozen.utils.parallel import Processes

_STAGES: Final = ("demos", "train", "eval")
_DOWNLOAD_SECONDS: Final = 10
_EPOCHS: Final = 12
_STEPS_PER_EPOCH: Final = 500


def quickstart(out: Path, task_name: str, num_demos: int | None, num_rollouts: int, seed: int, workers: int) -> dict[str, Any]:
    """Run all stages into the folder `out`, and return what `out/summary.json` holds.

    Demonstrations that an earlier quickstart made with the same settings are used again; there are as many as the task says where
    `num_demos` is None.

    Raises:
        StudyError: training or rollouts failed.
        RenderingError, DatasetError, ConfigError: as the stages say.
    """
    task = get_task(task_name)
    num_demos = num_demos or task.quickstart_demos
    require_writable(out)
    select_gl_backend()
    out.mkdir(parents=True, exist_ok=True)
    backbone = _choose_backbone()
    dataset, rollouts = out / f"{task.name}_{num_demos}_demos_seed{seed}.hdf5", out / "rollouts"
    clock = [time.monotonic()]
    if dataset.exists():
        print(f"[1/3] using the demonstrations in {dataset}", flush=True)
    else:
        print(f"[1/3] {num_demos} scripted demonstrations of {task.name} -> {dataset}", flush=True)
        generate_demos(dataset, num_demos, seed, workers, task=task.name)
    clock.append(time.monotonic())
    print(f"[2/3] robomimic's train.py: fbc_frozen on frozen {backbone}, {_EPOCHS} epochs; log in {out / 'train.log'}", flush=True)
    run = run_stock_train(_config(out, task, dataset, backbone, seed), out)
    checkpoint = Path(os.path.relpath(find_checkpoint(run, "the run")))
    clock.append(time.monotonic())
    print(f"[3/3] {num_rollouts} rollouts of {task.name}", flush=True)
    (rolled_out,) = evaluate([checkpoint], num_rollouts, task.horizon, Processes(workers), seed, rollouts, num_videos=1)
    if rolled_out.errors:
        what = f"{rolled_out.errors} of {num_rollouts} rollouts ended in an error, the first in {rolled_out.first_error}"
        raise StudyError(f"{what}; see {rollouts}")
    clock.append(time.monotonic())
    spent = {stage: round(end - start, 1) for stage, (start, end) in zip(_STAGES, itertools.pairwise(clock), strict=True)}
    spent["total"] = round(clock[-1] - clock[0], 1)
    summary = {
        "task": task.name,
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
        "video": str(recorded_episode(checkpoint, task.horizon, seed, rollouts)),
    }
    write_json(out / "summary.json", summary, indent=4)
    print(
        f"\n{task.name}: success rate {rolled_out.success_rate:.2f} ({rolled_out.successes} of {num_rollouts} rollouts), "
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
        backbone, where = "resnet18", "are in torch's hub cache"
    else:
        late = f"those of resnet18 are not in torch's hub cache and could not be downloaded within {_DOWNLOAD_SECONDS} s"
        backbone, where = "efficientnet_lite0", f"come with a package; {late}"
    print(f"backbone: {backbone} (its ImageNet weights {where})", flush=True)
    return backbone


def _config(out: Path, task: Task, dataset: Path, backbone: str, seed: int) -> FBCFrozenConfig:
    config = FBCFrozenConfig()
    config.experiment.name = "quickstart"
    config.experiment.rollout.enabled = False  # the last stage does them
    config.experiment.render_video = False
    config.experiment.epoch_every_n_steps = _STEPS_PER_EPOCH
    config.experiment.save.every_n_epochs = _EPOCHS
    config.experiment.rollout.horizon = task.horizon
    config.train.data = str(dataset.absolute())
    config.train.output_dir = str((out / "trained").absolute())
    config.train.num_epochs = _EPOCHS
    config.train.seed = seed
    config.observation.encoder.rgb.core_kwargs.update(rgb_model_name=backbone, **POSITIONS)
    return config
