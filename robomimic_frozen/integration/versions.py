"""Where the configs of robomimic 0.3 and of its master branch (0.5) differ."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from typing import Any, Final

from robomimic.config.config import Config

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.utils.machine import installed_version

try:
    from robomimic.utils.lang_utils import LANG_EMB_OBS_KEY
except ImportError:
    LANG_EMB_OBS_KEY = None

_SINCE_0_5: Final[Mapping[str, Any]] = {
    "algo.transformer.pred_future_acs": False,
    "experiment.ckpt_path": None,
    "experiment.env_meta_update_dict": {},
    "train.action_config": {"actions": {"normalization": None}},
    "train.action_keys": ["actions"],
    "train.max_grad_norm": None,
    "train.normalize_weights_by_ds_size": False,
}
"""Settings that 0.3 does not have -> what it does without them."""
_NEEDED: Final = f"needs robomimic 0.5, and {installed_version('robomimic')} is installed; install robomimic's master branch"
_OF_NO_CONSEQUENCE: Final = ("path", "key", "lang", "weight")  # to 0.3, of a single dataset


def obs_keys_in_file(config: Any) -> list[str]:
    """Return the observations that a dataset must have: all but what robomimic 0.5 makes itself of the language in `train.data`."""
    return [key for key in config.all_obs_keys if key != LANG_EMB_OBS_KEY]


def check_language(config: Any, datasets: Iterable[Mapping[str, Any]]) -> None:
    """Raise ConfigError if the policy takes the embedding of a language that one of the datasets has not, or that cannot be made here."""
    if LANG_EMB_OBS_KEY not in config.all_obs_keys:
        return
    if without := [entry["path"] for entry in datasets if not entry.get("lang")]:
        example = 'set train.data to [{"path": "lift.hdf5", "lang": "lift the cube"}]'
        raise ConfigError(f"the policy takes {LANG_EMB_OBS_KEY}, and train.data names no language for {without[0]}; {example}")
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"robomimic makes {LANG_EMB_OBS_KEY} with the package transformers, which is missing; pip install transformers")


def drop_what_is_done_anyway(settings: Mapping[str, Any], config: Config, where: str) -> None:
    """Take out of `settings`, those of a config file, what only robomimic 0.5 knows, if this is 0.3 and does just that.

    Raises:
        ConfigError: it does something else; the message begins with `where`.
    """
    for path, done in _SINCE_0_5.items():
        *sections, key = path.split(".")
        found: Any = settings
        known: Any = config
        for section in sections:
            found, known = found.get(section, {}), known.get(section, {})
        if key in found and key not in known and found.pop(key) != done:
            raise ConfigError(f"{where}: {path} is not {done}, which {_NEEDED}")


def check_datasets(config: Config) -> None:
    """Put the path in the place of a list of one dataset if this is robomimic 0.3. Raises ConfigError for more than that."""
    data = config.train.data
    if not isinstance(data, (list, tuple)) or not data or "env_meta_update_dict" in config.experiment:
        return
    if len(data) > 1:
        raise ConfigError(f"train.data has {len(data)} datasets, which {_NEEDED}, or give one")
    if others := [key for key in data[0] if key not in _OF_NO_CONSEQUENCE and (key, data[0][key]) != ("eval", True)]:
        raise ConfigError(f"train.data has {', '.join(others)} beside the path, which {_NEEDED}, or remove it")
    with config.values_unlocked():
        config.train.data = data[0]["path"]
