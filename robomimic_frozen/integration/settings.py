"""robomimic configs: read from a file, and changed with `--set KEY.PATH=VALUE`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from robomimic.config import config_factory
from robomimic.config.base_config import get_all_registered_configs
from robomimic.config.config import Config

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.integration.versions import check_datasets, drop_what_is_done_anyway
from robomimic_frozen.policies.checkpoints import check_class_names

# What settings of the encoder may be besides values of the type that they have: a name or names, or what goes with a name.
_ALSO: Final[Mapping[str, tuple[type, ...]]] = {"freeze_encoder": (bool, str), "feature_stage": (str, list), "pool": (str, list, dict)}


def load_config(config_path: str | None, algo: str | None, dataset: str | None, overrides: list[str]) -> Config:
    """Return the config that `train` would run, without checking that its dataset fits. Arguments as of `train`. Raises ConfigError."""
    config = _known_config(algo or "fbc_frozen", "--algo") if config_path is None else _read_config(config_path)
    apply_overrides(config, overrides)
    check_class_names(config, "config")
    if dataset is not None:
        earlier = config.train.data
        single = earlier[0] if isinstance(earlier, (list, tuple)) and len(earlier) == 1 else None
        with config.unlocked():  # what else a list says of a single dataset, such as its language, is true of another one, too
            config.train.data = [{**single, "path": dataset}] if isinstance(single, dict) else dataset
    check_datasets(config)
    return config


def _read_config(config_path: str) -> Config:
    try:
        settings = json.loads(Path(config_path).read_text())
        config = _known_config(settings["algo_name"], config_path)
        check_settings(config, settings, f"config {config_path}")
        drop_what_is_done_anyway(settings, config, f"config {config_path}")
        for optimizer in settings.get("algo", {}).get("optim_params", {}).values():
            # robomimic 0.5 adds these to a run's config.json, and its configs do not take them.
            for key in ("num_train_batches", "num_epochs") if isinstance(optimizer, dict) else ():
                optimizer.pop(key, None)
        with config.values_unlocked():
            config.update(settings)
    except OSError as error:
        raise ConfigError(f"config {config_path} cannot be read: {error.strerror}; correct --config") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"config {config_path} is not a robomimic config in JSON ({error}); correct it") from error
    except RuntimeError as error:  # what robomimic raises for a key its config does not have
        raise ConfigError(f"config {config_path}: {error}; remove or correct that key") from error
    return config


def _known_config(algo: str, where: str) -> Config:
    if algo not in get_all_registered_configs():
        raise ConfigError(f"{where}: unknown algo {algo!r}; choose from {', '.join(sorted(get_all_registered_configs()))}")
    return config_factory(algo)


def check_settings(config: Config, settings: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Raise ConfigError, beginning with `where`, for a setting of another type than the one `config` has; robomimic takes any.

    Args:
        settings: nested, as in a config file. What `config` does not have is passed over.
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
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        _assign(config, path.strip(), value)


def _assign(config: Config, path: str, value: Any) -> None:
    *parents, key = path.split(".")
    section: Any = config
    for parent in parents:
        section = section.get(parent) if isinstance(section, Config) else None
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
    if isinstance(new, _ALSO.get(path.rpartition(".")[2], ())):
        return
    allowed = {tuple: (list,), float: (int, float)}.get(type(old), (type(old),))
    # bool is an int to Python, never to the person who wrote the config
    if not isinstance(new, allowed) or isinstance(new, bool) != isinstance(old, bool):
        expected, found = allowed[-1].__name__, type(new).__name__
        raise ConfigError(f"{path}={json.dumps(new)}: this key takes a {expected} (it is {json.dumps(old)}), not a {found}")


def _unknown(config: Config, path: str) -> ConfigError:
    keys = list(_leaf_paths(config))
    same_name = [key for key in keys if key.rpartition(".")[2] == path.rpartition(".")[2]]
    close = difflib.get_close_matches(path, keys, n=1, cutoff=0.3) or keys
    return ConfigError(f"--set {path}: unknown key; the nearest one is {(same_name or close)[0]}")


def _leaf_paths(section: Config, prefix: str = "") -> Iterator[str]:
    for key, value in section.items():
        if isinstance(value, Config):
            yield from _leaf_paths(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
