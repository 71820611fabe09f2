"""The task Lift: to lift a cube."""

from __future__ import annotations

from typing import Final

import numpy as np

from robomimic_frozen.data.operators.scripted import Obs, ScriptedOperator, ScriptedPolicy, heading, nearest_turn
from robomimic_frozen.simulation.tasks import Task

OPERATORS: Final = (
    ScriptedOperator("better_0", "better", 0.9, 0.75, 0.03, 0.2, 0.06, 0.012, 0.5),
    ScriptedOperator("okay_0", "okay", 0.7, 0.55, 0.08, 0.3, 0.08, 0.010, 0.3),
    ScriptedOperator("worse_0", "worse", 0.6, 0.50, 0.15, 0.4, 0.10, 0.010, 0.0, detours=1, pause_rate=0.01),
    ScriptedOperator("better_1", "better", 0.8, 0.65, 0.05, 0.2, 0.07, 0.010, 0.4),
    ScriptedOperator("okay_1", "okay", 0.6, 0.50, 0.10, 0.4, 0.09, 0.012, 0.0, pause_rate=0.005),
    ScriptedOperator("worse_1", "worse", 0.5, 0.45, 0.20, 0.3, 0.12, 0.012, 0.0, detours=2, pause_rate=0.02),
)


class LiftPolicy(ScriptedPolicy):
    """One episode of one operator who lifts the cube: `object` is its position [3] and quaternion [4], and gripper to cube [3]."""

    def to_object(self, obs: Obs) -> np.ndarray:
        return obs["object"][:3] - obs["robot0_eef_pos"]

    def surrounds_object(self, obs: Obs) -> bool:
        offset = self.to_object(obs)
        return bool(np.linalg.norm(offset[:2]) < 0.018 and abs(offset[2]) < 0.012)

    def carry(self, obs: Obs) -> np.ndarray:
        return np.array([0.0, 0.0, 0.1])

    def turn(self, obs: Obs) -> np.ndarray:
        # Of the cube's four sides the nearest.
        yaw = nearest_turn(heading(obs["object"][3:7]) - heading(obs["robot0_eef_quat"]), np.pi / 2)
        return np.array([0.0, 0.0, yaw])


LIFT: Final = Task(
    "lift", "Lift", cameras=("agentview", "robot0_eye_in_hand"), image_size=84, horizon=200, operators=OPERATORS,
    make_policy=LiftPolicy, quickstart_demos=24,
)  # fmt: skip
