"""Cameras that render only when somebody looks, with a renderer that is kept from one episode to the next."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import mujoco
import numpy as np
import robosuite.environments.base as base
from robosuite.utils.binding_utils import MjRenderContextOffscreen

# What MuJoCo's mjr_makeContext reads of a model, besides the sizes of geoms of these types.
_ASSETS = ("tex_", "mesh_", "hfield_", "skin_", "mat_")
_DRAWN_FROM_LISTS = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD, mujoco.mjtGeom.mjGEOM_MESH)


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
        """Render nothing while the block runs, not even at a reset, which would make and try out new sensors and a renderer."""
        env = self._env
        has_cameras, has_renderer = env.use_camera_obs, env.has_offscreen_renderer
        self.is_open = env.use_camera_obs = env.has_offscreen_renderer = False
        try:
            yield
        finally:
            self.is_open, env.use_camera_obs, env.has_offscreen_renderer = True, has_cameras, has_renderer


class KeptRenderer:
    """Spares a simulation the upload of meshes and textures, a quarter of an episode of Lift, where an earlier one had the same."""

    def __init__(self) -> None:
        self._context: Any = None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Make robosuite give new simulations this renderer while the block runs."""
        with mock.patch.object(base, "MjRenderContextOffscreen", self._of):
            yield

    def _of(self, sim: Any, device_id: int) -> Any:
        if self._context is None or not have_the_same_assets(self._context.model._model, sim.model._model):
            self._context = MjRenderContextOffscreen(sim, device_id)
            return self._context
        context = self._context
        context.gl_ctx.make_current()
        sim.forward()  # as a new one does: the solver's next step starts from its last
        context.sim, context.model, context.data = sim, sim.model, sim.data
        context.scn = mujoco.MjvScene(sim.model._model, maxgeom=context.scn.maxgeom)
        sim.add_render_context(context)
        return context


def have_the_same_assets(one: mujoco.MjModel, other: mujoco.MjModel) -> bool:
    """Return whether a renderer that was made for one model draws the other as one of its own would."""
    names = [name for name in dir(one) if name.startswith(_ASSETS)]
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
        and np.array_equal(one.geom_type, other.geom_type)
        and np.array_equal(one.geom_dataid, other.geom_dataid)
        and np.array_equal(*(model.geom_size[np.isin(model.geom_type, _DRAWN_FROM_LISTS)] for model in (one, other)))
        and str(one.vis) == str(other.vis)
    )
