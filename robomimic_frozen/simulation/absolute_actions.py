"""Actions that say where an arm is to go, in the place of how far: made of relative ones, and taken by robosuite's environments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from robomimic_frozen.errors import ConfigError

if TYPE_CHECKING:
    from robomimic.envs.env_robosuite import EnvRobosuite


def arm_settings(controller_configs: Any) -> list[dict[str, Any]]:
    """Return the settings of the arms in robosuite's `controller_configs`. Raises ConfigError if they take no absolute poses."""
    of_each = controller_configs if isinstance(controller_configs, list) else [controller_configs]
    parts = [config.get("body_parts", {}) if isinstance(config, Mapping) else {} for config in of_each]
    arms = [[part for part in each.values() if isinstance(part, dict) and part.get("type") == "OSC_POSE"] for each in parts]
    if not all(arms):
        raise ConfigError(
            "this environment takes no absolute actions: its robots are not controlled by OSC_POSE of robosuite 1.5; "
            "set train.action_keys to relative ones, such as ['actions']"
        )
    return [arm for each in arms for arm in each]


def take_absolute_actions(env: EnvRobosuite) -> None:
    """Make an environment take absolute poses from its next reset on. Raises ConfigError if its controllers cannot."""
    live = [robot["composite_controller_config"] for robot in getattr(env.env, "robot_configs", [{"composite_controller_config": None}])]
    # The latter are what it is made of again, in another process say.
    for arm in (*arm_settings(live), *arm_settings(env._init_kwargs.get("controller_configs"))):
        arm["input_type"] = "absolute"


def absolute_action(env: Any, action: np.ndarray) -> np.ndarray:
    """Return what a relative action [A] asks for in the present state of robosuite's `env`: position, axis and angle of each arm.

    Both are in the frame that its controller has actions in; the rest of the action, a gripper's say, stays as it is. The method is that
    of Diffusion Policy (Chi et al. 2023) and of robomimic's robosuite_add_absolute_actions.py.
    """
    absolute = np.array(action, dtype=np.float64)
    first = 0
    for robot in env.robots:
        own = absolute[first : first + robot.action_dim]
        first += robot.action_dim
        robot.control(own.copy(), policy_step=True)
        for arm, last in _arms(robot):
            controller = robot.part_controllers[arm]
            own[last - 6 : last - 3] = controller.goal_pos
            own[last - 3 : last] = Rotation.from_matrix(controller.goal_ori).as_rotvec()
    return absolute


def _arms(robot: Any) -> Iterator[tuple[str, int]]:
    """Yield the name of each arm, and where its part of an action ends."""
    for arm in robot.arms:
        yield arm, robot.composite_controller._action_split_indexes[arm][1]


def action_dict(actions: np.ndarray, prefix: str) -> dict[str, np.ndarray]:
    """Return the parts of actions [T, 7] of one arm under the names of robomimic's extract_action_dict.py, float32."""
    matrices = Rotation.from_rotvec(actions[:, 3:6]).as_matrix()
    parts = {
        f"{prefix}pos": actions[:, :3],
        f"{prefix}rot_axis_angle": actions[:, 3:6],
        f"{prefix}rot_6d": matrices[:, :2].reshape(-1, 6),
        "gripper": actions[:, 6:7],
    }
    return {name: np.asarray(part, dtype=np.float32) for name, part in parts.items()}
