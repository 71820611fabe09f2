"""The scripted operators of Lift, Can and Square, without pictures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import robomimic.utils.env_utils as EnvUtils
import robomimic.utils.obs_utils as ObsUtils
from robomimic.config import config_factory

import robomimic_frozen
from robomimic_frozen.data.episodes import attempt_episode
from robomimic_frozen.data.operators.scripted import CLOSE, GROUPS, OPEN, nearest_turn, turn_hand
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.simulation.absolute_actions import absolute_action, arm_settings
from robomimic_frozen.simulation.tasks import get_task, make_physics_env

TASKS = ("lift", "can", "square")
SHORTEST = {"lift": 30, "can": 80, "square": 80}


@pytest.fixture(autouse=True)
def low_dim_observations():
    robomimic_frozen.register()
    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["object"], "rgb": []}})


# Of Lift all, of the others, which take longer, one of each group; the rest differ from these by little.
@pytest.mark.parametrize(("task_name", "number"), [(name, number) for name in TASKS for number in range(6 if name == "lift" else 3)])
def test_an_operator_solves_the_task_with_valid_actions(task_name, number):
    task = get_task(task_name)
    policy = task.make_policy(task.operators[number], np.random.default_rng(number))
    outcome = attempt_episode(make_physics_env(task.env_name, seed=number), policy, task)
    assert outcome is not None
    start, states, actions = outcome
    assert SHORTEST[task_name] <= len(actions) <= (task.demo_horizon or task.horizon)
    assert np.abs(actions).max() <= 1.0
    assert set(actions[:, 6]) == {OPEN, CLOSE}
    np.testing.assert_array_equal(states[0], start["states"])


def solved_by(actions, start, env):
    """Whether the task is solved after each of the actions."""
    env.reset()
    env.reset_to(start)
    return [env.step(action) and env.is_success()["task"] for action in actions]


@pytest.mark.parametrize("task_name", TASKS)
def test_its_actions_solve_the_task_again_in_a_fresh_environment_relative_and_absolute_ones(task_name):
    task = get_task(task_name)
    policy = task.make_policy(task.operators[3], np.random.default_rng(7))
    env = make_physics_env(task.env_name, seed=7)
    outcome = attempt_episode(env, policy, task)
    assert outcome is not None
    start, states, actions = outcome
    fresh = make_physics_env(task.env_name, seed=1234)
    solved = solved_by(actions, start, fresh)
    assert solved[-1]
    assert len(actions) == solved.index(True) + 1 + task.hold_steps

    env.reset_to(start)
    absolute = [env.reset_to({"states": state}) and absolute_action(env.env, action) for state, action in zip(states, actions, strict=True)]
    # As training and rollouts make their environment.
    config = config_factory("fbc_frozen")
    config.train.action_keys = ["actions_abs"]
    assert solved_by(absolute, start, EnvUtils.wrap_env_from_config(fresh, config)) == solved


def test_an_environment_without_arms_that_take_poses_refuses_absolute_actions():
    with pytest.raises(ConfigError, match="takes no absolute actions: .*; set train.action_keys to relative ones"):
        arm_settings({"type": "BASIC", "body_parts": {"right": {"type": "JOINT_VELOCITY"}}})


def test_an_attempt_that_takes_longer_than_demonstrations_may_has_failed():
    task = dataclasses.replace(get_task("lift"), demo_horizon=20)
    policy = task.make_policy(task.operators[0], np.random.default_rng(0))
    assert attempt_episode(make_physics_env(task.env_name, seed=0), policy, task) is None


@pytest.mark.parametrize("task_name", TASKS)
def test_operators_of_a_task_are_of_all_groups_and_the_more_proficient_are_faster(task_name):
    operators = get_task(task_name).operators
    speeds = {group: [who.max_speed for who in operators if who.group == group] for group in GROUPS}
    assert min(speeds["better"]) > max(speeds["okay"]) >= max(speeds["worse"])
    assert len({who.name for who in operators}) == len(operators) == 6


@pytest.mark.parametrize(("angle", "symmetry", "turn"), [(0.1, np.pi, 0.1), (np.pi - 0.1, np.pi, -0.1), (np.pi / 2 + 0.2, np.pi / 2, 0.2)])
def test_the_nearest_turn_takes_symmetry_into_account(angle, symmetry, turn):
    assert nearest_turn(angle, symmetry) == pytest.approx(turn)


@pytest.mark.parametrize("yaw", [3.3, -3.3])
def test_a_turn_by_more_than_half_begins_in_the_direction_asked_for(yaw):
    pointing_down = {"robot0_eef_quat": np.array([1.0, 0.0, 0.0, 0.0])}
    assert np.sign(turn_hand(pointing_down, yaw, lean=np.zeros(3))[2]) == np.sign(yaw)
