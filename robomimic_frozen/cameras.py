"""Cameras that render only when somebody looks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


class CameraGate:
    """Lets the camera observables of a robosuite environment render, or give their last image again.

    Rendering is nearly all of an environment step on a CPU. Everything else about the observables, their place in the sampling
    period included, stays as it is, so that an image taken with the gate open is the one that would have been taken anyway.

    Args:
        env: of robosuite, with or without cameras.

    Attributes:
        is_open: whether they render. To be set as wanted.
    """

    def __init__(self, env: Any) -> None:
        self.is_open = True
        self._env = env
        for name, observable in env._observables.items():
            if observable.modality == "image":
                env.modify_observable(name, "sensor", self._gated(observable._sensor, observable.obs))

    def _gated(self, sensor: Callable[[dict], np.ndarray], last: np.ndarray) -> Callable[[dict], np.ndarray]:
        def gated(obs_cache: dict) -> np.ndarray:
            nonlocal last
            if self.is_open:
                last = sensor(obs_cache)
            return last

        gated.__modality__ = sensor.__modality__  # type: ignore[attr-defined]
        return gated

    @contextlib.contextmanager
    def closed(self) -> Iterator[None]:
        """Within it nothing is rendered, not even by a reset, which would make and try out new sensors and a renderer."""
        env = self._env
        has_cameras, has_renderer = env.use_camera_obs, env.has_offscreen_renderer
        self.is_open = env.use_camera_obs = env.has_offscreen_renderer = False
        try:
            yield
        finally:
            self.is_open, env.use_camera_obs, env.has_offscreen_renderer = True, has_cameras, has_renderer
