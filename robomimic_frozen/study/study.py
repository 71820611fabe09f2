"""Runs what a study has not run yet: training and rollouts of every configuration, number of demonstrations and seed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from robomimic.config.config import Config

from robomimic_frozen.errors import RobomimicFrozenError
from robomimic_frozen.evaluation.evaluate import evaluate
from robomimic_frozen.executors.executor import Executor, surviving_map
from robomimic_frozen.executors.processes import Processes
from robomimic_frozen.files import sha256_of, sole_writer, write_json
from robomimic_frozen.preflight import check_dataset
from robomimic_frozen.study import provenance
from robomimic_frozen.study.demonstrations import filter_key, link_demonstrations
from robomimic_frozen.study.plan import Plan, Run
from robomimic_frozen.study.progress import ProgressTable
from robomimic_frozen.study.training import StudyError, calibrate, finished_training, train

MANIFEST, RESULT = "study.json", "result.json"


def run_study(plan: Plan, out: Path, executor: Executor, rollout_workers: int) -> None:
    """Run what is missing in `out` of the plan's runs. A run that fails does not stop the others.

    `out/study.json` says what belongs to the study; `out/runs/<run>/result.json` is one run's. The name of a run changes with
    its config, code, packages, data and weights, so results of others stay beside it and count no more.

    Args:
        executor: of the runs, as many at once as it has workers; those read and write the same folders as this process.
        rollout_workers: processes that roll out, of each run.

    Raises:
        ConfigError, DatasetError, WeightsError: of the plan, before anything runs; or another study is writing to `out`.
        StudyError: runs failed.
    """
    with sole_writer(out, "study"):
        runs = list(plan.runs())
        study = _prepare(plan, out.absolute(), rollout_workers)
        study.write_manifest(runs)
        if plan.budget.seconds is not None:
            # All at once, so that the machine is in the same state for all of them.
            _each(study.calibrate, [run for run in runs if run.seed == plan.seeds[0]], f"{plan.title}: calibration", executor)
        failures = _each(study.finish, runs, plan.title, executor)
        if failures:
            raise StudyError(f"{len(failures)} of {len(runs)} runs failed, first {failures[0]}")


def _each(do: Callable[[Run], None], runs: Sequence[Run], title: str, executor: Executor) -> list[str]:
    """Do something with each run, whatever becomes of the others. Returns what went wrong."""
    failures = []
    with ProgressTable(title, runs) as table:
        build = functools.partial(_make_step, do, runs)
        with contextlib.closing(surviving_map(build, len(runs), executor, on_start=table.started)) as results:
            for number, result in results:
                failure = f"{type(result).__name__}: {result}" if isinstance(result, Exception) else result
                table.ended(number, failure)
                if failure is not None:
                    failures.append(f"{runs[number].label}: {failure}")
    return failures


def _make_step(do: Callable[[Run], None], runs: Sequence[Run]) -> Callable[[int], str | None]:
    """In a worker: number of a run -> what went wrong with it."""
    from robomimic_frozen.plugins import register

    register()

    def step(number: int) -> str | None:
        try:
            do(runs[number])
        except RobomimicFrozenError as error:
            return str(error)
        return None

    return step


def _prepare(plan: Plan, out: Path, rollout_workers: int) -> _Study:
    """Look at all that the runs need, and make a dataset for them."""
    configs = {each.name: each.load() for each in plan.configurations}
    check_dataset(plan.dataset, {key for config in configs.values() for key in config.all_obs_keys}, [])
    weights = {name: provenance.weights_digest(config) for name, config in configs.items()}
    data = {"dataset": str(plan.dataset), "sha256": sha256_of(plan.dataset)}
    study = _Study(plan, out, rollout_workers, provenance.environment(), weights, data)
    link_demonstrations(plan.dataset, plan.demos, study.demonstrations)
    return study


@dataclasses.dataclass(frozen=True)
class _Study:
    """What a worker knows of a study."""

    plan: Plan
    out: Path
    rollout_workers: int
    environment: dict[str, Any]
    weights: dict[str, str | None]
    data: dict[str, str]

    @property
    def demonstrations(self) -> Path:
        return self.out / f"demonstrations-{provenance.fingerprint(self.data, self.plan.demos)}.hdf5"

    def calibrate(self, run: Run) -> None:
        calibrate(self._config(run), self._shared(run))

    def finish(self, run: Run) -> None:
        folder, plan = self._folder(run), self.plan
        evaluation = dataclasses.asdict(plan.evaluation)
        if (folder / RESULT).exists() and json.loads((folder / RESULT).read_text())["evaluation"] == evaluation:
            return
        training = finished_training(folder)
        if training is None:
            training = train(self._config(run), plan.budget, plan.checkpoints, folder, self._shared(run))
        rolled_out = evaluate(
            [self.out / checkpoint.file for checkpoint in training.checkpoints], plan.evaluation.episodes, plan.evaluation.horizon,
            Processes(self.rollout_workers), plan.evaluation.seed, folder / "evaluation", num_videos=0, progress=False,
        )
        checkpoints = [
            {**dataclasses.asdict(checkpoint), **dataclasses.asdict(summary), "checkpoint": checkpoint.file}
            for checkpoint, summary in zip(training.checkpoints, rolled_out, strict=True)
        ]
        result = {"configuration": run.configuration.name, "demos": run.demos, "seed": run.seed, "evaluation": evaluation}
        write_json(folder / RESULT, {**result, **dataclasses.asdict(training), "checkpoints": checkpoints})

    def _config(self, run: Run) -> Config:
        """What stock train.py gets, but for folders and lengths."""
        config = run.configuration.load()
        with config.values_unlocked():
            config.train.data = str(self.demonstrations)
            config.train.hdf5_filter_key = filter_key(run.demos)
            config.train.seed = run.seed
            experiment = config.experiment
            experiment.name = "training"
            experiment.validate = experiment.render_video = experiment.rollout.enabled = False
            experiment.logging.log_tb = True
            experiment.save.every_n_seconds, experiment.save.epochs = None, []
            experiment.save.on_best_rollout_success_rate = experiment.save.on_best_rollout_return = False
        return config

    def _folder(self, run: Run) -> Path:
        depends_on = self._depends_on(run, {"seed": run.seed, "checkpoints": self.plan.checkpoints})
        return self.out / "runs" / f"{_slug(run)}-seed_{run.seed}-{depends_on}"

    def _shared(self, run: Run) -> Path:
        return self.out / "shared" / f"{_slug(run)}-{self._depends_on(run, {})}"

    def _depends_on(self, run: Run, more: Mapping[str, Any]) -> str:
        return provenance.fingerprint(
            json.loads(run.configuration.load().dump()), self.weights[run.configuration.name], self.data["sha256"], run.demos,
            dataclasses.asdict(self.plan.budget), self.environment["code_sha256"], self.environment["packages"], more,
        )

    def write_manifest(self, runs: Sequence[Run]) -> None:
        plan = dataclasses.asdict(self.plan)
        write_json(
            self.out / MANIFEST,
            {
                "plan": json.loads(json.dumps(plan, default=str)),
                "environment": self.environment,
                "data": self.data,
                "weights_sha256": self.weights,
                "runs": [self._folder(run).name for run in runs],
            },
        )


def _slug(run: Run) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", run.configuration.name).strip("_").lower()
    return f"{name}-{run.demos}_demos"
