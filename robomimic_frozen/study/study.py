"""Runs what a study has not run yet: training and rollouts of every configuration, number of demonstrations and seed."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robomimic.config.config import Config
from tqdm import tqdm

from robomimic_frozen.errors import RobomimicFrozenError
from robomimic_frozen.evaluation.evaluate import evaluate
from robomimic_frozen.files import sha256_of, sole_writer, write_json
from robomimic_frozen.preflight import check_dataset
from robomimic_frozen.study import provenance
from robomimic_frozen.study.demonstrations import filter_key, link_demonstrations
from robomimic_frozen.study.plan import Plan, Run
from robomimic_frozen.study.training import StudyError, calibrate, finished_training, train

MANIFEST, RESULT = "study.json", "result.json"


def run_study(plan: Plan, out: Path, workers: int) -> None:
    """Run what is missing in `out` of the plan's runs. A run that fails does not stop the others.

    `out/study.json` says what belongs to the study; `out/runs/<run>/result.json` is one run's. The name of a run changes with
    its config, code, packages, data and weights, so results of others stay beside it and count no more.

    Args:
        workers: processes that roll out.

    Raises:
        ConfigError, DatasetError, WeightsError: of the plan, before anything runs; or another study is writing to `out`.
        StudyError: runs failed.
    """
    with sole_writer(out, "study"):
        _Study(plan, out, workers).run()


class _Study:
    def __init__(self, plan: Plan, out: Path, workers: int) -> None:
        self.plan, self.out, self.workers = plan, out, workers
        self.environment = provenance.environment()
        self.configs = {each.name: each.load() for each in plan.configurations}
        obs_keys = {key for config in self.configs.values() for key in config.all_obs_keys}
        check_dataset(plan.dataset, obs_keys, [])
        self.weights = {name: provenance.weights_digest(config) for name, config in self.configs.items()}
        self.data = {"dataset": str(plan.dataset), "sha256": sha256_of(plan.dataset)}
        self.demonstrations = out / f"demonstrations-{provenance.fingerprint(self.data, plan.demos)}.hdf5"
        link_demonstrations(plan.dataset, plan.demos, self.demonstrations)

    def run(self) -> None:
        runs = list(self.plan.runs())
        self._write_manifest(runs)
        if self.plan.budget.seconds is not None:
            # All at once, so that the machine is in the same state for all of them.
            first = [run for run in runs if run.seed == self.plan.seeds[0]]
            self._each(first, "calibration", lambda run: calibrate(self._config(run), self._shared(run)))
        failures = self._each(runs, "run", self._finish)
        if failures:
            raise StudyError(f"{len(failures)} of {len(runs)} runs failed, first {failures[0]}")

    def _each(self, runs: list[Run], unit: str, do: Callable[[Run], None]) -> list[str]:
        """Do something with each run, whatever becomes of the others. Returns what went wrong."""
        failures = []
        with tqdm(runs, unit=unit) as bar:
            for run in bar:
                bar.set_postfix_str(_label(run))
                try:
                    do(run)
                except RobomimicFrozenError as error:
                    failures.append(f"{_label(run)}: {error}")
                    bar.write(failures[-1])
        return failures

    def _finish(self, run: Run) -> None:
        folder, plan = self._folder(run), self.plan
        evaluation = dataclasses.asdict(plan.evaluation)
        if (folder / RESULT).exists() and json.loads((folder / RESULT).read_text())["evaluation"] == evaluation:
            return
        training = finished_training(folder)
        if training is None:
            training = train(self._config(run), plan.budget, plan.checkpoints, folder, self._shared(run))
        files = [self.out / checkpoint.file for checkpoint in training.checkpoints]
        rolled_out = evaluate(
            files, plan.evaluation.episodes, plan.evaluation.horizon, self.workers, plan.evaluation.seed, folder / "evaluation", 0
        )
        checkpoints = [
            {**dataclasses.asdict(checkpoint), **dataclasses.asdict(summary), "checkpoint": checkpoint.file}
            for checkpoint, summary in zip(training.checkpoints, rolled_out, strict=True)
        ]
        result = {"configuration": run.configuration.name, "demos": run.demos, "seed": run.seed, "evaluation": evaluation}
        write_json(folder / RESULT, {**result, **dataclasses.asdict(training), "checkpoints": checkpoints})

    def _config(self, run: Run) -> Config:
        """What stock train.py gets, but for folders and lengths."""
        config = copy.deepcopy(self.configs[run.configuration.name])
        with config.values_unlocked():
            config.train.data = str(self.demonstrations.absolute())
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
        name = run.configuration.name
        return provenance.fingerprint(
            json.loads(self.configs[name].dump()), self.weights[name], self.data["sha256"], run.demos,
            dataclasses.asdict(self.plan.budget), self.environment["code_sha256"], self.environment["packages"], more,
        )

    def _write_manifest(self, runs: list[Run]) -> None:
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


def _label(run: Run) -> str:
    return f"{run.configuration.name}, {run.demos} demonstrations, seed {run.seed}"


def _slug(run: Run) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "_", run.configuration.name).strip("_").lower()
    return f"{name}-{run.demos}_demos"
