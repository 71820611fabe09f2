"""Chunks computed ahead, for a robot that does not wait: the next one while the present one is executed."""

from __future__ import annotations

import concurrent.futures
import copy
import math
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from robomimic_frozen.deployment.observations import Observation, split_batch
from robomimic_frozen.deployment.policy import Policy
from robomimic_frozen.errors import ConfigError, ObservationError

OVERLAPS: Final = ("blend", "skip")


class AsynchronousPolicy:
    """Acts in one environment without waiting for the network, but for the first chunk of an episode.

    After `algo.act_steps` actions of a chunk the next one is asked for. The present one goes on, up to its `algo.horizon` actions, until
    that is there. What the new chunk has for steps that have passed by then is left out. With overlap 'skip' the rest takes over at once;
    with 'blend' it fades in over what is left of the old chunk, linearly, before normalisation and rotations are undone.

    Args:
        policy: one of `fbc_frozen` that is not conditioned on goals.
        overlap: 'blend' or 'skip'.

    Raises:
        ConfigError: they are others.

    Attributes:
        observations: as of `policy`.
        latency: seconds from the last observation that a chunk was computed for to that chunk.
        delay: steps in that time, the most of this episode; where the horizon leaves less, chunks are asked for earlier.
        waits: how often in this episode a chunk was used up before the next one was there, so that `act` waited.
    """

    def __init__(self, policy: Policy, overlap: str = "blend") -> None:
        if overlap not in OVERLAPS:
            raise ConfigError(f"overlap is {overlap!r}; choose {' or '.join(map(repr, OVERLAPS))}")
        self.observations = policy.observations
        self._policy, self._blends, algo = policy, overlap == "blend", policy.planner
        self._horizon, self._act_steps = algo.algo_config.horizon, algo.algo_config.act_steps
        self._normalization = copy.deepcopy(algo.nets["normalization"]).cpu()  # for a GPU is busy with the next chunk
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._next: concurrent.futures.Future[Tensor] | None = None
        self.latency = 0.0
        self.reset()

    def reset(self) -> None:
        """Begin a new episode."""
        if self._next is not None:
            concurrent.futures.wait([self._next])
        self._episode = self._policy.new_episode()
        self._chunk: Tensor | None = None  # [horizon, A], normalised
        self._next = None
        self._place = self._asked_at = 0  # in the chunk
        self._asked = 0.0  # when, by the clock
        self.delay = self.waits = 0

    def act(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Return the next action [A] for the newest observation, as `Policy.act` takes one. Raises ObservationError."""
        observations, is_batch = split_batch(observation, self.observations)
        if is_batch:
            raise ObservationError("the observation is a batch, and chunks are computed ahead in one environment; load a policy for each")
        self._episode.see(observations[0])
        if self._chunk is None or (self._next is None and self._place == self._horizon):  # the latter where the next one has failed
            self._chunk, self._place = self._sample(self._episode.stacked()), 0
        if self._next is not None and (self._next.done() or self._place == self._horizon):
            self._chunk = self._taken_over(self._chunk)
        if self._next is None and self._place >= max(1, min(self._act_steps, self._horizon - max(1, self.delay))):
            self._next = self._thread.submit(self._sample, self._episode.stacked())
            self._asked_at, self._asked = self._place, time.perf_counter()
        action = self._normalization.executable(self._chunk[self._place])
        self._place += 1
        return action.numpy()

    def _sample(self, stacked: Observation) -> Tensor:
        start = time.perf_counter()
        (chunk,) = self._policy.sample_chunks([stacked], [self._episode.noise], [None]).cpu()
        self.latency = time.perf_counter() - start
        return chunk

    def _taken_over(self, old: Tensor) -> Tensor:
        """Return the next chunk as it is executed from here on, and count its place in it and the delay."""
        (pending, self._next), now = (self._next, None), time.perf_counter()
        assert pending is not None
        steps, has_to_wait = self._place - self._asked_at, not pending.done()
        new = pending.result()
        if has_to_wait:  # the robot stood still meanwhile, and would have made more steps
            self.waits += 1
            self.delay = max(self.delay, math.ceil(steps * (time.perf_counter() - self._asked) / (now - self._asked)))
        self.delay = max(self.delay, steps)
        return self._joined(old, new)

    def _joined(self, old: Tensor, new: Tensor) -> Tensor:
        left, self._place = old[self._place :], self._place - self._asked_at
        count = min(len(left), len(new) - self._place)
        if self._blends and count:
            share = torch.arange(1, count + 1)[:, None] / (count + 1)
            overlap = slice(self._place, self._place + count)
            new = new.clone()
            new[overlap] = torch.lerp(left[:count], new[overlap], share)
        return new
