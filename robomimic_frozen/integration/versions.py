"""Where robomimic 0.3 and its master branch (0.5) differ: in their configs, and in who makes images ready for networks."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import robomimic.utils.dataset
import robomimic.utils.obs_utils as ObsUtils
from robomimic.config.config import Config

from robomimic_frozen.config import MADE_BY_ROBOMIMIC, place_in
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.utils.machine import installed_version

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


def _is_0_5() -> bool:
    return hasattr(robomimic.utils.dataset, "MetaDataset")


def check_language(config: Any, datasets: Iterable[Mapping[str, Any]]) -> None:
    """Raise ConfigError if the policy takes the embedding of a language that one of the datasets has not, or that cannot be made here."""
    asked = [key for key in config.all_obs_keys if key in MADE_BY_ROBOMIMIC]
    if not asked:
        return
    if without := [entry["path"] for entry in datasets if not entry.get("lang")]:
        example = 'set train.data to [{"path": "lift.hdf5", "lang": "lift the cube"}]'
        raise ConfigError(f"the policy takes {asked[0]}, and train.data names no language for {without[0]}; {example}")
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError(f"robomimic makes {asked[0]} with the package transformers, which is missing; pip install transformers")


def drop_what_is_done_anyway(settings: Mapping[str, Any], config: Config, where: str) -> None:
    """Take out of `settings`, those of a config file, what only robomimic 0.5 knows, if this is 0.3 and does just that.

    Raises:
        ConfigError: it does something else; the message begins with `where`.
    """
    for path, done in _SINCE_0_5.items():
        (found, key), (known, _) = place_in(settings, path), place_in(config, path)
        if key in found and key not in known and found.pop(key) != done:
            raise ConfigError(f"{where}: {path} is not {done}, which {_NEEDED}")


def check_validation(config: Config) -> None:
    """Raise ConfigError for validation on observations that robomimic normalises, which 0.3 cannot do."""
    if config.experiment.validate and config.train.hdf5_normalize_obs and not _is_0_5():
        remedy = "set it to false (algo.obs_normalization normalises for fbc_frozen and bc_frozen)"
        raise ConfigError(f"experiment.validate with train.hdf5_normalize_obs {_NEEDED}, or {remedy}")


def check_datasets(config: Config) -> None:
    """Make of a list in `train.data` what the installed robomimic takes. Raises ConfigError for one that it does not take."""
    data = config.train.data
    if data is None or isinstance(data, str):
        return
    entries = [{"path": entry} if isinstance(entry, str) else entry for entry in data] if isinstance(data, (list, tuple)) else []
    if not entries or not all(isinstance(entry, dict) and isinstance(entry.get("path"), str) for entry in entries):
        raise ConfigError(f"train.data is {json.dumps(data)}; give the path of a dataset, or a list of them")
    with config.values_unlocked():
        config.train.data = entries if _is_0_5() else _only_path(entries)


def _only_path(entries: list[dict[str, Any]]) -> str:
    if len(entries) > 1:
        raise ConfigError(f"train.data has {len(entries)} datasets, which {_NEEDED}, or give one")
    if others := [key for key in entries[0] if key not in _OF_NO_CONSEQUENCE and (key, entries[0][key]) != ("eval", True)]:
        raise ConfigError(f"train.data has {', '.join(others)} beside the path, which {_NEEDED}, or remove it")
    return entries[0]["path"]


def as_environments_give(observation: Mapping[str, Any]) -> dict[str, Any]:
    """Return an observation as recorded, images uint8 [..., H, W, C], as robomimic's environments give it to a RolloutPolicy.

    Before 0.5 they make images ready for networks themselves.
    """
    return dict(observation) if _is_0_5() else ObsUtils.process_obs_dict(dict(observation))
