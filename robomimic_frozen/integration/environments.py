"""Whether an environment gives a policy what it was trained on: cameras, sizes of observations, no goals."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

import robomimic.utils.file_utils as FileUtils
from robomimic.config.config import Config

from robomimic_frozen.config import Selection, datasets_of, has_absolute_actions, selections
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.features.source import each_demo
from robomimic_frozen.simulation.absolute_actions import arm_settings
from robomimic_frozen.simulation.environments import (
    ROBOSUITE_TYPE,
    can_be_rolled_out,
    check_can_be_made,
    check_complete,
    environment_of,
)
from robomimic_frozen.utils import hdf5

Shapes = Mapping[str, Sequence[int]]
"""obs key -> shape of one observation, images with channels first"""

_IMAGE: Final = "_image"
_CAMERA_OF_ROBOSUITE: Final = "agentview"
_SIZE_OF_ROBOSUITE: Final = 256


def check_rollouts(config: Config) -> None:
    """Raise unless robomimic can make the environments that a run would roll out in, and they give and take what its demos have.

    Raises:
        ConfigError: they give the policy something else or take no absolute actions; `experiment.additional_envs` is no list of names.
        DatasetError: with what is wrong with the environment, and what to do.
    """
    if not config.experiment.rollout.enabled:
        return
    for selection, metadata in _environments(config):
        check_complete(selection.path, "env_args", metadata)
        check_can_be_made(selection.path, "env_args", metadata)
        _check_fit(config, selection, metadata)


def _environments(config: Config) -> Iterator[tuple[Selection, dict[str, Any]]]:
    """Yield metadata of each environment that robomimic's train.py makes, and before it the demos that are trained on."""
    experiment, update = config.experiment, config.experiment.get("env_meta_update_dict")  # which robomimic 0.3 does not have
    others = experiment.additional_envs or []
    if not isinstance(others, list) or not all(isinstance(name, str) for name in others):
        raise ConfigError(f"experiment.additional_envs is {others!r}; give a list of names, or null")
    chosen = selections(config, config.train.hdf5_filter_key)
    for index, (entry, selection) in enumerate(zip(datasets_of(config), chosen, strict=True)):
        if index and experiment.env is not None:
            return
        with hdf5.opened(entry["path"]) as file:
            metadata = environment_of(file)
        if update:
            from robomimic.utils.python_utils import deep_update

            deep_update(metadata, deepcopy(update))
        if experiment.env is not None:
            metadata["env_name"] = experiment.env
        if entry.get("eval", True):
            yield selection, metadata
            yield from ((selection, {**metadata, "env_name": name}) for name in (others if index == 0 else ()))


def _check_fit(config: Any, selection: Selection, metadata: Mapping[str, Any]) -> None:
    where, off = f"dataset {selection.path}", "experiment.rollout.enabled to false"
    if config.use_goals and metadata["type"] == ROBOSUITE_TYPE:
        raise ConfigError(f"{where}: the policy is conditioned on goals, and robosuite has none to roll it out with; set {off}")
    images = [key for key in config.all_obs_keys if key.endswith(_IMAGE)]
    with contextlib.closing(each_demo(selection)) as demos:
        demo = next(demos)
        shapes = {key: _channels_first(hdf5.array_in(demo, f"obs/{key}").shape[1:]) for key in images}
    check_cameras(where, metadata, shapes, f"its env_args, or set {off}")
    if has_absolute_actions(config.train.get("action_keys", ())):
        try:
            arm_settings(metadata["env_kwargs"].get("controller_configs"))
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error


def check_can_be_rolled_out(where: str, checkpoint: Mapping[str, Any]) -> None:
    """Raise ConfigError for the policy of a checkpoint that is conditioned on goals, or whose demonstrations have no environment."""
    own_loop = "roll it out in a loop of your own (docs/robot.md)"
    if FileUtils.config_from_checkpoint(ckpt_dict=checkpoint)[0].use_goals:
        raise ConfigError(f"{where}: the policy is conditioned on goals, which rollouts do not have; {own_loop}")
    if not can_be_rolled_out(checkpoint["env_metadata"]):
        raise ConfigError(f"{where}: its demonstrations have no environment to roll it out in; {own_loop}")


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
    if not isinstance(kwargs, Mapping) or metadata.get("type") != ROBOSUITE_TYPE:
        return None
    cameras = kwargs.get("camera_names", _CAMERA_OF_ROBOSUITE)
    names = [cameras] if isinstance(cameras, str) else list(cameras)
    if any(name.startswith("all-") for name in names):  # which robosuite knows the robot for
        return None
    sizes = [kwargs.get(f"camera_{side}", _SIZE_OF_ROBOSUITE) for side in ("heights", "widths")]
    of_each = [[size] * len(names) if isinstance(size, int) else size for size in sizes]
    return {f"{name}{_IMAGE}": (3, height, width) for name, height, width in zip(names, *of_each, strict=True)}


def _channels_first(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of an image as policies take it; robomimic 0.5 wraps environments so that they give [H, W, C], as datasets do."""
    return (shape[2], *shape[:2]) if len(shape) == 3 and shape[0] not in (1, 3) else tuple(shape)
