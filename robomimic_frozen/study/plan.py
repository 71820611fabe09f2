"""The study file: what is compared, on how many demonstrations, with which seeds, within which budget."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict, ValidationError, ValidationInfo, field_validator, model_validator
from robomimic.config.config import Config

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.integration.settings import load_config


def _in_folder_of_plan(path: Path, info: ValidationInfo) -> Path:
    return (info.context or Path()) / path.expanduser()


def _distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values or len(set(values)) != len(values):
        raise ValueError("give one or more, none twice")
    return values


FEWEST_STEPS_IN_AN_EPOCH: Final = 20

Whole = Annotated[int, Strict()]
Count = Annotated[int, Strict(), Field(ge=1)]
File = Annotated[Path, AfterValidator(_in_folder_of_plan)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Configuration(_Section):
    """One of those compared."""

    config: File
    set: dict[str, Any] = {}  # key.path -> value, changed in the config

    def load(self) -> Config:
        """Return its robomimic config. Raises ConfigError."""
        return load_config(str(self.config), None, None, [f"{path}={json.dumps(value)}" for path, value in self.set.items()])


class Budget(_Section):
    """What each training run may take: `seconds`, feature extraction included, or `steps` of gradients."""

    seconds: Annotated[float, Strict(), Field(gt=0)] | None = None
    steps: Count | None = None

    @model_validator(mode="after")
    def _check_that_one_is_given(self) -> Budget:
        if (self.seconds is None) == (self.steps is None):
            raise ValueError("a budget takes either seconds or steps")
        return self


class Evaluation(_Section):
    """Rollouts of each checkpoint; all checkpoints meet the same initial states."""

    episodes: Count = 50  # of each checkpoint
    horizon: Count | None = None  # steps after which an episode has failed; None for what each config says
    seed: Whole = 0  # of the first episode; the next has the next


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of a study."""

    name: str
    configuration: Configuration
    demos: int
    seed: int

    @property
    def label(self) -> str:
        """Return what people call it."""
        return f"{self.name}, {self.demos} demonstrations, seed {self.seed}"


class Plan(_Section):
    """A study file, read."""

    title: str
    dataset: File
    task: str | None = None  # that the dataset has to be of; None for any
    configurations: Annotated[dict[str, Configuration], Field(min_length=1)]  # by their names in tables and figures
    demos: Annotated[tuple[Count, ...], AfterValidator(_distinct)]  # numbers to train on; smaller sets are part of larger ones
    filter_keys: tuple[str, ...] = ()  # whose demos these are drawn from; none for 'train', or all where that is not
    seeds: Annotated[tuple[Whole, ...], AfterValidator(_distinct)]  # of training
    budget: Budget
    evaluation: Evaluation = Evaluation()
    checkpoints: Count | tuple[Count, ...] = 1  # saved in the course of a run, the last one at its end: how many, or after which steps

    @field_validator("checkpoints")
    @classmethod
    def _check_that_they_end_with_the_run(cls, steps: int | tuple[int, ...], info: ValidationInfo) -> int | tuple[int, ...]:
        if "budget" not in info.data:
            return steps
        if isinstance(steps, int):
            if steps > (info.data["budget"].steps or steps):
                raise ValueError("a checkpoint takes a step at least; choose budget.steps or less")
        else:
            if list(steps) != sorted(set(steps)) or steps[-1:] != (info.data["budget"].steps,):
                raise ValueError("numbers of steps rise, and end with budget.steps")
            if math.gcd(*steps) < FEWEST_STEPS_IN_AN_EPOCH:
                raise ValueError(f"choose multiples of one number from {FEWEST_STEPS_IN_AN_EPOCH} on, which will be the steps of an epoch")
        return steps

    def runs(self) -> Iterator[Run]:
        """Yield all runs, seed by seed, so that a study cut short has the same seeds of every configuration."""
        for seed, demos, (name, configuration) in itertools.product(self.seeds, self.demos, self.configurations.items()):
            yield Run(name, configuration, demos, seed)


def read_plan(path: Path) -> Plan:
    """Return the plan in a YAML or JSON file; paths in it are relative to its folder.

    Raises:
        ConfigError: the file cannot be read, has an unknown key (the nearest valid one is named), or lacks something.
    """
    try:
        return Plan.model_validate(yaml.safe_load(path.read_text()), context=path.parent)
    except OSError as error:
        raise ConfigError(f"study {path} cannot be read: {error.strerror}; correct the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"study {path} is neither YAML nor JSON ({' '.join(str(error).split())}); correct it") from error
    except ValidationError as error:
        raise ConfigError(f"study {path}: {_in_words(error)}; correct it") from error


_SECTIONS: Final[dict[str, type[_Section]]] = {"configurations": Configuration, "budget": Budget, "evaluation": Evaluation}
_MESSAGES: Final = {
    "missing": "{parent} lacks {key!r}",
    "extra_forbidden": "unknown key {key!r} in {parent}; the nearest one is {nearest!r}",
    "int_type": "{where} is {value!r}; choose a whole number",
    "greater_than_equal": "{where} is {value!r}; choose a whole number from {ge} on",
    "greater_than": "{where} is {value!r}; choose a number above {gt:g}",
    "value_error": "{where} is {value!r}; {error}",
    **dict.fromkeys(("model_type", "dict_type", "too_short"), "{where} is {value!r}, where key: value pairs belong"),
}


def _in_words(error: ValidationError) -> str:
    """Return what is wrong first; a misspelt key comes before the one that is missing for it."""
    first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    # A value may be one of several types, which pydantic names there.
    *parents, key = [part for part in first["loc"] if not str(part).startswith(("constrained-", "tuple["))] or ("the file",)
    parent = ".".join(map(str, parents))
    known = _SECTIONS.get(parent.partition(".")[0], Plan).model_fields
    return _MESSAGES.get(first["type"], "{where} is {value!r}; {reason}").format(
        key=key,
        parent=parent or "the file",
        where=f"{parent}[{key}]" if isinstance(key, int) else f"{parent}.{key}".lstrip("."),
        nearest=(difflib.get_close_matches(str(key), known, n=1, cutoff=0.3) or list(known))[0],
        value=first["input"],
        reason=first["msg"],
        **first.get("ctx", {}),
    )
