"""Typed changes to a robomimic config: of a config file, and of `--set KEY.PATH=VALUE`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from robomimic.config.config import Config

from robomimic_frozen.errors import ConfigError


def check_settings(config: Config, settings: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Raise ConfigError for a setting of another type than the one `config` has; robomimic itself takes any.

    Args:
        settings: nested, as in a config file. What `config` does not have is passed over.
        where: begins the message.
        prefix: path of the section that `config` is.
    """
    for key in settings.keys() & config.keys():
        old, new = config[key], settings[key]
        if isinstance(old, Config) and isinstance(new, Mapping):
            check_settings(old, new, where, f"{prefix}{key}.")
        elif isinstance(old, Config):
            raise ConfigError(f"{where}: {prefix}{key} is a section, not {json.dumps(new)}; correct or remove it")
        else:
            _check_type(f"{where}: {prefix}{key}", old, new)


def apply_overrides(config: Config, assignments: Iterable[str]) -> None:
    """Carry out each `key.path=value` on `config`. Values are JSON; what is not JSON is a string.

    Raises:
        ConfigError: no `=`, an unknown key (the nearest valid one is named), or a value of another type.
    """
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}: write it as KEY.PATH=VALUE, for example algo.horizon=16")
        _assign(config, path.strip(), _parse(text))


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _assign(config: Config, path: str, value: Any) -> None:
    *parents, key = path.split(".")
    section = config
    for parent in parents:
        if not isinstance(section, Config) or parent not in section:
            raise _unknown(config, path)
        section = section[parent]
    if not isinstance(section, Config) or (key not in section and section.key_lockable):
        raise _unknown(config, path)
    if key in section:
        if isinstance(section[key], Config):
            example = next(iter(section[key]), "KEY")
            raise ConfigError(f"--set {path}: this is a section; set one of its keys, for example {path}.{example}")
        _check_type(f"--set {path}", section[key], value)
    with config.unlocked():
        section[key] = value


def _check_type(path: str, old: Any, new: Any) -> None:
    if old is None or new is None:
        return  # None stands for "off" or "not given" and says nothing about the type
    if path.endswith(".freeze_encoder") and isinstance(new, str):
        return  # the name of a stage, in the place of true or false
    if isinstance(old, (list, tuple)):
        allowed: tuple[type, ...] = (list,)
    elif isinstance(old, float):
        allowed = (int, float)
    else:
        allowed = (type(old),)
    # bool is an int to Python, never to the person who wrote the config
    if not isinstance(new, allowed) or isinstance(new, bool) != isinstance(old, bool):
        expected = "list" if allowed == (list,) else type(old).__name__
        raise ConfigError(
            f"{path}={json.dumps(new)}: this key takes a {expected} (it is {json.dumps(old)}), "
            f"not a {type(new).__name__}"
        )


def _unknown(config: Config, path: str) -> ConfigError:
    keys = list(_leaf_paths(config))
    last = path.rsplit(".", 1)[-1]
    same_name = [key for key in keys if key.rsplit(".", 1)[-1] == last]
    close = difflib.get_close_matches(path, keys, n=1, cutoff=0.3) or keys
    return ConfigError(f"--set {path}: unknown key; the nearest one is {(same_name or close)[0]}")


def _leaf_paths(section: Config, prefix: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, Config):
            yield from _leaf_paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
