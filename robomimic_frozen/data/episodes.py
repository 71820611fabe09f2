"""One demonstration: attempts without cameras until one succeeds, which is then played again with cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from robomimic_frozen.errors import DatasetError
from robomimic_frozen.simulation import tasks
from robomimic_frozen.simulation.gl import limit_rendering_threads
from robomimic_frozen.simulation.tasks import Operator, Task
from robomimic_frozen.utils.parallel import worker_state

if TYPE_CHECKING:
    from robomimic.envs.env_robosuite import EnvRobosuite

    from robomimic_frozen.simulation.cameras import CameraGate

MAX_ATTEMPTS: Final = 20


@dataclass(frozen=True)
class Episode:
    """A successful demonstration of T steps."""

    operator: Operator
    attempts: int  # episodes simulated for it, this one included
    model: str  # MJCF text of the scene
    states: np.ndarray  # [T, S] float64, MuJoCo states before each action
    actions: np.ndarray  # [T, A] float64 in [-1, 1]
    rewards: np.ndarray  # [T] float64, 1 where the task was solved after the action
    obs: Mapping[str, np.ndarray]  # before each action and after the last: [T + 1, ...] each, images as [H, W, 3] uint8
    env_args: str  # JSON description of the environment


def make_episode(task: Task, camera_names: tuple[str, ...], image_size: int, seed: int, index: int) -> Episode:
    """Return demonstration `index` of the set of this seed, shown by the task's operators in turn. A worker keeps its environment.

    Raises:
        ConfigError: a camera does not exist.
        DatasetError: the operator failed too often, or the simulation does not repeat itself.
    """
    env, gate = worker_state(_filmed, task.env_name, camera_names, image_size)
    operator = task.operators[index % len(task.operators)]
    for attempt in range(MAX_ATTEMPTS):
        env_seed, policy_seed = episode_seeds(seed, index, attempt)
        policy = task.make_policy(operator, np.random.default_rng(policy_seed))
        outcome = attempt_episode(tasks.make_physics_env(task.env_name, env_seed), policy, task)
        if outcome is not None:
            return _record(env, gate, operator, attempt + 1, *outcome)
    raise DatasetError(
        f"operator {operator.name} did not solve {task.name} in {MAX_ATTEMPTS} attempts (demonstration {index}); "
        "its proficiency does not fit this version of robosuite"
    )


def _filmed(env_name: str, camera_names: tuple[str, ...], image_size: int) -> tuple[EnvRobosuite, CameraGate]:
    limit_rendering_threads()
    from robomimic_frozen.simulation.cameras import CameraGate, KeptRenderer

    env = tasks.make_camera_env(env_name, camera_names, image_size)
    return env, CameraGate(env.env, KeptRenderer())


def _record(
    env: EnvRobosuite, gate: CameraGate, operator: Operator, attempts: int, start: dict[str, Any], states: np.ndarray, actions: np.ndarray
) -> Episode:
    observations, rewards = [gate.reset_to(env.reset_to, start)], []
    for expected, action in zip(states, actions, strict=True):
        if not np.array_equal(_state(env), expected):
            raise DatasetError("the simulation did not repeat itself when played again with cameras")
        obs, reward, _, _ = env.step(action)
        observations.append(obs)
        rewards.append(reward)
    stacked = {key: np.stack([obs[key] for obs in observations]) for key in observations[0]}
    model = tasks.portable_model(start["model"])
    return Episode(operator, attempts, model, states, actions, np.array(rewards, dtype=np.float64), stacked, tasks.env_args(env))


def _state(env: EnvRobosuite) -> np.ndarray:
    """Return what `get_state` calls `states` [S], without the text of the model, which it writes each time."""
    return np.array(env.env.sim.get_state().flatten())


def episode_seeds(seed: int, index: int, attempt: int) -> tuple[int, int]:
    """Return the seeds of the environment and of the operator for one attempt at one demonstration of a set."""
    env_seed, policy_seed = np.random.SeedSequence(seed, spawn_key=(index, attempt)).generate_state(2)
    return int(env_seed), int(policy_seed)


def attempt_episode(env: EnvRobosuite, policy: tasks.Policy, task: Task) -> tuple[dict[str, Any], np.ndarray, np.ndarray] | None:
    """Let a policy try once, in an environment without cameras, from a new start.

    Returns:
        The start (`model`, `states`), the states before each action [T, S] and the actions [T, A]; None when it failed.
    """
    env.reset()
    start = env.get_state()
    # Dataset playback begins like this; the controllers would otherwise remember the start as reset() left it.
    obs = env.reset_to(start)
    states, actions, steps_left = [], [], task.demo_horizon or task.horizon
    while steps_left > 0:
        states.append(_state(env))
        actions.append(policy(obs))
        obs, _, _, _ = env.step(actions[-1])
        if env.is_success()["task"]:
            steps_left = min(steps_left, task.hold_steps + 1)
        steps_left -= 1
    if not env.is_success()["task"]:
        return None
    return start, np.array(states), np.array(actions)
