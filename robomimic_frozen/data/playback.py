"""Demos of a raw file, put back into robomimic's environment state by state, in front of cameras."""

from __future__ import annotations

import gc
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from unittest import mock

import h5py
import numpy as np
import robomimic.scripts.dataset_states_to_obs as stock
import robomimic.utils.env_utils as EnvUtils

from robomimic_frozen.data.raw_file import RawFile
from robomimic_frozen.errors import DatasetError, first_line
from robomimic_frozen.simulation import tasks
from robomimic_frozen.simulation.absolute_actions import absolute_action, arm_settings
from robomimic_frozen.simulation.cameras import CameraGate, KeptRenderer
from robomimic_frozen.simulation.gl import prepare_robosuite

if TYPE_CHECKING:
    from robomimic.envs.env_robosuite import EnvRobosuite


class Playback:
    """robomimic's environment of a raw file, whose cameras render what is kept and nothing else.

    Args:
        raw: the file.
        camera_names: cameras of the scene.
        height, width: of their images, in pixels.
        next_obs: whether the observation after the last step of a demo is wanted, too.

    Raises:
        DatasetError: robosuite cannot make the environment.
    """

    def __init__(self, raw: RawFile, camera_names: Sequence[str], height: int, width: int, next_obs: bool = False) -> None:
        self._raw, self._next_obs = raw, next_obs
        self._view = {"camera_names": list(camera_names), "camera_height": height, "camera_width": width}
        renderer = KeptRenderer()
        try:
            with renderer.in_use():
                self._env = create_env_for_data_processing(raw.env_meta, **self._view)
        except Exception as error:  # robosuite raises Exception itself
            raise DatasetError(f"dataset {raw.path}: robosuite cannot make its environment ({first_line(error)})") from error
        self._gate = CameraGate(self._env.env, renderer)
        self._reset, self._reset_to, self._step = self._env.reset, self._env.reset_to, self._env.step
        # robomimic 0.3 resets the environment and then resets it to a state, which resets it once more.
        self._env.reset, self._env.reset_to, self._env.step = lambda: None, self.reset_to, self._last_step
        gc.freeze()  # robosuite collects garbage at each reset, and the libraries are most of what is looked through

    @property
    def env_args(self) -> str:
        """Return JSON from which robomimic makes this environment again."""
        return tasks.env_args(self._env)

    def trajectory(self, demo: h5py.Group) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return what robomimic's dataset_states_to_obs.py makes of a demo of T steps.

        Returns:
            `obs`, `next_obs` if wanted (key -> [T, ...], images as [T, H, W, 3] uint8), `rewards`, `dones` [T], `actions` and
            `states`; and, by robomimic 0.5, where the cameras are.

        Raises:
            DatasetError: its scene does not go with the environment.
        """
        try:
            trajectory, cameras = extract_trajectory(self._env, demo, **self._view)
        except Exception as error:
            raise DatasetError(f"dataset {self._raw.path}: robosuite cannot play {demo.name} back ({first_line(error)})") from error
        if not self._next_obs:
            del trajectory["next_obs"]
        return trajectory, cameras

    def absolute_actions(self, demo: h5py.Group) -> np.ndarray:
        """Return where each action of a demo sends the arm [T, A]; the demo has been played back. Raises ConfigError.

        The first action counts from the pose that the controllers remember of the reset, as it does when a demo is played again.
        """
        arm_settings(self._raw.env_meta["env_kwargs"].get("controller_configs"))
        self.reset_to(start_of(demo))
        with self._gate.closed():
            return np.stack([self._absolute_action(*pair) for pair in zip(demo["states"], demo["actions"], strict=True)])

    def _absolute_action(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        self._reset_to({"states": state})
        return absolute_action(self._env.env, action)

    def reset_to(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Do as robomimic's `reset_to`, but render when the state that is asked for has been reached, not on the way."""
        if "model" not in state:
            return self._reset_to(state)
        # What the scene was drawn from, of robocasa its kitchen; robomimic 0.3 does not tell the environment.
        self._env.env.set_ep_meta(json.loads(state.get("ep_meta") or "{}"))
        with mock.patch.object(self._env, "reset", self._reset):
            return self._gate.reset_to(self._reset_to, state)

    def _last_step(self, action: np.ndarray) -> Any:
        self._gate.is_open = self._next_obs
        try:
            return self._step(action)
        finally:
            self._gate.is_open = True


def start_of(demo: h5py.Group) -> dict[str, Any]:
    """Return what robomimic's `reset_to` needs to come to the first state of a demo."""
    return {"states": demo["states"][0], "model": demo.attrs["model_file"], "ep_meta": demo.attrs.get("ep_meta")}


def create_env_for_data_processing(env_meta: Mapping[str, Any], **view: Any) -> EnvRobosuite:
    """Call robomimic's function of that name. Since 0.5 it must be told that no depth is wanted, to write so."""
    prepare_robosuite()
    create = EnvUtils.create_env_for_data_processing
    no_depth = {"use_depth_obs": False} if "use_depth_obs" in inspect.signature(create).parameters else {}
    return create(env_meta=dict(env_meta), reward_shaping=False, **view, **no_depth)


def extract_trajectory(env: EnvRobosuite, demo: h5py.Group, **view: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Call robomimic's function of that name, with `done_mode` 2 as for its released human demonstrations.

    Since 0.5 it also tells where the cameras are: the second of what is returned, None before.
    """
    extract = stock.extract_trajectory
    recorded = {"initial_state": start_of(demo), "states": demo["states"][()], "actions": demo["actions"][()]}
    if "camera_names" not in inspect.signature(extract).parameters:
        return extract(env, **recorded, done_mode=2), None
    return extract(env, **recorded, done_mode=2, actions_abs=None, **view)
