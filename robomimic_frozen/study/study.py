"""Runs what a study has not run yet: training and rollouts of every configuration, number of demonstrations and seed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from robomimic.config.config import Config
from tqdm import tqdm

from robomimic_frozen.config import Selection
from robomimic_frozen.encoders.core import FrozenResNetCore
from robomimic_frozen.encoders.spec import EncoderSpec, settings_in
from robomimic_frozen.errors import ConfigError, DatasetError, RobomimicFrozenError
from robomimic_frozen.evaluation.evaluate import evaluate, require_results
from robomimic_frozen.features.source import check_dataset, demos_in
from robomimic_frozen.integration.checks import needs_of
from robomimic_frozen.integration.registration import register
from robomimic_frozen.simulation.environments import environment_of
from robomimic_frozen.simulation.tasks import Task, get_task
from robomimic_frozen.study.plan import Plan, Run
from robomimic_frozen.study.training import StudyError, steps_within, train
from robomimic_frozen.utils import hdf5
from robomimic_frozen.utils.files import atomic_write, exclusive_lock, fingerprint, sha256_of, write_json
from robomimic_frozen.utils.machine import PACKAGES, code_version, installed_version, processor
from robomimic_frozen.utils.parallel import Executor, Processes, retrying_map

MANIFEST, RESULT = "study.json", "result.json"
_SHUFFLE_SEED: Final = 0


def run_study(plan: Plan, out: Path, executor: Executor, rollout_workers: int, only: str = "") -> None:
    """Run what is missing in `out` of the plan's runs. A run that fails does not stop the others, but in calibration it does.

    `out/study.json` says what belongs to the study; `out/runs/<run>/result.json` is one run's. The name of a run changes with
    its config, code, packages, data and weights, so results of others stay beside it and count no more.

    Args:
        executor: of the runs, as many at once as it has workers; those read and write the same folders as this process.
        rollout_workers: processes that roll out, of each run.
        only: run those whose label contains this.

    Raises:
        ConfigError, DatasetError, WeightsError: of the plan, before anything runs; or another study is writing to `out`.
        StudyError: runs failed.
    """
    with exclusive_lock(out, "study"):
        runs = list(plan.runs())
        chosen = [run for run in runs if only in run.label]
        if not chosen:
            raise ConfigError(f"no run of the study has {only!r} in its name; the first is {runs[0].label!r}")
        study = _prepare(plan, out.absolute(), rollout_workers)
        write_json(out / MANIFEST, {**study.manifest, "runs": [study.folder(run).name for run in runs]})
        if plan.budget.seconds is not None:
            # All at once, so that the machine is in the same state for all of them.
            seedless = {(run.name, run.demos): run for run in chosen}
            _each(study.calibrate, list(seedless.values()), f"{plan.title}: calibration", executor)
        _each(study.finish, chosen, plan.title, executor)


def _each(do: Callable[[Run], None], runs: Sequence[Run], title: str, executor: Executor) -> None:
    """Do something with each run, whatever becomes of the others. A line on stderr tells of each. Raises StudyError if some failed."""
    failures: list[str] = []
    starts: dict[int, float] = {}
    with tqdm(total=len(runs), desc=title, unit="run") as bar:

        def started(number: int) -> None:
            starts[number] = time.monotonic()
            bar.write(f"{runs[number].label}: started", sys.stderr)

        with contextlib.closing(retrying_map(functools.partial(_attempt, do), runs, executor, on_start=started)) as results:
            for number, result in results:
                failure = f"{type(result).__name__}: {result}" if isinstance(result, Exception) else result
                if failure is not None:
                    failures.append(f"{runs[number].label}: {failure}")
                bar.update()
                outcome = f"done ({time.monotonic() - starts[number]:.0f} s)" if failure is None else f"failed ({failure})"
                bar.write(f"[{bar.n} of {len(runs)}] {runs[number].label}: {outcome}", sys.stderr)
    if failures:
        raise StudyError(f"{len(failures)} of {len(runs)} runs failed, first {failures[0]}")


def _attempt(do: Callable[[Run], None], run: Run) -> str | None:
    """Return, in a worker, what went wrong with a run."""
    register()
    try:
        do(run)
    except RobomimicFrozenError as error:
        return str(error)
    return None


def _prepare(plan: Plan, out: Path, rollout_workers: int) -> _Study:
    """Look at all that the runs need, and make a dataset for them."""
    if plan.task is not None:
        _check_task(plan.dataset, get_task(plan.task))
    configs = {name: each.load() for name, each in plan.configurations.items()}
    for key, config in itertools.product(_drawn_from(plan), configs.values()):
        check_dataset(Selection(str(plan.dataset), key), needs_of(config))
    manifest = {
        "plan": plan.model_dump(mode="json"),
        "environment": {
            "code": code_version(),
            "packages": {name: installed_version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "processor": processor(),
            "cores": os.cpu_count(),
        },
        "data": {"dataset": str(plan.dataset), "sha256": sha256_of(plan.dataset)},
        "weights_sha256": {name: _weights_digest(config) for name, config in configs.items()},
    }
    study = _Study(plan, out, rollout_workers, manifest)
    link_demonstrations(plan, study.demonstrations)
    return study


def _check_task(dataset: Path, task: Task) -> None:
    """Raise DatasetError for a dataset of another task, and MalformedError for one that does not say of which."""
    with hdf5.opened(dataset) as file:
        recorded = environment_of(file).get("env_name")
    if recorded != task.env_name:
        raise DatasetError(f"dataset {dataset} is of {recorded}, and the study's task is {task.name} ({task.env_name}); correct either")


def _weights_digest(config: Config) -> str | None:
    """Return the sha256 of the weights the image encoder starts from; None where its seed or another core decides. Raises WeightsError."""
    encoder = config.observation.encoder.rgb
    settings = settings_in(encoder.core_kwargs)
    drawn = any(not each.get("pretrained_encoder", True) and each.get("freeze_encoder", True) is not True for each in settings)
    if drawn or encoder.core_class != FrozenResNetCore.__name__:
        return None
    depends_on = ("rgb_model_name", "pretrained_encoder", "weights", "use_group_norm")
    specs = [EncoderSpec(**{name: each[name] for name in depends_on if name in each}) for each in settings]
    digests = [spec.build().frozen_sha256() for spec in specs]  # of all stages, frozen or not
    return digests[0] if len(digests) == 1 else fingerprint(*digests)


def filter_key(num_demos: int) -> str:
    """Return the name of so many demos in the dataset that `link_demonstrations` writes."""
    return f"{num_demos}_demos"


def _drawn_from(plan: Plan) -> Sequence[str | None]:
    """Return the filter keys that a study draws its demos from; None for all demos."""
    with hdf5.opened(plan.dataset) as source:
        return plan.filter_keys or ("train" if "mask/train" in source else None,)


def link_demonstrations(plan: Plan, path: Path) -> None:
    """Write a dataset to `path` whose demos are links into that of a plan, with filter keys for the plan's numbers of them.

    It copies nothing. The smaller sets are part of the larger ones. Raises DatasetError if there are too few.
    """
    dataset, numbers = plan.dataset, plan.demos
    names = list(dict.fromkeys(name for key in _drawn_from(plan) for name in demos_in(dataset, key)))
    with hdf5.opened(dataset) as source:
        if max(numbers) > len(names):
            where = f" under {', '.join(plan.filter_keys)}" if plan.filter_keys else " for training"
            raise DatasetError(f"dataset {dataset} has {len(names)} demonstrations{where}; the study asks for {max(numbers)}")
        shuffled = np.random.default_rng(_SHUFFLE_SEED).permutation(names)
        with atomic_write(path) as beside, h5py.File(beside, "w") as file:
            data = file.create_group("data")
            data.attrs.update(source["data"].attrs)
            for name in source["data"]:
                data[name] = h5py.ExternalLink(str(dataset.absolute()), f"/data/{name}")
            for number in numbers:
                file[f"mask/{filter_key(number)}"] = np.array(sorted(shuffled[:number]), dtype="S")


@dataclasses.dataclass(frozen=True)
class _Study:
    """What a worker knows of a study."""

    plan: Plan
    out: Path
    rollout_workers: int
    manifest: dict[str, Any]  # the plan and what its runs depend on besides

    @property
    def demonstrations(self) -> Path:
        return self.out / f"demonstrations-{fingerprint(self.manifest['data'], self.plan.demos, *self.plan.filter_keys)[:12]}.hdf5"

    def calibrate(self, run: Run) -> None:
        assert isinstance(self.plan.checkpoints, int)  # a list of steps comes with a budget in steps
        steps_within(self.plan.budget, self._config(run), self.plan.checkpoints, self._shared(run))

    def finish(self, run: Run) -> None:
        folder, plan = self.folder(run), self.plan
        evaluation = plan.evaluation.model_dump()
        if (folder / RESULT).exists() and json.loads((folder / RESULT).read_text())["evaluation"] == evaluation:
            return
        training = train(self._config(run), plan.budget, plan.checkpoints, folder, self._shared(run))
        rolled_out = evaluate(
            [self.out / checkpoint.file for checkpoint in training.checkpoints], plan.evaluation.episodes, plan.evaluation.horizon,
            Processes(self.rollout_workers), plan.evaluation.seed, folder / "evaluation", num_videos=0, progress=False,
        )
        require_results(rolled_out, folder / "evaluation")
        checkpoints = [
            {
                **checkpoint.model_dump(), **dataclasses.asdict(summary), "checkpoint": checkpoint.file,
                "sha256": sha256_of(self.out / checkpoint.file),
            }
            for checkpoint, summary in zip(training.checkpoints, rolled_out, strict=True)
        ]
        result = {"configuration": run.name, "demos": run.demos, "seed": run.seed, "evaluation": evaluation}
        write_json(folder / RESULT, {**result, **training.model_dump(), "checkpoints": checkpoints})

    def _config(self, run: Run) -> Config:
        """Return what stock train.py gets, but for folders and lengths."""
        config = run.configuration.load()
        with config.values_unlocked():
            config.train.data = str(self.demonstrations)
            config.train.hdf5_filter_key = filter_key(run.demos)
            config.train.seed = run.seed
            experiment = config.experiment
            experiment.name = "training"
            experiment.validate = experiment.render_video = experiment.rollout.enabled = False
            experiment.logging.log_tb = True
            experiment.save.every_n_seconds = None
            experiment.save.on_best_rollout_success_rate = experiment.save.on_best_rollout_return = False
        return config

    def folder(self, run: Run) -> Path:
        return self.out / "runs" / self._name(run, f"-seed_{run.seed}", {"seed": run.seed, "checkpoints": self.plan.checkpoints})

    def _shared(self, run: Run) -> Path:
        return self.out / "shared" / self._name(run, "", {})

    def _name(self, run: Run, end: str, more: dict[str, Any]) -> str:
        slug = re.sub(r"[^A-Za-z0-9]+", "_", run.name).strip("_").lower()
        environment, data, weights = (self.manifest[part] for part in ("environment", "data", "weights_sha256"))
        depends_on = fingerprint(
            json.loads(run.configuration.load().dump()), weights[run.name], data["sha256"], run.demos, *self.plan.filter_keys,
            self.plan.budget.model_dump(), environment["code"], environment["packages"], more,
        )
        return f"{slug}-{run.demos}_demos{end}-{depends_on[:12]}"
