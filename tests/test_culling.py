"""Images without the geoms that a camera does not see are the same, bit for bit."""

from __future__ import annotations

import contextlib
import gc

import numpy as np
import pytest

import robomimic_frozen
from robomimic_frozen.simulation.gl import select_gl_backend


@pytest.fixture(autouse=True, scope="module")
def gl_backend():
    select_gl_backend()  # before MuJoCo is imported, which is why no test file imports it at its top
    robomimic_frozen.register()  # torch loads its compiler, which does not bear a software renderer that is there already


SCENE = """
<mujoco>
  <asset>
    <material name="mirror" rgba=".5 .5 .5 1" reflectance=".5"/>
    <material name="glass" rgba=".5 .5 .5 .5"/>
  </asset>
  <worldbody>
    <light pos="0 0 4" castshadow="false"/>
    <camera name="eye" pos="0 0 1" xyaxes="0 -1 0 0 0 1" fovy="60"/>
    {geoms}
  </worldbody>
</mujoco>
"""
BALL = '<geom name="ball" type="sphere" size=".1" pos="{}"/>'
WALL = '<geom name="wall" type="box" size=".01 2 2" pos="1 0 1" {}/>'
FLOOR = '<geom name="floor" type="plane" size="9 9 1" {}/>'


def seen(*geoms: str, up: str = "0 0 1") -> dict[str, bool]:
    """Which geoms the camera, 1 m above the ground, sees."""
    import mujoco

    from robomimic_frozen.simulation.culling import seen_geoms

    model = mujoco.MjModel.from_xml_string(SCENE.replace("0 0 1\" fovy", f"{up}\" fovy").format(geoms="".join(geoms)))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    chosen, _ = seen_geoms(model, data, camera=0, aspect=1.0, drawn=np.ones(model.ngeom, bool))
    return {model.geom(number).name: bool(chosen[number]) for number in range(model.ngeom)}


@pytest.mark.parametrize(
    ("position", "is_seen"), [("2 0 1", True), ("-2 0 1", False), ("2 3 1", False), ("2 0 3", False), ("2 1.2 1", True), ("0 0 1.05", True)]
)
def test_what_is_out_of_the_frame_is_not_seen(position, is_seen):
    assert seen(BALL.format(position))["ball"] == is_seen


@pytest.mark.parametrize(("kind", "is_seen"), [("", False), ('material="glass"', True), ('rgba="1 1 1 .5"', True)])
def test_what_is_behind_an_opaque_box_is_not_seen(kind, is_seen):
    assert seen(BALL.format("2 0 1"), WALL.format(kind))["ball"] == is_seen
    assert seen(BALL.format(".5 0 1"), WALL.format(kind))["ball"]


@pytest.mark.parametrize(("kind", "is_seen"), [("", False), ('material="mirror"', True)])
def test_what_a_visible_floor_reflects_is_seen(kind, is_seen):
    looking_down = "1 0 1"
    assert seen(BALL.format("2 0 2.6"), FLOOR.format(kind), up=looking_down) == {"ball": is_seen, "floor": True}


def test_what_may_throw_a_shadow_is_seen():
    assert seen(BALL.format("-2 0 1"), '<light pos="0 0 4"/>')["ball"]


def test_a_floor_that_a_table_hides_reflects_nothing():
    table, straight_down = '<geom name="table" type="box" size="1 1 .01" pos="0 0 .5"/>', "1 0 0"
    found = seen(table, FLOOR.format('material="mirror"'), BALL.format("0 0 1.5"), up=straight_down)
    assert found == {"table": True, "floor": False, "ball": False}


def random_scene(seed: int) -> str:
    rng = np.random.default_rng(seed)
    kinds = ["", 'material="mirror"', 'material="glass"']
    geoms = [FLOOR.format(kinds[seed % 2])]
    for _ in range(30):
        shape, size = rng.choice(["box", "sphere", "capsule"]), " ".join(f"{number:.3f}" for number in rng.uniform(0.02, 0.5, 3))
        x, y, z = rng.uniform([-2, -2, 0], [4, 2, 3])
        angles, kind = " ".join(f"{angle:.0f}" for angle in rng.uniform(0, 360, 3)), rng.choice(kinds, p=[0.7, 0.2, 0.1])
        colour = "" if kind else f'rgba="{rng.random():.2f} {rng.random():.2f} {rng.random():.2f} 1"'
        geoms.append(f'<geom type="{shape}" size="{size}" pos="{x:.3f} {y:.3f} {z:.3f}" euler="{angles}" {kind} {colour}/>')
    return SCENE.format(geoms="".join(geoms))


@contextlib.contextmanager
def simulated(scene: str):
    """A simulation with a renderer, which goes while it is the current one: freed later, it would free what is another's."""
    from robosuite.utils.binding_utils import MjSim

    from robomimic_frozen.simulation.cameras import CulledRenderContext

    sim = MjSim.from_xml_string(scene)
    sim.forward()
    CulledRenderContext(sim, device_id=-1)
    yield sim
    sim.free()


def assert_culled_images_are_whole(sim, cameras) -> None:
    from robomimic_frozen.simulation.cameras import CulledRenderContext

    context = sim._render_context_offscreen
    assert isinstance(context, CulledRenderContext)
    for camera in cameras:
        culled = sim.render(84, 84, camera_name=camera)
        context.__class__ = CulledRenderContext.__base__
        np.testing.assert_array_equal(sim.render(84, 84, camera_name=camera), culled)
        context.__class__ = CulledRenderContext


@pytest.mark.sim
def test_a_mirror_out_of_sight_leaves_its_place_to_no_other():
    # MuJoCo draws the first one of the model as a mirror, and no other.
    shape = '<geom type="box" size=".5 .4 .1" pos="{} 0 0" material="mirror"/>'
    behind, before = shape.format(-3), shape.format(2.2)
    with simulated(SCENE.format(geoms=behind + before + BALL.format("3 0 .4"))) as sim:
        assert_culled_images_are_whole(sim, ["eye"])


@pytest.mark.sim
def test_random_scenes_look_the_same():
    from robomimic_frozen.simulation.culling import seen_geoms

    spared = 0
    for seed in range(20):
        with simulated(random_scene(seed)) as sim:
            assert_culled_images_are_whole(sim, ["eye"])
            seen_there, _ = seen_geoms(sim.model._model, sim.data._data, 0, 1.0, np.ones(sim.model.ngeom, bool))
        spared += (~seen_there).sum()
    assert spared > 50


@pytest.mark.sim
@pytest.mark.parametrize("task_name", ["lift", "can", "square"])
def test_cameras_of_a_task_see_the_same_with_the_renderer_that_culls(task_name):
    import robomimic.utils.obs_utils as ObsUtils

    from robomimic_frozen.simulation.cameras import CameraGate, KeptRenderer
    from robomimic_frozen.simulation.tasks import get_task, make_camera_env

    task, rng = get_task(task_name), np.random.default_rng(0)
    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["object"], "rgb": [f"{name}_image" for name in task.cameras]}})
    env = make_camera_env(task.env_name, task.cameras, 84)
    env.reset()
    gate = CameraGate(env.env, KeptRenderer())
    gate.reset_to(env.reset_to, env.get_state())
    for _ in range(4):
        gate.is_open = False
        for action in np.repeat(rng.uniform(-1, 1, (1, 7)), 12, axis=0):
            env.step(action)
        assert_culled_images_are_whole(env.env.sim, task.cameras)
    env.env.close()
    del env, gate
    gc.collect()  # as in `simulated`
