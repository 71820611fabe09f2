"""Whether an environment gives a policy what it was trained on: cameras, sizes of observations, no goals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from robomimic_frozen.config import has_absolute_actions
from robomimic_frozen.errors import ConfigError, MalformedError
from robomimic_frozen.simulation.absolute_actions import arm_settings
from robomimic_frozen.utils import hdf5

ROBOSUITE: Final = 1
"""What `type` in the metadata of an environment says of robosuite's: EnvType.ROBOSUITE_TYPE of robomimic."""

Shapes = Mapping[str, Sequence[int]]
"""obs key -> shape of one observation, images with channels first"""

_IMAGE: Final = "_image"
_SIZE_OF_ROBOSUITE: Final = 256


def check_training_rollouts(config: Any, path: str | Path) -> None:
    """Raise ConfigError if rollouts while training on a dataset would give the policy something else than the dataset has, or no goals."""
    if not config.experiment.rollout.enabled:
        return
    where, off = f"dataset {path}", "experiment.rollout.enabled to false"
    with hdf5.opened(path) as file:
        data = hdf5.group_in(file, "data")
        try:
            metadata = json.loads(hdf5.attribute(data, "env_args"))
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedError(str(path), "env_args", f"is not JSON ({error})") from error
        obs = hdf5.group_in(hdf5.group_in(data, hdf5.members(data)[0]), "obs")
        arrays = {key: hdf5.array_in(obs, key) for key in config.all_obs_keys if key.endswith(_IMAGE)}
        shapes = {key: _channels_first(array.shape[1:]) for key, array in arrays.items()}
    if config.use_goals and isinstance(metadata, Mapping) and metadata.get("type") == ROBOSUITE:
        raise ConfigError(f"{where}: the policy is conditioned on goals, and robosuite has none to roll it out with; set {off}")
    check_cameras(where, metadata, shapes, f"its env_args, or set {off}")
    if has_absolute_actions(config.train.get("action_keys", ())):
        try:
            arm_settings(metadata["env_kwargs"].get("controller_configs"))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def check_goals(where: str, config: Any) -> None:
    """Raise ConfigError for a policy that is conditioned on goals, of which rollouts of checkpoints have none."""
    if config.use_goals:
        raise ConfigError(f"{where}: the policy is conditioned on goals, which rollouts do not have; roll it out in a loop of your own")


def check_cameras(where: str, metadata: Any, shapes: Shapes, place: str) -> None:
    """Raise ConfigError if the metadata of an environment of robosuite say that it renders other images than a policy takes.

    Args:
        where: begins the message.
        shapes: of what the policy takes; what is no image of a camera is passed over.
        place: where the metadata are, for the remedy.
    """
    try:
        rendered = _rendered(metadata)
    except (AttributeError, TypeError, ValueError) as error:
        what = f"camera_names, camera_heights and camera_widths in {place.partition(',')[0]} do not go together"
        raise ConfigError(f"{where}: {what} ({error}); correct them") from error
    if rendered is not None:
        _check(where, rendered, {key: shape for key, shape in shapes.items() if key.endswith(_IMAGE)}, place)


def check_observations(where: str, env: Any, shapes: Shapes, place: str) -> None:
    """Raise ConfigError if an environment of robosuite, as robomimic wraps it, gives other observations than a policy takes.

    Arguments as of `check_cameras`.
    """
    obs = getattr(env, "unwrapped", env).get_observation()
    _check(where, {key: _channels_first(value.shape) for key, value in obs.items()}, shapes, place)


def _check(where: str, given: Shapes, wanted: Shapes, place: str) -> None:
    if missing := [key for key in wanted if key not in given]:
        like_it = [key for key in given if key.endswith(_IMAGE) == missing[0].endswith(_IMAGE)]
        what = f"the policy looks at {', '.join(missing)}, which its environment does not give"
        raise ConfigError(f"{where}: {what}; choose among {', '.join(like_it) or 'nothing, for it has no cameras'}")
    for key, shape in wanted.items():
        if tuple(given[key]) != tuple(shape):
            remedy = "roll it out in the environment of its demonstrations"
            if key.endswith(_IMAGE):
                remedy = f"set camera_heights and camera_widths to {' and '.join(map(str, shape[1:]))} in {place}"
            raise ConfigError(f"{where}: its environment gives {key} as {list(given[key])}, and the policy takes {list(shape)}; {remedy}")


def _rendered(metadata: Any) -> Shapes | None:
    """Return what the cameras of an environment give; None where its metadata do not say."""
    kwargs = metadata.get("env_kwargs") if isinstance(metadata, Mapping) else None
    if not isinstance(kwargs, Mapping) or metadata.get("type") != ROBOSUITE or "camera_names" not in kwargs:
        return None
    names = [kwargs["camera_names"]] if isinstance(kwargs["camera_names"], str) else list(kwargs["camera_names"])
    if any(name.startswith("all-") for name in names):  # which robosuite knows the robot for
        return None
    sizes = [kwargs.get(f"camera_{side}", _SIZE_OF_ROBOSUITE) for side in ("heights", "widths")]
    of_each = [[size] * len(names) if isinstance(size, int) else size for size in sizes]
    return {f"{name}{_IMAGE}": (3, height, width) for name, height, width in zip(names, *of_each, strict=True)}


def _channels_first(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an image as policies take it; robomimic 0.5 wraps environments so that they give [H, W, C], as datasets do."""
    return (shape[2], *shape[:2]) if len(shape) == 3 and shape[0] not in (1, 3) else tuple(shape)
