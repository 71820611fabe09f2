"""Environments that play many episodes: cameras render what is looked at, the renderer is kept, resets take a seed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

import mujoco
import numpy as np
import robosuite.environments.base
import torch
from robosuite.utils.binding_utils import MjRenderContextOffscreen

from robomimic_frozen.simulation.culling import seen_geoms

# What MuJoCo's mjr_makeContext reads of a model, besides the sizes of geoms of these types.
_ASSETS = ("tex_", "mesh_", "hfield_", "skin_", "mat_")
_DRAWN_FROM_LISTS = (mujoco.mjtGeom.mjGEOM_PLANE, mujoco.mjtGeom.mjGEOM_HFIELD, mujoco.mjtGeom.mjGEOM_MESH)


class CulledRenderContext(MjRenderContextOffscreen):
    """Renders the images of robosuite's own, bit for bit, and spares itself the geoms that the camera does not see."""

    def render(self, width: int, height: int, camera_id: int | None = None, segmentation: bool = False) -> None:
        """Render one camera, as `sim.render` asks for it; free cameras as robosuite does."""
        model, unused = self.model._model, np.flatnonzero(self.vopt.geomgroup == 0)
        if camera_id is None or camera_id < 0 or not len(unused):
            super().render(width, height, camera_id, segmentation)
            return
        groups = model.geom_group.copy()
        drawn = self.vopt.geomgroup[groups] != 0
        seen, sees_mirror = seen_geoms(model, self.data._data, camera_id, width / height, drawn)
        model.geom_group[drawn & ~seen] = unused[0]
        reflects = self.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION]
        self.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = reflects and sees_mirror
        try:
            super().render(width, height, camera_id, segmentation)
        finally:
            model.geom_group[:] = groups
            self.scn.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = reflects


class KeptRenderer:
    """Spares a simulation the upload of meshes and textures, a quarter of an episode of Lift, where an earlier one had the same."""

    def __init__(self) -> None:
        self._context: Any = None

    def in_use(self) -> contextlib.AbstractContextManager:
        """Make robosuite give new simulations this renderer while the block runs."""
        return mock.patch.object(robosuite.environments.base, "MjRenderContextOffscreen", self._of)

    def _of(self, sim: Any, device_id: int) -> Any:
        if self._context is None or not have_the_same_assets(self._context.model._model, sim.model._model):
            self._context = CulledRenderContext(sim, device_id)
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
    names = ["geom_type", "geom_dataid", *(name for name in dir(one) if name.startswith(_ASSETS))]
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
        and np.array_equal(*(model.geom_size[np.isin(model.geom_type, _DRAWN_FROM_LISTS)] for model in (one, other)))
        and str(one.vis) == str(other.vis)
    )


class CameraGate:
    """Lets the camera observables of a robosuite environment render, or give their last image again.

    Rendering is nearly all of an environment step on a CPU. Everything else about the observables, their place in the sampling
    period included, stays as it is, so that an image taken with the gate open is the one that would have been taken anyway.

    Args:
        env: of robosuite, with or without cameras.
        renderer: renders the scenes that the environment is reset to.

    Attributes:
        is_open: whether they render. To be set as wanted.
    """

    def __init__(self, env: Any, renderer: KeptRenderer) -> None:
        self.is_open = True
        self._env, self._renderer = env, renderer
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
        """Render nothing while the block runs, not even at a reset, which would make and try out new sensors and a renderer.

        A scene that comes from the text of a model gets a renderer all the same, for it is looked at afterwards.
        """
        env, reset_from_xml_string = self._env, self._env.reset_from_xml_string
        has_cameras, has_renderer = env.use_camera_obs, env.has_offscreen_renderer

        def reset_with_renderer(xml: str) -> None:
            env.has_offscreen_renderer = has_renderer
            with self._renderer.in_use():
                reset_from_xml_string(xml)

        self.is_open = env.use_camera_obs = env.has_offscreen_renderer = False
        try:
            with mock.patch.object(env, "reset_from_xml_string", reset_with_renderer):
                yield
        finally:
            self.is_open, env.use_camera_obs, env.has_offscreen_renderer = True, has_cameras, has_renderer


    def reset_to(self, reset_to: Callable[[Mapping[str, Any]], Any], state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Do as robomimic's `reset_to` with a `model`, but render when the state that is asked for has been reached, not on the way."""
        with self.closed():
            reset_to({key: value for key, value in state.items() if key != "states"})
        return reset_to({"states": state["states"]})


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
        self.gate = CameraGate(self._base.env, KeptRenderer())

    def start(self, seed: int) -> dict[str, Any]:
        """Return the first observation; torch and numpy draw from this seed on, too."""
        env = self._base.env
        # robosuite draws from one generator, which its samplers hold, too.
        env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        with self.gate.closed():
            env.reset()  # draws what the constructor draws
            for name, observable in env._observables.items():
                env.modify_observable(name, "enabled", observable.is_enabled())  # which sets its clock to 0
                observable._sampled = False
            torch.manual_seed(seed)
            np.random.seed(seed)
            self._base.reset()
            state = self._base.get_state()
            states = state.pop("states")
            self._base.reset_to(state)
        return self._env.reset_to({"states": states})
