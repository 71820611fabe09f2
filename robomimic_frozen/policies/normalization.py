"""Low-dim observations and actions on one scale for the networks, and actions back in the units of the dataset."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from robomimic_frozen.config import MADE_BY_ROBOMIMIC, has_absolute_actions, selections
from robomimic_frozen.errors import ConfigError, did_you_mean
from robomimic_frozen.features.statistics import Statistics, check_rotations, statistics

logger = logging.getLogger(__name__)

METHODS: Final = (None, "min_max", "gaussian")
ROTATIONS: Final = {"rot_axis_angle": Rotation.as_rotvec, "rot_euler": lambda rotation: rotation.as_euler("XYZ")}
"""What `convert_at_runtime` may say, and how a rotation is written then."""
SMALLEST_SHARE: Final = 0.01
"""Of the widest dimension of a key: a dimension that moves less than this is not stretched any further."""
_CONSTANT: Final = 1e-4
"""Where even the widest dimension of a key moves less, in its own units, none is stretched at all (robomimic's `range_eps`)."""


class Normalization(nn.Module):
    """Normalises observations, normalises actions, and undoes the latter; its numbers are buffers, so that a checkpoint holds them.

    A key that it has no numbers of passes unchanged, as all do in a policy of before there was normalisation. Loading a state
    replaces the keys by those of the state.

    Args:
        action_keys: `train.action_keys`, which are concatenated in this order.
        action_config: `train.action_config`, of which `format` and `convert_at_runtime` are heeded here.
        scales: 'obs/<key>' or 'actions/<key>' -> offset and scale, of the shape of one step.
    """

    def __init__(
        self, action_keys: Sequence[str], action_config: Mapping[str, Mapping[str, Any]], scales: Mapping[str, tuple[Any, Any]] = {}
    ) -> None:
        super().__init__()
        self._place: Tensor
        self.action_keys = tuple(action_keys)
        self.rotations = {
            key: action_config[key].get("convert_at_runtime", "rot_axis_angle")
            for key in action_keys
            if action_config.get(key, {}).get("format") == "rot_6d"
        }
        self.register_buffer("_place", torch.empty(0), persistent=False)  # what is loaded goes where this is
        for key, (offset, scale) in scales.items():
            self._set(key, torch.as_tensor(offset), torch.as_tensor(scale))

    def _set(self, key: str, offset: Tensor, scale: Tensor) -> None:
        for name, value in (("offset", offset), ("scale", scale)):
            self.register_buffer(_buffer(key, name), value.to(self._place, copy=True))

    def _of(self, key: str) -> tuple[Tensor, Tensor] | None:
        offset = getattr(self, _buffer(key, "offset"), None)
        return None if offset is None else (offset, getattr(self, _buffer(key, "scale")))

    @property
    def action_width(self) -> int | None:
        """Return how many numbers an action has as it is stored; None where that is not known here."""
        return sum(len(offset) for offset, _ in self._of_actions()) or None

    def observations(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalise observations [..., D] of each key."""
        return {key: value if (found := self._of(f"obs/{key}")) is None else (value - found[0]) / found[1] for key, value in obs.items()}

    def observations_in_units(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo `observations`."""
        return {key: value if (found := self._of(f"obs/{key}")) is None else value * found[1] + found[0] for key, value in obs.items()}

    def actions(self, actions: Tensor) -> Tensor:
        """Normalise actions [..., A] as they are stored."""
        parts = self._of_actions()
        return (actions - torch.cat([offset for offset, _ in parts])) / torch.cat([scale for _, scale in parts]) if parts else actions

    def _of_actions(self) -> list[tuple[Tensor, Tensor]]:
        return [found for key in self.action_keys if (found := self._of(f"actions/{key}")) is not None]

    def in_units(self, actions: Tensor) -> Tensor:
        """Return normalised actions [..., A] in the units of the dataset, as they are stored there."""
        parts = self._of_actions()
        return actions * torch.cat([scale for _, scale in parts]) + torch.cat([offset for offset, _ in parts]) if parts else actions

    def executable(self, actions: Tensor) -> Tensor:
        """Return normalised actions [..., A] in the units of the dataset, rotations as the environment takes them."""
        scales, actions = self._of_actions(), self.in_units(actions)
        if not scales:
            return actions
        parts = actions.split([len(offset) for offset, _ in scales], dim=-1)
        ways = [self.rotations.get(key) for key in self.action_keys]
        return torch.cat([part if way is None else rotation_of(part, way) for part, way in zip(parts, ways, strict=True)], dim=-1)

    def differs_from(self, state: Mapping[str, Tensor]) -> bool:
        """Return whether a state dict of such a module has other numbers."""
        own = self.state_dict()
        return own.keys() != state.keys() or not all(torch.equal(own[name].cpu(), state[name].cpu()) for name in own)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name in self.state_dict():
            delattr(self, name)
        for name in [name for name in state_dict if name.startswith(prefix)]:
            self.register_buffer(name.removeprefix(prefix), state_dict[name].to(self._place, copy=True))

    def extra_repr(self) -> str:
        return ", ".join(dict.fromkeys(name.rpartition("/")[0] for name in self.state_dict()))


def _buffer(key: str, name: str) -> str:
    return f"{key}/{name}".replace(".", "/")  # a buffer's name must hold no dot


def rotation_of(rot_6d: Tensor, how: str) -> Tensor:
    """Return rotations [..., 6], two rows of a matrix that need not be orthonormal (Zhou et al. 2019), in 3 numbers [..., 3]."""
    first, second = rot_6d[..., :3], rot_6d[..., 3:]
    first = nn.functional.normalize(first, dim=-1)
    second = nn.functional.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    matrices = torch.stack([first, second, torch.linalg.cross(first, second)], dim=-2)
    written = ROTATIONS[how](Rotation.from_matrix(matrices.reshape(-1, 3, 3).double().cpu().numpy()))
    return torch.from_numpy(np.asarray(written)).to(rot_6d).reshape(*rot_6d.shape[:-1], 3)


def empty_normalization(config: Any) -> Normalization:
    """Make what has no numbers yet, of a config that may be older than normalisation is."""
    return Normalization(config.train.get("action_keys", ["actions"]), config.train.get("action_config", {}))


def make_normalization(config: Any) -> Normalization:
    """Make what a config asks for, from the demos that it trains on.

    Raises:
        ConfigError: a setting is unknown, or contradicts another one; statistics are asked for and there is no dataset.
        DatasetError: the demos lack an array, or hold numbers that are not finite.
    """
    check_normalization(config)
    action_keys, action_config = config.train.action_keys, config.train.action_config
    of_actions = {key: action_config[key].get("normalization") for key in action_keys}
    # robomimic's own normalisation takes the place of ours.
    of_obs = {} if config.train.hdf5_normalize_obs else {f"obs/{key}": config.algo.obs_normalization for key in _low_dim_keys(config)}
    normalization = empty_normalization(config)
    if not any([*of_actions.values(), *of_obs.values()]) and list(action_keys) == ["actions"] and not normalization.rotations:
        return normalization
    if not config.train.data:
        raise ConfigError(
            "train.data is not set, whose statistics normalise low-dim observations and actions; set it, or set algo.obs_normalization "
            "and the normalization in train.action_config to null"
        )
    datasets = selections(config, config.train.hdf5_filter_key)
    for key in normalization.rotations:
        check_rotations(datasets, key)
    found = statistics(datasets, [*of_actions, *of_obs])
    scales = {key: offset_and_scale(found[key], method) for key, method in of_obs.items()}
    for key, method in of_actions.items():
        offset, scale = offset_and_scale(found[key], method)
        scales[f"actions/{key}"] = offset.reshape(-1), scale.reshape(-1)
    return Normalization(action_keys, action_config, scales)


def offset_and_scale(found: Statistics, method: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Return what normalises numbers with these statistics: (number - offset) / scale.

    'gaussian' gives them mean 0 and standard deviation 1, 'min_max' the range [-1, 1]. No dimension is stretched more than
    1 / SMALLEST_SHARE times as much as the widest one of its key, so that one that hardly moves does not become noise.
    """
    if method is None:
        return np.zeros_like(found.mean, dtype=np.float32), np.ones_like(found.mean, dtype=np.float32)
    offset, scale = (found.mean, found.std) if method == "gaussian" else ((found.low + found.high) / 2, (found.high - found.low) / 2)
    widest = scale.max(initial=0)
    scale = np.maximum(scale, SMALLEST_SHARE * widest) if widest > _CONSTANT else np.ones_like(scale)
    return offset.astype(np.float32), scale.astype(np.float32)


def _low_dim_keys(config: Any) -> list[str]:
    groups = config.observation.modalities.values()
    return sorted({key for group in groups for key in group.get("low_dim", []) if key not in MADE_BY_ROBOMIMIC})


def check_normalization(config: Any) -> None:
    """Raise ConfigError unless `algo.obs_normalization`, `train.action_keys` and `train.action_config` fit each other."""
    keys, settings = config.train.action_keys, config.train.action_config
    are_names = isinstance(keys, (list, tuple)) and all(isinstance(key, str) for key in keys)
    if not are_names or not keys or len(set(keys)) < len(keys):
        raise ConfigError(f"train.action_keys is {json.dumps(keys)}; give the names of one or more arrays, each once")
    relative = [key for key in keys if key == "actions" or key.startswith("action_dict/rel_")]
    if relative and has_absolute_actions(keys):
        raise ConfigError(f"train.action_keys has {relative[0]!r} beside absolute actions ({', '.join(keys)}); choose one kind")
    _choose("algo.obs_normalization", config.algo.obs_normalization, METHODS)
    for key in keys:
        example = f'"{key}": {{"normalization": "min_max"}}'
        if not isinstance(settings, Mapping) or not isinstance(settings.get(key, {}), Mapping):
            raise ConfigError(f"train.action_config is {json.dumps(settings)}; give a section for each key, such as {{{example}}}")
        if key not in settings:
            raise ConfigError(f"train.action_config lacks {key!r}, which is among train.action_keys; add {example}")
        where = f"train.action_config[{key!r}]"
        if unknown := settings[key].keys() - {"normalization", "format", "convert_at_runtime"}:
            raise ConfigError(f"{where} has {', '.join(sorted(unknown))}; choose from normalization, format, convert_at_runtime")
        _choose(f"{where}.normalization", settings[key].get("normalization"), METHODS)
        _choose(f"{where}.format", settings[key].get("format"), (None, "rot_6d"))
        _choose(f"{where}.convert_at_runtime", settings[key].get("convert_at_runtime", "rot_axis_angle"), tuple(ROTATIONS))
    # "actions" is there by default, and stays when others are added.
    if unused := settings.keys() - {*keys, "actions"}:
        known = ", ".join(keys)
        raise ConfigError(f"train.action_config has {min(unused)!r}, which is not among train.action_keys ({known}); add or remove it")


def _choose(where: str, value: Any, known: tuple[str | None, ...]) -> None:
    if value not in known:
        names = ["null" if name is None else repr(name) for name in known]
        raise ConfigError(f"{where} is {value!r}; {did_you_mean(value, filter(None, known), 'choose ' + ' or '.join(names))}")
