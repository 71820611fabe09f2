"""The task Can: to carry a can from one bin into its place in the other."""

from __future__ import annotations

from typing import Final

import numpy as np

from robomimic_frozen.data.operators.scripted import (
    Obs,
    ScriptedOperator,
    ScriptedPolicy,
    carried,
    heading,
    turn_hand,
)  # fmt: skip
from robomimic_frozen.simulation.tasks import Task

BASE: Final = np.array([-0.5, -0.1])  # of the robot, in the scene
PLACE: Final = np.array([0.1975, 0.4025, 0.86])  # where the can stands in the end: robosuite's target_bin_placements
CARRY: Final = 0.2  # metres; the bins' walls are 0.1 m high
LEAN: Final = 0.16  # radians away from the base; with the hand straight down the arm stalls 0.81 m from it, before it is there

OPERATORS: Final = (
    ScriptedOperator("better_0", "better", 0.9, 1.00, 0.03, 0.2, 0.10, 0.012, 0.3),
    ScriptedOperator("okay_0", "okay", 0.7, 0.85, 0.08, 0.3, 0.12, 0.012, 0.3),
    ScriptedOperator("worse_0", "worse", 0.6, 0.80, 0.15, 0.4, 0.14, 0.010, 0.2, detours=1, pause_rate=0.01),
    ScriptedOperator("better_1", "better", 0.8, 0.90, 0.05, 0.2, 0.11, 0.010, 0.3),
    ScriptedOperator("okay_1", "okay", 0.6, 0.80, 0.10, 0.4, 0.13, 0.012, 0.2, pause_rate=0.005),
    ScriptedOperator("worse_1", "worse", 0.55, 0.75, 0.18, 0.3, 0.14, 0.012, 0.2, detours=1, pause_rate=0.01),
)


class CanPolicy(ScriptedPolicy):
    """One episode of one operator who places the can: numbers 7 to 13 of `object` are its position [3] and quaternion [4]."""

    def to_object(self, obs: Obs) -> np.ndarray:
        return obs["object"][7:10] - obs["robot0_eef_pos"]

    def surrounds_object(self, obs: Obs) -> bool:
        offset = self.to_object(obs)
        return bool(np.linalg.norm(offset[:2]) < 0.02 and abs(offset[2]) < 0.02)

    def is_placed(self, obs: Obs) -> bool:
        offset = obs["object"][7:10] - PLACE
        return bool(np.linalg.norm(offset[:2]) < 0.06 and offset[2] < 0.015)

    def carry(self, obs: Obs) -> np.ndarray:
        to_place = PLACE - obs["object"][7:10]
        return carried(to_place, CARRY, off_side=float(np.linalg.norm(to_place[:2])) - 0.03)

    def turn(self, obs: Obs) -> np.ndarray:
        outwards = obs["robot0_eef_pos"][:2] - BASE
        x, y = outwards / np.linalg.norm(outwards)
        return turn_hand(obs, yaw=-heading(obs["robot0_eef_quat"]), lean=LEAN * np.array([y, -x, 0.0]))


CAN: Final = Task(
    "can", "PickPlaceCan", cameras=("agentview", "robot0_eye_in_hand"), image_size=84, horizon=400, operators=OPERATORS,
    make_policy=CanPolicy, demo_horizon=250,
)  # fmt: skip
