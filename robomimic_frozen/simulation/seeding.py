"""Resets after which an environment is as if it had been made with a seed just now."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch

from robomimic_frozen.simulation.cameras import CameraGate, KeptRenderer


class SeededResets:
    """Starts the episodes of one environment, each as in an environment made with its seed, at the price of a reset.

    robosuite 1.5 draws from a generator of its own, which only `robosuite.make(seed=...)` seeds, and makes a new renderer at each reset.

    Args:
        env: robomimic's EnvRobosuite, or a wrapper around one.

    Attributes:
        gate: decides whether the cameras render.
    """

    def __init__(self, env: Any) -> None:
        self._env, self._base = env, getattr(env, "unwrapped", env)
        self._robosuite = self._base.env
        self._has_renderer = self._robosuite.has_offscreen_renderer
        self.gate, self._renderer = CameraGate(self._robosuite), KeptRenderer()

    def start(self, seed: int) -> dict[str, Any]:
        """Return the first observation; torch and numpy draw from this seed on, too."""
        env = self._robosuite
        # robosuite draws from one generator, which its samplers hold, too.
        env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        with self.gate.closed():
            env.reset()  # draws what the constructor draws
            for name, observable in env._observables.items():
                env.modify_observable(name, "enabled", observable.is_enabled())  # which sets its clock to 0
                observable._sampled = False
            torch.manual_seed(seed)
            np.random.seed(seed)
            self._env.reset()
            state = self._env.get_state()
            with self._rendering_once():
                return self._env.reset_to(state)

    @contextlib.contextmanager
    def _rendering_once(self) -> Iterator[None]:
        """Let a reset make its renderer with the last simulation, and render when the state has been set, not before."""
        base, env = self._base, self._robosuite
        get_observation, reset_from_xml_string = base.get_observation, env.reset_from_xml_string

        def gated_observation(di: Any = None) -> dict[str, Any]:
            self.gate.is_open = di is None
            return get_observation(di)

        def reset_with_renderer(xml: str) -> None:
            env.has_offscreen_renderer = self._has_renderer
            with self._renderer.in_use():
                reset_from_xml_string(xml)

        with (
            mock.patch.object(base, "get_observation", gated_observation),
            mock.patch.object(env, "reset_from_xml_string", reset_with_renderer),
        ):
            yield
