"""What scripted operators have in common: how proficient they are, and how they steer.

An operator steers in closed loop from the low-dim observations that a policy also gets. Apart from its noise, pauses and detours its
action is a function of the current observation, so that behaviour cloning can imitate it.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from robomimic_frozen.simulation.tasks import Operator

Obs = Mapping[str, np.ndarray]

# Metres per unit of position action and radians per unit of rotation action of the Panda's default OSC_POSE controller.
POSITION_SCALE: Final = 0.05
ROTATION_SCALE: Final = 0.5

OPEN: Final = -1.0
CLOSE: Final = 1.0

GROUPS: Final = ("better", "okay", "worse")
RETREAT: Final = 0.15  # metres above an object that was let go
# With the hand straight down the arm stalls 0.81 m from its base, nearer than the can's bin.
LEAN: Final = 0.3


@dataclass(frozen=True)
class ScriptedOperator(Operator):
    """How proficient one operator of a group of GROUPS is.

    Attributes:
        gain: fraction of the position error commanded at each step.
        max_speed: upper bound on the norm of the position action, in (0, 1].
        noise: standard deviation of the noise added to the position action; a tenth of it goes to the rotation.
        smoothing: share of the previous action kept in the next one, in [0, 1).
        hover: metres above the object at which it is approached from the side.
        tolerance: horizontal error in metres below which the gripper goes all the way down.
        turn_gain: fraction of the rotation error commanded at each step; 0 leaves the rotation alone.
        detours: number of points off the way that are visited first.
        pause_rate: probability per step of starting a pause of 2 to 5 steps.
    """

    gain: float
    max_speed: float
    noise: float
    smoothing: float
    hover: float
    tolerance: float
    turn_gain: float
    detours: int = 0
    pause_rate: float = 0.0


class ScriptedPolicy(abc.ABC):
    """One episode of one operator, whose noise, pauses and detours are drawn from `rng`.

    Attributes:
        max_turn: upper bound on each number of the rotation action, in (0, 1].
    """

    max_turn = 0.5

    def __init__(self, operator: ScriptedOperator, rng: np.random.Generator) -> None:
        self.operator = operator
        self._rng = rng
        self._previous, self._pause_left = np.zeros(6), 0
        self._detours = [_sample_detour(rng) for _ in range(operator.detours)]

    def __call__(self, obs: Obs) -> np.ndarray:
        """Return the action for one observation.

        Args:
            obs: `robot0_eef_pos` [3], `robot0_eef_quat` [4] (x, y, z, w), `robot0_gripper_qpos` [2],
                `robot0_gripper_qvel` [2] and `object`.

        Returns:
            [7] float64 in [-1, 1]: position and rotation deltas of the gripper, then -1 to open or +1 to close it.
        """
        grip = CLOSE if self.closes(obs) else OPEN
        if self._pauses():
            return np.append(np.zeros(6), grip)
        operator = self.operator
        position = operator.gain * self._way(obs) / POSITION_SCALE
        position *= min(1.0, operator.max_speed / max(float(np.linalg.norm(position)), 1e-9))
        turn = np.clip(operator.turn_gain * self.turn(obs) / ROTATION_SCALE, -self.max_turn, self.max_turn)
        wanted = np.concatenate([position, turn])
        wanted += operator.noise * self._rng.standard_normal(6) * [1.0, 1.0, 1.0, 0.1, 0.1, 0.1]
        self._previous = (1.0 - operator.smoothing) * wanted + operator.smoothing * self._previous
        return np.append(np.clip(self._previous, -1.0, 1.0), grip)

    @abc.abstractmethod
    def to_object(self, obs: Obs) -> np.ndarray:
        """Return where to grasp the object, in metres from where the gripper is: [3]."""

    @abc.abstractmethod
    def surrounds_object(self, obs: Obs) -> bool:
        """Return whether the fingers are where they can grasp it."""

    @abc.abstractmethod
    def carry(self, obs: Obs) -> np.ndarray:
        """Return where to go with the object, in metres from where the gripper is: [3]."""

    @abc.abstractmethod
    def turn(self, obs: Obs) -> np.ndarray:
        """Return the rotation that is missing, as a rotation vector [3] in radians."""

    def is_placed(self, obs: Obs) -> bool:
        """Return whether the object is where it is to be let go; by default it never is."""
        return False

    def approach(self, obs: Obs) -> np.ndarray:
        """Return the way to an object that the fingers do not surround: [3]."""
        return self.from_above(obs)

    def closes(self, obs: Obs) -> bool:
        """Return whether the gripper is to be closed."""
        return self.surrounds_object(obs) and not self.is_placed(obs)

    def way(self, obs: Obs) -> np.ndarray:
        """Return where to go next, detours apart, in metres from where the gripper is: [3]."""
        if self.is_placed(obs):
            return self.retreat(obs)
        if not self.surrounds_object(obs):
            return self.approach(obs)
        return self.carry(obs) if fingers_rest(obs) else self.to_object(obs)

    def from_above(self, obs: Obs, askew: float = 0.0) -> np.ndarray:
        """Return the way to the object through a funnel: the further off to the side, the higher above, so that nothing pushes it away.

        `askew` counts as so many metres further off.
        """
        to_object = self.to_object(obs)
        off_side = np.linalg.norm(to_object[:2]) + askew - self.operator.tolerance
        return to_object + [0.0, 0.0, np.clip(3.0 * off_side, 0.0, self.operator.hover)]

    def retreat(self, obs: Obs) -> np.ndarray:
        """Return the way up from an object that is to be let go, once the fingers are open."""
        height = -self.to_object(obs)[2]
        return np.array([0.0, 0.0, RETREAT - height if gripper_width(obs) > 0.07 else 0.0])

    def _way(self, obs: Obs) -> np.ndarray:
        if self._detours:
            to_detour = self.to_object(obs) + self._detours[0]
            if np.linalg.norm(to_detour) > 0.03:
                return to_detour
            self._detours.pop(0)
        return self.way(obs)

    def _pauses(self) -> bool:
        if self._pause_left > 0:
            self._pause_left -= 1
            return True
        if self._rng.random() < self.operator.pause_rate:
            self._pause_left = int(self._rng.integers(1, 5))
            return True
        return False


def _sample_detour(rng: np.random.Generator) -> np.ndarray:
    """Draw a point beside and above the object, relative to it: [3] in metres."""
    angle, radius = rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.12)
    return np.array([radius * np.cos(angle), radius * np.sin(angle), rng.uniform(0.08, 0.14)])


def gripper_width(obs: Obs) -> float:
    """Return the distance between the fingers in metres; 0.08 when open."""
    return float(obs["robot0_gripper_qpos"][0] - obs["robot0_gripper_qpos"][1])


def fingers_rest(obs: Obs) -> bool:
    """Return whether the fingers have come to rest on something narrower than the open gripper."""
    return bool(gripper_width(obs) < 0.068 and np.abs(obs["robot0_gripper_qvel"]).max() < 0.02)


def heading(quat: np.ndarray) -> float:
    """Return the angle of the body's x axis in the horizontal plane, from a quaternion (x, y, z, w)."""
    x, y, z, w = quat
    return float(np.arctan2(2.0 * (x * y + z * w), 1.0 - 2.0 * (y * y + z * z)))


