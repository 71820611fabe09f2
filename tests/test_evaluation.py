"""Parallel rollouts that give, seed by seed, what robomimic's own rollouts give."""

import json
import random
import threading

import mujoco
import numpy as np
import psutil
import pytest
import robomimic.utils.file_utils as FileUtils
from untrained import HORIZON, without_times, write_untrained_checkpoint
from worker_functions import threads_of_a_rollout_worker

from robomimic_frozen import cli
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation.evaluate import as_table, evaluate, summarize, wilson_interval
from robomimic_frozen.utils import parallel
from robomimic_frozen.utils.parallel import Processes, ThisProcess, retrying_map


@pytest.fixture(scope="module")
def make_checkpoint(lift_dataset, tmp_path_factory):
    def make(obs_steps=1, **changes):
        path = tmp_path_factory.mktemp("checkpoint") / "model_epoch_1.pth"
        return write_untrained_checkpoint(lift_dataset, path, obs_steps, **changes)

    return make


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint):
    return make_checkpoint()


def stock_actions(checkpoint, seed):
    """The actions of the first episode of robomimic's own rollout, in an environment made with this seed."""
    from robomimic.scripts.run_trained_agent import rollout

    policy, content = FileUtils.policy_from_checkpoint(ckpt_path=str(checkpoint))
    content["env_metadata"]["env_kwargs"]["seed"] = seed
    env, _ = FileUtils.env_from_checkpoint(ckpt_dict=content)
    return rollout(policy, env, HORIZON)[1]["actions"]


@pytest.fixture
def make_rollouts():
    """Rollouts of a checkpoint, and the list of actions of their last episode."""

    def make(checkpoint, settings=()):
        from robomimic_frozen.evaluation.episodes import Rollouts

        rollouts = Rollouts(checkpoint, settings)
        act, actions = rollouts.policy, []

        def recording(ob):
            actions.append(act(ob=ob))
            return actions[-1]

        recording.start_episode = lambda: actions.clear() or act.start_episode()
        recording.policy = act.policy
        rollouts.policy = recording
        return rollouts, actions

    return make


@pytest.mark.sim
def test_an_episode_is_the_one_that_robomimics_rollout_gives_in_an_environment_of_that_seed(checkpoint, make_rollouts):
    rollouts, actions = make_rollouts(checkpoint)
    for seed in (3, 0):  # one environment for all; whatever came before must not matter
        assert rollouts.run(seed, HORIZON).steps == HORIZON
        np.testing.assert_array_equal(actions, stock_actions(checkpoint, seed))


@pytest.mark.sim
def test_stacked_frames_are_rendered_as_if_cameras_were_always_on(make_checkpoint, make_rollouts, monkeypatch):
    rollouts, actions = make_rollouts(make_checkpoint(obs_steps=3))
    rollouts.run(4, HORIZON)
    gated = list(actions)
    monkeypatch.setattr(type(rollouts.policy.policy), "reads_next_observation", True)
    rollouts.run(4, HORIZON)
    np.testing.assert_array_equal(gated, actions)


