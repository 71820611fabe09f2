"""The table of keys: which feature of a LeRobot dataset is which array of a robomimic demo, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from robomimic_frozen.errors import ConfigError, did_you_mean

MARKS: Final = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Features that every LeRobot dataset has, and that tell which frame it is."""
_OF_DEMOS: Final = {"action": "actions", "next.reward": "rewards", "next.done": "dones"}
_NOT_OBSERVED: Final = (*_OF_DEMOS.values(), "actions_abs")
_OBS, _CAMERAS, _IMAGE = "observation.", "observation.images.", "_image"
# What LeRobot's policies take as the state of the robot, and of what is around it.
_STATE: Final = re.compile(r"robot\d+_(eef_pos|eef_quat|gripper_qpos)")
_NAMES: Final = {"object": "environment_state"}

Overrides = Mapping[str, Sequence[str]]
"""feature -> keys, as the user says; none leaves the feature out"""


@dataclass(frozen=True)
class Column:
    """What of a feature goes to an array of a demo: numbers `start` to `stop` of a vector, or all of it if that is None."""

    feature: str
    path: str
    start: int = 0
    stop: int | None = None


def parse_overrides(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return what `--map FEATURE=KEY+KEY` says. Raises ConfigError if it is written otherwise, or says two things of a feature."""
    overrides: dict[str, tuple[str, ...]] = {}
    for word in words:
        feature, equals, keys = word.partition("=")
        if not feature or not equals or feature in MARKS or "/" in word or (keys and not all(keys.split("+"))):
            raise ConfigError(f"--map {word} is not understood; write FEATURE=KEY, FEATURE=KEY+KEY to join, or FEATURE= to leave it out")
        if feature in overrides:
            raise ConfigError(f"--map says two things of {feature}; join keys with FEATURE=KEY+KEY")
        overrides[feature] = tuple(keys.split("+")) if keys else ()
    return overrides


def path_of(key: str) -> str:
    """Return where in a demo the array of a key is: an observation, unless it is actions, rewards, dones or actions_abs."""
    return key if key in _NOT_OBSERVED else f"obs/{key}"


def columns_of(features: Mapping[str, Mapping[str, Any]], overrides: Overrides) -> list[Column]:
    """Return where the features of a LeRobot dataset go.

    Args:
        features: of its info.json, which have `names`; those that tell which frame it is are passed over.

    Raises:
        ConfigError: a feature goes nowhere, two go to one array, none is the actions, or the overrides name one that is not there.
    """
    if unknown := sorted(overrides.keys() - features.keys()):
        raise ConfigError(f"--map names {unknown[0]}, which the set does not have; {_choice(unknown[0], features)}")
    columns: dict[str, Column] = {}
    for feature, settings in features.items():
        for column in [] if feature in MARKS else _columns(feature, settings, overrides.get(feature)):
            if (other := columns.setdefault(column.path, column)) is not column:
                what = f"{other.feature} and {feature} are both {column.path.removeprefix('obs/')}"
                raise ConfigError(f"{what} of a demo; give one another key (--map {feature}=KEY), or leave it out (--map {feature}=)")
    if "actions" not in columns:
        raise ConfigError("no feature is the actions of a demo; say which is: --map FEATURE=actions")
    return list(columns.values())


def _columns(feature: str, settings: Mapping[str, Any], keys: Sequence[str] | None) -> list[Column]:
    if keys is not None:
        if len(keys) > 1:
            raise ConfigError(f"--map {feature}={'+'.join(keys)} joins keys, which only writing a LeRobot dataset does; name one key")
        return [Column(feature, path_of(key)) for key in keys]
    if feature in _OF_DEMOS:
        return [Column(feature, _OF_DEMOS[feature])]
    if not feature.startswith(_OBS):
        raise ConfigError(f"{feature} is nothing that a demo has; give it a key (--map {feature}=KEY), or leave it out (--map {feature}=)")
    if parts := _parts(settings.get("names"), settings["shape"]):
        return [Column(feature, path_of(key), start, stop) for key, start, stop in parts]
    if feature.startswith(_CAMERAS):
        return [Column(feature, path_of(_plain(feature.removeprefix(_CAMERAS)) + _IMAGE))]
    return [Column(feature, path_of(_plain(feature.removeprefix(_OBS))))]


def _parts(names: Any, shape: Sequence[int]) -> list[tuple[str, int, int]]:
    """Return (key, start, stop) where the names of a vector are those that `names_of` gives, and nothing of others."""
    if not isinstance(names, list) or [len(names)] != list(shape):
        return []
    found = [re.fullmatch(r"(\w+)\.(\d+)", name) for name in names if isinstance(name, str)]
    pairs = [(match[1], int(match[2])) for match in found if match is not None]
    runs = [(key, [number for _, number in run]) for key, run in groupby(pairs, key=lambda pair: pair[0])]
    parts: list[tuple[str, int, int]] = []
    for key, numbers in runs:
        start = parts[-1][2] if parts else 0
        parts.append((key, start, start + len(numbers)))
    whole = len(pairs) == len(names) and all(numbers == list(range(len(numbers))) for _, numbers in runs)
    return parts if whole else []


def names_of(keys: Iterable[tuple[str, int]]) -> list[str]:
    """Return the names of the numbers in a vector that joins keys, each of so many numbers."""
    return [f"{key}.{index}" for key, width in keys for index in range(width)]


def features_of(observations: Iterable[str], images: Iterable[str], others: Iterable[str], overrides: Overrides) -> dict[str, list[str]]:
    """Return the features that a demo is written as: name -> its keys, which are joined in this order.

    Args:
        observations: keys of observations, of which those in `images` are images.
        others: which of actions, rewards, dones and actions_abs there are.

    Raises:
        ConfigError: the overrides name a key that is not there or two features for one, or no feature is the action.
    """
    known, images = [*observations, *others], set(images)
    defaults: dict[str, list[str]] = {}
    for key in sorted(observations, key=_place):
        defaults.setdefault(_feature_of(key, key in images), []).append(key)
    defaults |= {feature: [key] for feature, key in _OF_DEMOS.items() if key in known}
    taken: dict[str, str] = {}
    for feature, keys in overrides.items():
        if not keys and feature not in defaults:
            raise ConfigError(f"--map {feature}= leaves out what is not there; {_choice(feature, defaults)}")
        for key in keys:
            if key not in known:
                raise ConfigError(f"--map {feature} names {key}, which the demos do not have; {_choice(key, known)}")
            if (other := taken.setdefault(key, feature)) != feature:
                raise ConfigError(f"--map puts {key} into {other} and {feature}; choose one")
    result = {feature: [key for key in keys if key not in taken] for feature, keys in defaults.items() if feature not in overrides}
    result |= {feature: list(keys) for feature, keys in overrides.items()}
    if not result.get("action"):
        raise ConfigError("no feature is called action, which every LeRobot dataset has; say what is: --map action=KEY")
    return {feature: keys for feature, keys in result.items() if keys}


def _feature_of(key: str, is_image: bool) -> str:
    if is_image and key.endswith(_IMAGE):
        return _CAMERAS + key.removesuffix(_IMAGE)
    return _OBS + ("state" if _STATE.fullmatch(key) else _NAMES.get(key, key))


def _place(key: str) -> tuple[int, str]:
    """Sort the positions of each robot before its rotations, and those before its gripper, as everything by its name."""
    return (0 if _STATE.fullmatch(key) else 1, key)


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _choice(name: str, known: Iterable[str]) -> str:
    known = [each for each in known if each not in MARKS]
    return did_you_mean(name, known, f"choose from {', '.join(known)}")
