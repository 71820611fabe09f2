"""The study file: what is compared, on how many demonstrations, with which seeds, within which budget."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from robomimic.config.config import Config

from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.launch import load_config


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One of those compared.

    Attributes:
        name: in tables and figures.
        config: robomimic config file.
        set: key.path -> value, changed in it.
    """

    name: str
    config: Path
    set: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def load(self) -> Config:
        """Its robomimic config. Raises ConfigError."""
        return load_config(str(self.config), None, None, [f"{path}={json.dumps(value)}" for path, value in self.set.items()])


@dataclasses.dataclass(frozen=True)
class Budget:
    """Of each training run: as many gradient steps as fit into `seconds`, feature extraction included, or `steps` of them."""

    seconds: float | None = None
    steps: int | None = None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Rollouts of each checkpoint; all checkpoints meet the same initial states.

    Attributes:
        episodes: of each checkpoint.
        horizon: steps of the environment after which an episode has failed.
        seed: of the first episode; the next has the next.
    """

    episodes: int = 50
    horizon: int = 200
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study."""

    configuration: Configuration
    demos: int
    seed: int

    @property
    def label(self) -> str:
        """For people to read."""
        return f"{self.configuration.name}, {self.demos} demonstrations, seed {self.seed}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A study file, read.

    Attributes:
        title: heading of the report.
        dataset: robomimic dataset.
        configurations: by name.
        demos: numbers of demonstrations to train on. The smaller sets are part of the larger ones.
        seeds: of training.
        budget: of each run.
        evaluation: of its checkpoints.
        checkpoints: how many are saved in the course of a run, the last one at its end.
    """

    title: str
    dataset: Path
    configurations: tuple[Configuration, ...]
    demos: tuple[int, ...]
    seeds: tuple[int, ...]
    budget: Budget
    evaluation: Evaluation
    checkpoints: int = 1

    def runs(self) -> Iterator[Run]:
        """All, seed by seed, so that a study cut short has the same seeds of every configuration."""
        for seed in self.seeds:
            for demos in self.demos:
                for configuration in self.configurations:
                    yield Run(configuration, demos, seed)


def read_plan(path: Path) -> Plan:
    """The plan in a YAML or JSON file; paths in it are relative to its folder.

    Raises:
        ConfigError: the file cannot be read, has an unknown key (the nearest valid one is named), or lacks something.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"study {path} cannot be read: {error.strerror}; correct the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"study {path} is neither YAML nor JSON ({' '.join(str(error).split())}); correct it") from error
    try:
        return _plan(content, path.parent)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"study {path}: {first_line(error)}; correct it") from error


def _plan(content: Any, folder: Path) -> Plan:
    content, configurations = _mapping(content, "the file"), []
    for name, settings in _mapping(content.get("configurations"), "configurations").items():
        configuration = _made(Configuration, {"name": str(name), **_mapping(settings, name)}, f"configurations.{name}")
        configurations.append(dataclasses.replace(configuration, config=folder / configuration.config))
    plan = _made(
        Plan,
        {
            **content,
            "configurations": tuple(configurations),
            "dataset": folder / Path(str(content.get("dataset", ""))).expanduser(),
            "demos": tuple(content.get("demos", ())),
            "seeds": tuple(content.get("seeds", ())),
            "budget": _made(Budget, _mapping(content.get("budget"), "budget"), "budget"),
            "evaluation": _made(Evaluation, _mapping(content.get("evaluation", {}), "evaluation"), "evaluation"),
        },
        "the file",
    )
    _check_numbers(plan)
    return plan


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not (value or where == "evaluation"):
        raise ValueError(f"{where} is {json.dumps(value)}, where key: value pairs belong")
    return value


def _made(kind: type, values: Mapping[str, Any], where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.3) or list(fields)
            raise ValueError(f"unknown key {key!r} in {where}; the nearest one is {close[0]!r}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where} lacks {name!r}")
    return kind(**values)


def _check_numbers(plan: Plan) -> None:
    budget, evaluation = plan.budget, plan.evaluation
    if (budget.seconds is None) == (budget.steps is None):
        raise ValueError("budget takes either seconds or steps")
    counts = {"checkpoints": plan.checkpoints, "evaluation.episodes": evaluation.episodes, "evaluation.horizon": evaluation.horizon}
    counts |= {f"demos[{index}]": number for index, number in enumerate(plan.demos)}
    if budget.steps is not None:
        counts["budget.steps"] = budget.steps
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; choose a whole number from 1 on")
    if budget.seconds is not None and not (isinstance(budget.seconds, (int, float)) and budget.seconds > 0):
        raise ValueError(f"budget.seconds is {budget.seconds!r}; choose a number above 0")
    for name, values in (("demos", plan.demos), ("seeds", plan.seeds)):
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{name} is {list(values)}; give one or more, none twice")
    if not all(isinstance(seed, int) for seed in (*plan.seeds, evaluation.seed)):
        raise ValueError("seeds are whole numbers")
