"""The task Lift: scripted operators that lift a cube, each with a proficiency of its own, as in robomimic's multi-human (MH) sets.

An operator steers in closed loop from the low-dim observations that a policy also gets. Apart from its noise, pauses
and detours its action is a function of the current observation, so that behaviour cloning can imitate it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from robomimic_frozen.plugins import hookimpl
from robomimic_frozen.simulation.tasks import Operator, Task

# Metres per unit of position action and radians per unit of rotation action of the Panda's default OSC_POSE controller.
POSITION_SCALE: Final = 0.05
ROTATION_SCALE: Final = 0.5

OPEN: Final = -1.0
CLOSE: Final = 1.0

GROUPS: Final = ("better", "okay", "worse")


@dataclass(frozen=True)
class LiftOperator(Operator):
    """How proficient one operator of a group of GROUPS is.

    Attributes:
        gain: fraction of the position error commanded at each step.
        max_speed: upper bound on the norm of the position action, in (0, 1].
        noise: standard deviation of the noise added to the position action; a tenth of it goes to the rotation.
        smoothing: share of the previous action kept in the next one, in [0, 1).
        hover: metres above the cube at which it is approached from the side.
        tolerance: horizontal error in metres below which the gripper goes all the way down.
        yaw_gain: fraction of the yaw error to the cube's nearest side commanded at each step; 0 leaves the yaw alone.
        detours: number of points off the way that are visited first.
        pause_rate: probability per step of starting a pause of 2 to 5 steps.
    """

    gain: float
    max_speed: float
    noise: float
    smoothing: float
    hover: float
    tolerance: float
    yaw_gain: float
    detours: int = 0
    pause_rate: float = 0.0


OPERATORS: Final = (
    LiftOperator("better_0", "better", 0.9, 0.75, 0.03, 0.2, 0.06, 0.012, 0.5),
    LiftOperator("okay_0", "okay", 0.7, 0.55, 0.08, 0.3, 0.08, 0.010, 0.3),
    LiftOperator("worse_0", "worse", 0.6, 0.50, 0.15, 0.4, 0.10, 0.010, 0.0, detours=1, pause_rate=0.01),
    LiftOperator("better_1", "better", 0.8, 0.65, 0.05, 0.2, 0.07, 0.010, 0.4),
    LiftOperator("okay_1", "okay", 0.6, 0.50, 0.10, 0.4, 0.09, 0.012, 0.0, pause_rate=0.005),
    LiftOperator("worse_1", "worse", 0.5, 0.45, 0.20, 0.3, 0.12, 0.012, 0.0, detours=2, pause_rate=0.02),
)


class OperatorPolicy:
    """One episode of one operator, whose noise, pauses and detours are drawn from `rng`."""

    def __init__(self, operator: LiftOperator, rng: np.random.Generator) -> None:
        self._operator, self._rng = operator, rng
        self._previous, self._pause_left = np.zeros(6), 0
        self._detours = [_sample_detour(rng) for _ in range(operator.detours)]

    def __call__(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the action for one observation.

        Args:
            obs: `robot0_eef_pos` [3], `robot0_eef_quat` [4] (x, y, z, w), `robot0_gripper_qpos` [2],
                `robot0_gripper_qvel` [2] and `object` [10] (cube position, cube quaternion, gripper to cube).

        Returns:
            [7] float64 in [-1, 1]: position and rotation deltas of the gripper, then -1 to open or +1 to close it.
        """
        grip = CLOSE if _surrounds_cube(obs) else OPEN
        if self._pauses():
            return np.append(np.zeros(6), grip)
        operator = self._operator
        position = operator.gain * self._position_error(obs) / POSITION_SCALE
        position *= min(1.0, operator.max_speed / max(float(np.linalg.norm(position)), 1e-9))
        yaw = operator.yaw_gain * _yaw_error(obs) / ROTATION_SCALE
        wanted = np.concatenate([position, [0.0, 0.0, np.clip(yaw, -0.5, 0.5)]])
        wanted += operator.noise * self._rng.standard_normal(6) * [1.0, 1.0, 1.0, 0.1, 0.1, 0.1]
        self._previous = (1.0 - operator.smoothing) * wanted + operator.smoothing * self._previous
        return np.append(np.clip(self._previous, -1.0, 1.0), grip)

    def _pauses(self) -> bool:
        if self._pause_left > 0:
            self._pause_left -= 1
            return True
        if self._rng.random() < self._operator.pause_rate:
            self._pause_left = int(self._rng.integers(1, 5))
            return True
        return False

    def _position_error(self, obs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return where to go next, in metres from where the gripper is: [3]."""
        to_cube = obs["object"][:3] - obs["robot0_eef_pos"]
        if self._detours:
            to_detour = to_cube + self._detours[0]
            if np.linalg.norm(to_detour) > 0.03:
                return to_detour
            self._detours.pop(0)
        if _surrounds_cube(obs):
            return np.array([0.0, 0.0, 0.10]) if _holds_cube(obs) else to_cube
        # A funnel: the further off to the side, the higher above the cube, so that the fingers never push it away.
        off_side = np.linalg.norm(to_cube[:2]) - self._operator.tolerance
        height = np.clip(3.0 * off_side, 0.0, self._operator.hover)
        return to_cube + [0.0, 0.0, height]


def _sample_detour(rng: np.random.Generator) -> np.ndarray:
    """Draw a point beside and above the cube, relative to it: [3] in metres."""
    angle, radius = rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.12)
    return np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(0.08, 0.14)])


def _surrounds_cube(obs: Mapping[str, np.ndarray]) -> bool:
    offset = obs["object"][:3] - obs["robot0_eef_pos"]
    return bool(np.linalg.norm(offset[:2]) < 0.018 and abs(offset[2]) < 0.012)


def _holds_cube(obs: Mapping[str, np.ndarray]) -> bool:
    """Return whether the fingers have come to rest on something narrower than the open gripper (0.08 m)."""
    width = obs["robot0_gripper_qpos"][0] - obs["robot0_gripper_qpos"][1]
    return bool(width < 0.068 and np.abs(obs["robot0_gripper_qvel"]).max() < 0.02)


def _yaw_error(obs: Mapping[str, np.ndarray]) -> float:
    """Return the rotation about the vertical that brings the fingers parallel to the cube's nearest sides, in [-pi/4, pi/4)."""
    difference = _heading(obs["object"][3:7]) - _heading(obs["robot0_eef_quat"])
    return float((difference + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def _heading(quat: np.ndarray) -> float:
    """Return the angle of the body's x axis in the horizontal plane, from a quaternion (x, y, z, w)."""
    x, y, z, w = quat
    return float(np.arctan2(2.0 * (x * y + z * w), 1.0 - 2.0 * (y * y + z * z)))


LIFT: Final = Task(
    "lift", "Lift", cameras=("agentview", "robot0_eye_in_hand"), image_size=84, horizon=200, operators=OPERATORS, make_policy=OperatorPolicy
)


@hookimpl
def tasks() -> list[Task]:
    """Return the built-in tasks."""
    return [LIFT]
