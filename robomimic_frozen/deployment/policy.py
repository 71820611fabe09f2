"""A policy in a loop of one's own: raw observations in, actions out."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from robomimic.algo import RolloutPolicy
from torch import Tensor

from robomimic_frozen.deployment.observations import Observation, raw_shapes, split_batch
from robomimic_frozen.errors import ConfigError, ObservationError
from robomimic_frozen.integration.versions import as_environments_give
from robomimic_frozen.policies.fbc import FBC


class Policy:
    """What a checkpoint does in each of any number of environments: chunks of actions, in the units of the dataset.

    Made by `load_policy`. In one environment it acts as robomimic's rollouts do, bit for bit.

    Attributes:
        observations: obs key -> shape of what `act` takes of one environment: images uint8 [H, W, C], of the size trained on; other numbers
            in the units of the dataset.
    """

    def __init__(self, policy: RolloutPolicy) -> None:
        self._policy, algo = policy, policy.policy
        self._frames = algo.global_config.train.get("frame_stack", 1)
        self.observations: Mapping[str, tuple[int, ...]] = raw_shapes(algo.obs_shapes)
        self._goals = raw_shapes(algo.goal_shapes)
        self._episodes: list[Episode] = []

    def reset(self, env_ids: Iterable[int] | None = None) -> None:
        """Begin a new episode: in the environments of these numbers, or everywhere, after which there may be another number of them.

        Raises:
            ObservationError: there is no environment of such a number.
        """
        if env_ids is None:
            self._episodes = []
        elif self._episodes:
            for number in env_ids:
                if not 0 <= number < len(self._episodes):
                    raise ObservationError(f"reset names environment {number}, and they are 0 to {len(self._episodes) - 1}")
                self._episodes[number] = self.new_episode()

    def act(self, observation: Mapping[str, Any], goal: Mapping[str, Any] | None = None) -> np.ndarray:
        """Return the next action [A] for an observation, or [B, A] for a batch of them; each environment has chunks of its own.

        Args:
            observation: the newest one alone, as `observations` describes it; the policy remembers earlier ones itself.
            goal: for a policy that is conditioned on goals, an observation of the goal.

        Raises:
            ObservationError: it lacks a key, or has another shape, dtype or number of environments, or holds NaN.
        """
        observations, is_batch = split_batch(observation, self.observations)
        if self._goals and goal is None:
            raise ObservationError("the policy is conditioned on goals, and none is given; give act an observation of the goal, too")
        goals = split_batch(goal or {}, self._goals)[0] if self._goals else [None] * len(observations)
        if not self._episodes:
            self._episodes = [self.new_episode() for _ in observations]
        if not len(self._episodes) == len(observations) == len(goals):
            numbers = f"{len(observations)} environments, with goals for {len(goals)}, and the episode began with {len(self._episodes)}"
            raise ObservationError(f"the observation is of {numbers}; call reset() before the number changes")
        for episode, newest in zip(self._episodes, observations, strict=True):
            episode.see(newest)
        waiting = [index for index, episode in enumerate(self._episodes) if not episode.actions]
        if waiting:
            chunks = self._next_actions([self._episodes[index] for index in waiting], [goals[index] for index in waiting])
            for index, chunk in zip(waiting, chunks, strict=True):
                self._episodes[index].actions.extend(chunk)
        actions = np.stack([episode.actions.popleft() for episode in self._episodes])
        return actions if is_batch else actions[0]

    def _next_actions(self, episodes: Sequence[Episode], goals: Sequence[Observation | None]) -> Iterable[np.ndarray]:
        """Return for each episode actions [act_steps, A], of other algorithms than FBC one at a time [1, A]."""
        algo = self._policy.policy
        stacked = [episode.stacked() for episode in episodes]
        if not isinstance(algo, FBC):
            pairs = [_with_all_keys(obs, goal) for obs, goal in zip(stacked, goals, strict=True)]
            return [episode.policy(ob=obs, goal=goal)[None] for episode, (obs, goal) in zip(episodes, pairs, strict=True)]
        chunks = self.sample_chunks(stacked, [episode.noise for episode in episodes], goals)
        return algo.executable(chunks[:, : algo.algo_config.act_steps]).cpu().numpy()

    def sample_chunks(
        self, stacked: Sequence[Observation], generators: Sequence[torch.Generator], goals: Sequence[Observation | None]
    ) -> Tensor:
        """Return normalised chunks [B, horizon, A] of FBC, in one pass.

        Args:
            stacked: of each environment, what `Episode.stacked` returns.
            generators: of each, the source of its noise.
            goals: of each, an observation of the goal, where the policy is conditioned on goals.
        """
        algo = self._policy.policy
        noise = torch.cat([algo.draw_noise(1, generator) for generator in generators])
        pairs = [_with_all_keys(obs, goal) for obs, goal in zip(stacked, goals, strict=True)]
        prepared = [self._policy._prepare_observation(obs) for obs, _ in pairs]
        of_goals = [self._policy._prepare_observation(goal) for _, goal in pairs if goal is not None]
        return algo.sample_chunks(_batched(prepared), noise, _batched(of_goals) if of_goals else None)

    @property
    def planner(self) -> FBC:
        """Return the algorithm that plans chunks from observations alone. Raises ConfigError if it is another one."""
        algo = self._policy.policy
        if self._goals or not isinstance(algo, FBC):
            found = "conditioned on goals" if self._goals else f"of {algo.global_config.algo_name}"
            raise ConfigError(f"the policy is {found}, and not of fbc_frozen without goals; act with load_policy, without overlap")
        return algo

    def new_episode(self) -> Episode:
        """Return the memory of an episode that has not begun."""
        return Episode(self._policy, self._frames)


class Episode:
    """What is remembered of one environment.

    Attributes:
        seen: the newest observations.
        actions: those of the present chunk that are still to be executed.
        policy: of robomimic; the networks are shared, and what an algorithm remembers between steps, of an RNN say, is not.
        noise: its source, which begins as FBC's does.
    """

    def __init__(self, policy: RolloutPolicy, frames: int) -> None:
        self.seen: deque[Observation] = deque(maxlen=frames)
        self.actions: deque[np.ndarray] = deque()
        self.policy = copy.copy(policy)
        self.policy.policy = copy.copy(policy.policy)
        self.policy.start_episode()
        self.noise = torch.Generator(policy.policy.device).manual_seed(0)

    def see(self, newest: Observation) -> None:
        """Remember an observation; the first one stands for those before it, as in robomimic's FrameStackWrapper."""
        own = {key: value.copy() for key, value in newest.items()}  # for the next one may come in the same memory
        self.seen.extend([own] * (1 if self.seen else self.seen.maxlen or 1))

    def stacked(self) -> Observation:
        """Return what robomimic's environments give in the place of what was seen: [frames, ...] where several are wanted."""
        if self.seen.maxlen == 1:
            return as_environments_give(self.seen[0])
        return as_environments_give({key: np.stack([frame[key] for frame in self.seen]) for key in self.seen[0]})


def _with_all_keys(stacked: Observation, goal: Observation | None) -> tuple[Observation, Observation | None]:
    """Return both with the keys of both, which robomimic 0.5 asks for where it normalises observations."""
    if goal is None:
        return stacked, None
    given = as_environments_give(goal)
    return {**given, **stacked}, {**stacked, **given}


def _batched(observations: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.cat([each[key] for each in observations]) for key in observations[0]}