@pytest.mark.sim
def test_nothing_is_rendered_that_the_policy_does_not_look_at(checkpoint, monkeypatch):
    from robosuite.utils.binding_utils import MjSim

    from robomimic_frozen.evaluation.episodes import Rollouts

    rollouts = Rollouts(checkpoint)
    rendered, render = [], MjSim.render
    monkeypatch.setattr(MjSim, "render", lambda *args, **kwargs: rendered.append(1) or render(*args, **kwargs))
    rollouts.run(0, HORIZON)
    chunks = -(-HORIZON // rollouts.policy.policy.algo_config.act_steps)
    assert len(rendered) == 2 * chunks  # cameras


def test_outcomes_do_not_depend_on_how_many_cores_a_worker_has(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert dict(retrying_map(threads_of_a_rollout_worker, [0], Processes(1))) == {0: 1}


SCENE = """<mujoco><asset><texture name="t" type="2d" builtin="checker" rgb1="{red} 0 0" rgb2="0 0 0" width="8" height="8"/>
<material name="m" texture="t"/></asset><worldbody><geom type="plane" size="{plane} 1 1" material="m"/>
<geom type="box" size="{box} 1 1"/></worldbody></mujoco>"""


@pytest.mark.parametrize(("changes", "same"), [({"box": 2}, True), ({"plane": 2}, False), ({"red": 0.5}, False)])
def test_a_renderer_is_kept_where_it_draws_the_next_scene_as_a_new_one_would(changes, same):
    from robomimic_frozen.simulation.cameras import have_the_same_assets

    default = {"red": 1, "plane": 1, "box": 1}
    one, other = (mujoco.MjModel.from_xml_string(SCENE.format(**values)) for values in (default, {**default, **changes}))
    assert have_the_same_assets(one, other) is same


@pytest.mark.sim
@pytest.mark.fault("four workers of an evaluation killed, one after the other", "resumed, it ends in the table of an undisturbed one")
def test_an_evaluation_whose_four_workers_are_killed_ends_in_the_same_table_when_resumed(checkpoint, tmp_path):
    (undisturbed,) = evaluate([checkpoint], 3, HORIZON, ThisProcess(), seed=5, out=tmp_path / "a", num_videos=1)
    stop, killed = threading.Event(), []

    def kill_four():
        while len(killed) < 4 and not stop.wait(random.uniform(0.3, 1.5)):
            workers = [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
            if workers:
                killed.append(random.choice(workers))
                killed[-1].kill()

    killer = threading.Thread(target=kill_four)
    killer.start()
    try:
        evaluate([checkpoint], 3, HORIZON, Processes(2), seed=5, out=tmp_path / "b", num_videos=0)
    finally:
        stop.set()
        killer.join()
    assert len(killed) == 4
    (resumed,) = evaluate([checkpoint], 3, HORIZON, ThisProcess(), seed=5, out=tmp_path / "b", num_videos=0)
    assert without_times(tmp_path / "a") == without_times(tmp_path / "b")
    assert (resumed.episodes, resumed.errors) == (undisturbed.episodes, undisturbed.errors) == (3, 0)
    (video,) = (tmp_path / "a").rglob("failure/seed_5.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.sim
def test_a_checkpoint_at_a_url_is_rolled_out_from_a_copy(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))  # where copies lie
    monkeypatch.setattr(parallel, "Processes", lambda workers: ThisProcess())
    flags = ["--episodes", "1", "--horizon", "2", "--workers", "1", "--out", str(tmp_path / "out")]
    assert cli.main(["eval", f"file://{checkpoint}", *flags]) == 0
    assert (tmp_path / ".cache/robomimic_frozen/fetched").is_dir() and "model_epoch_1" in capsys.readouterr().out


@pytest.mark.sim
def test_what_is_done_is_not_done_again(checkpoint, tmp_path):
    evaluate([checkpoint], 1, HORIZON, ThisProcess(), seed=0, out=tmp_path, num_videos=0)
    (result,) = tmp_path.rglob("seed_0.json")
    result.write_text(json.dumps({**json.loads(result.read_text()), "success": True}))
    (summary,) = evaluate([checkpoint], 1, HORIZON, ThisProcess(), seed=0, out=tmp_path, num_videos=0)
    assert summary.success_rate == 1.0


@pytest.mark.sim
def test_settings_of_the_checkpoint_can_be_changed_and_have_results_of_their_own(checkpoint, make_rollouts, tmp_path):
    rollouts, _ = make_rollouts(checkpoint, ["algo.flow_steps=1"])
    assert rollouts.policy.policy.algo_config.flow_steps == 1
    for number, settings in enumerate(([], ["algo.flow_steps=1"])):
        (summary,) = evaluate([checkpoint], 1, 2, ThisProcess(), seed=0, out=tmp_path, num_videos=0, overrides=settings)
        assert summary.overrides == tuple(settings) and " ".join(settings) in as_table([summary])
        assert len(list(tmp_path.rglob("seed_0.json"))) == number + 1
    with pytest.raises(ConfigError, match="flow_step"):
        evaluate([checkpoint], 1, 2, ThisProcess(), seed=0, out=tmp_path, num_videos=0, overrides=["algo.flow_step=1"])


@pytest.mark.sim
@pytest.mark.parametrize(
    ("cameras", "size", "words"),
    [
        (["agentview"], 84, "looks at robot0_eye_in_hand_image, which its environment does not give; choose among agentview_image"),
        (["agentview", "robot0_eye_in_hand"], 64, r"gives agentview_image as \[3, 64, 64\], and the policy takes \[3, 84, 84\]"),
    ],
)
def test_a_camera_that_the_environment_lacks_or_has_at_another_size_is_named(cameras, size, words, make_checkpoint, tmp_path):
    checkpoint = make_checkpoint(camera_names=cameras, camera_heights=size, camera_widths=size)
    with pytest.raises(ConfigError, match=words):
        evaluate([checkpoint], 1, HORIZON, ThisProcess(), seed=0, out=tmp_path, num_videos=0)


@pytest.mark.parametrize(
    ("make_arguments", "words"),
    [
        (lambda tmp: [str(tmp / "absent.pth")], "absent.pth does not exist; give the path of a .pth file with CKPT"),
        (lambda tmp: [str(tmp)], "holds no checkpoint"),
        (lambda tmp: [str(tmp), "--episodes", "0"], "--episodes is 0; choose 1 or more"),
        (lambda tmp: [str(tmp), "--workers", "0"], "--workers is 0; choose 1 or more"),
    ],
)
def test_bad_input_is_one_line(make_arguments, words, tmp_path, capfd):
    assert cli.main(["eval", *make_arguments(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert words in capfd.readouterr().err.strip().splitlines()[-1]


def test_errors_count_neither_as_success_nor_as_failure():
    def episode(success, error=None):
        return {"success": success, "error": error, "steps": 10, "total_reward": 1.0, "seconds": 2.0}

    summary = summarize("model.pth", [episode(True), episode(False), episode(None, error="it died")])
    assert (summary.episodes, summary.successes, summary.errors, summary.success_rate) == (2, 1, 1, 0.5)
    assert "| 0.50 |" in as_table([summary])
    assert summarize("model.pth", [episode(None, error="it died")]).success_rate is None


def test_intervals_are_wilsons():
    # 10 of 10 and 5 of 10 in the formula of Wilson 1927, by hand.
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