def nearest_turn(angle: float, symmetry: float) -> float:
    """Return `angle` modulo `symmetry`, both in radians, in [-symmetry / 2, symmetry / 2)."""
    return float((angle + symmetry / 2) % symmetry - symmetry / 2)


def carried(to_target: np.ndarray, height: float, off_side: float) -> np.ndarray:
    """Return the way of a held object to a target below: up, across once it is high enough, and down over the target.

    Args:
        to_target: from the object to where it is to be let go, [3] in metres.
        height: metres above the target at which it is carried.
        off_side: how far from ready to be lowered, in metres: it goes three times as high above the target, and no higher than `height`.
    """
    rise = to_target[2] + np.clip(3.0 * off_side, 0.0, height)
    return np.append(to_target[:2] * np.clip(1.0 - 10.0 * rise, 0.0, 1.0), rise)


def turn_hand(obs: Obs, yaw: float, lean: np.ndarray) -> np.ndarray:
    """Return the rotation that turns the hand by `yaw` about the vertical and makes it point down, leaning by the rotation vector `lean`.

    A rotation by more than half a turn would come out as one the other way; so no more than a quarter is asked for at a time.
    """
    yaw = np.clip(yaw, -np.pi / 2, np.pi / 2)
    upside_down = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])
    wanted = Rotation.from_rotvec(lean) * Rotation.from_rotvec([0.0, 0.0, heading(obs["robot0_eef_quat"]) + yaw]) * upside_down
    return (wanted * Rotation.from_quat(obs["robot0_eef_quat"]).inv()).as_rotvec()
