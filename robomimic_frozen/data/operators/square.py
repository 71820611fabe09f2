"""The task Square: to put a square nut over a square peg."""

from __future__ import annotations

from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from robomimic_frozen.data.operators.scripted import (
    Obs,
    ScriptedOperator,
    ScriptedPolicy,
    carried,
    fingers_rest,
    heading,
    turn_hand,
)  # fmt: skip
from robomimic_frozen.simulation.tasks import Task

ON_PEG: Final = np.array([0.23, 0.1, 0.86])  # where the nut is let go
PEG_END: Final = 0.09  # metres above ON_PEG
CARRY: Final = 0.13  # likewise
HANDLE: Final = np.array([0.06, 0.0, 0.005])  # where it is grasped, in the nut's frame

OPERATORS: Final = (
    ScriptedOperator("better_0", "better", 0.9, 1.00, 0.03, 0.2, 0.06, 0.012, 0.6),
    ScriptedOperator("okay_0", "okay", 0.7, 0.85, 0.06, 0.3, 0.07, 0.012, 0.5),
    ScriptedOperator("worse_0", "worse", 0.6, 0.75, 0.10, 0.4, 0.08, 0.010, 0.4, detours=1, pause_rate=0.01),
    ScriptedOperator("better_1", "better", 0.8, 0.90, 0.04, 0.2, 0.06, 0.010, 0.6),
    ScriptedOperator("okay_1", "okay", 0.6, 0.80, 0.08, 0.4, 0.08, 0.012, 0.5, pause_rate=0.005),
    ScriptedOperator("worse_1", "worse", 0.55, 0.70, 0.12, 0.3, 0.09, 0.012, 0.4, detours=1, pause_rate=0.015),
)


class SquarePolicy(ScriptedPolicy):
    """One episode of one operator who places the nut: numbers 7 to 13 of `object` are its position [3] and quaternion [4]."""

    max_turn = 0.7

    def to_object(self, obs: Obs) -> np.ndarray:
        handle = obs["object"][7:10] + Rotation.from_quat(obs["object"][10:14]).apply(HANDLE)
        return handle - obs["robot0_eef_pos"]

    def surrounds_object(self, obs: Obs) -> bool:
        offset = self.to_object(obs)
        return bool(np.linalg.norm(offset[:2]) < 0.02 and abs(offset[2]) < 0.015)

    def is_placed(self, obs: Obs) -> bool:
        offset = obs["object"][7:10] - ON_PEG
        return bool(np.linalg.norm(offset[:2]) < 0.012 and offset[2] < 0.01)

    def approach(self, obs: Obs) -> np.ndarray:
        return self.from_above(obs, askew=0.1 * abs(self._yaw(obs)))

    def carry(self, obs: Obs) -> np.ndarray:
        to_peg = ON_PEG - obs["object"][7:10]
        off_side, askew = float(np.linalg.norm(to_peg[:2])), abs(self._yaw(obs))
        threaded = off_side < 0.012 and -to_peg[2] < PEG_END - 0.01
        # With the handle to the far side the arm would be stretched out, and stuck, before the nut is over the peg.
        to_peg[0] -= 0.2 * min(1.0, askew)
        return carried(to_peg, CARRY, off_side=0.0 if threaded else 6.0 * (off_side - 0.003) + max(0.0, askew - 0.08))

    def turn(self, obs: Obs) -> np.ndarray:
        return turn_hand(obs, 0.0 if self.is_placed(obs) else self._yaw(obs), lean=np.zeros(3))

    def _yaw(self, obs: Obs) -> float:
        """Return how far to turn the hand: its fingers across the handle, then the handle to the robot: the arm is short."""
        nut = heading(obs["object"][10:14])
        # The last joint stops at -2.1 and 3.7 rad of the hand's heading.
        hand = (heading(obs["robot0_eef_quat"]) + 2.1) % (2 * np.pi) - 2.1
        if self.closes(obs) and fingers_rest(obs):
            return (np.pi if np.cos(nut - hand) > 0 else 0.0) - hand
        # Of the two ways to grasp it the one after which there is less to turn.
        return (nut if -np.pi / 4 < nut < np.pi / 2 else nut - np.pi * np.sign(nut)) - hand


SQUARE: Final = Task(
    "square", "NutAssemblySquare", cameras=("agentview", "robot0_eye_in_hand"), image_size=84, horizon=400, operators=OPERATORS,
    make_policy=SquarePolicy, demo_horizon=250, hold_steps=28,
)  # fmt: skip
