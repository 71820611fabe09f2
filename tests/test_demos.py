"""Scripted demonstrations: the operators, the workers, the HDF5 format, and stock robomimic's opinion of the file."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest

import robomimic_frozen
from robomimic_frozen.data import DemoSummary, generate_demos
from robomimic_frozen.data.demos import DemoFile
from robomimic_frozen.data.episodes import Episode, episode_seeds, make_episode
from robomimic_frozen.data.operators.lift import OPERATORS, LiftPolicy
from robomimic_frozen.data.operators.scripted import GROUPS, ScriptedOperator
from robomimic_frozen.errors import ConfigError, DatasetError, RenderingError
from robomimic_frozen.plugins import hookimpl, plugin_manager
from robomimic_frozen.simulation.tasks import Operator, Task, make_camera_env, make_physics_env
from robomimic_frozen.utils.parallel import ThisProcess

SMALL = {"seed": 3, "camera_names": ("agentview",), "image_size": 32, "progress": False}
NUM_DEMOS = 2
STOCK_SCRIPTS = Path(importlib.util.find_spec("robomimic").origin).parent / "scripts"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> DemoSummary:
    path = tmp_path_factory.mktemp("demos") / "made_on_the_way" / "lift.hdf5"
    with mock.patch("robomimic_frozen.data.demos.Processes", return_value=ThisProcess()):  # a worker takes longer to start
        return generate_demos(path, NUM_DEMOS, workers=1, **SMALL)


def fake_episode(index: int, steps: int = 4) -> Episode:
    rewards = np.zeros(steps)
    rewards[-2:] = 1.0
    return Episode(
        operator=OPERATORS[index % len(OPERATORS)],
        attempts=1,
        model="<mujoco/>",
        states=np.zeros((steps, 5)),
        actions=np.zeros((steps, 7)),
        rewards=rewards,
        obs={"object": np.arange(steps + 1.0)[:, None]},
        env_args="{}",
    )


def write_fake_file(path: Path, num_demos: int, seed: int = 0, next_obs: bool = False) -> Path:
    with DemoFile(path, seed, next_obs, GROUPS) as file:
        for index in range(num_demos):
            file.append(fake_episode(index))
    return path


def mask(path: Path, key: str) -> list[str]:
    with h5py.File(path) as file:
        return [name.decode() for name in file[f"mask/{key}"]]


def run(program: str, *arguments: object) -> str:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def use_obs_keys(*rgb_keys: str) -> None:
    """Tell robomimic which observations are images, which its environments ask it."""
    robomimic_frozen.register()
    import robomimic.utils.obs_utils as ObsUtils

    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["object"], "rgb": list(rgb_keys)}})


def test_importing_the_interface_loads_nothing_heavy():
    program = "import sys, robomimic_frozen.data; print({'numpy', 'torch', 'robosuite', 'h5py'} & set(sys.modules))"
    assert run(program).strip() == "set()"


@pytest.mark.parametrize(("num_demos", "num_valid"), [(1, 0), (2, 1), (12, 1), (60, 6)])
def test_filter_keys_partition_the_demos(tmp_path, num_demos, num_valid):
    path = write_fake_file(tmp_path / "demos.hdf5", num_demos)
    everything = {f"demo_{index}" for index in range(num_demos)}
    train, valid = mask(path, "train"), mask(path, "valid")
    assert len(valid) == num_valid
    assert len(train) + len(valid) == num_demos
    assert {*train, *valid} == everything
    assert {name for group in GROUPS for name in mask(path, group)} == everything
    assert max(len(mask(path, group)) for group in GROUPS) - min(len(mask(path, group)) for group in GROUPS) <= 1


def test_split_follows_from_the_seed(tmp_path):
    splits = [mask(write_fake_file(tmp_path / f"{n}.hdf5", 60, seed), "valid") for n, seed in enumerate([5, 5, 6])]
    assert splits[0] == splits[1] != splits[2]


def test_dones_and_next_obs(tmp_path):
    with h5py.File(write_fake_file(tmp_path / "demos.hdf5", 1, next_obs=True)) as file:
        demo = file["data/demo_0"]
        np.testing.assert_array_equal(demo["dones"], [0, 0, 1, 1])
        np.testing.assert_array_equal(demo["obs/object"][:, 0], [0, 1, 2, 3])
        np.testing.assert_array_equal(demo["next_obs/object"][:, 0], [1, 2, 3, 4])


@pytest.mark.parametrize("wrong", [{"num_demos": 0}, {"workers": 0}, {"image_size": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    path = tmp_path / "lift.hdf5"
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        generate_demos(path, **{"progress": False, **wrong})
    assert not list(tmp_path.iterdir())


def test_existing_file_is_left_untouched(tmp_path):
    path = tmp_path / "lift.hdf5"
    path.write_bytes(b"precious")
    with pytest.raises(DatasetError, match="exists already; delete it or choose another"):
        generate_demos(path, 1, progress=False)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="cannot write to .*file"):
        generate_demos(tmp_path / "file" / "lift.hdf5", 1, progress=False)


def test_full_disk_is_reported_before_hdf5_meets_it(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: types.SimpleNamespace(free=1000))
    with pytest.raises(DatasetError, match="MB free"):
        write_fake_file(tmp_path / "demos.hdf5", 1)


def test_no_working_opengl(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "no_such_backend")
    with pytest.raises(RenderingError):
        generate_demos(tmp_path / "lift.hdf5", 1, progress=False)
    assert not list(tmp_path.iterdir())


def test_unknown_camera():
    with pytest.raises(ConfigError, match="no camera 'no_such'.*agentview"):
        make_camera_env("Lift", ["no_such"], 32)


def test_unknown_task(tmp_path):
    with pytest.raises(ConfigError, match="no task 'lfit'; did you mean 'lift'"):
        generate_demos(tmp_path / "lift.hdf5", 1, task="lfit", progress=False)


class OneHand:
    """A plugin; a package would name a module of such functions in the entry-point group `robomimic_frozen`."""

    @hookimpl
    def tasks(self):
        steady = ScriptedOperator("steady", "calm", 0.9, 0.75, 0.0, 0.2, 0.06, 0.012, 0.5)
        return [Task("lift_calmly", "Lift", ("frontview",), image_size=16, horizon=150, operators=(steady,), make_policy=LiftPolicy)]


class Idler:
    """Gets nowhere, whatever the task."""

    def __init__(self, operator: Operator, rng: np.random.Generator) -> None:
        pass

    def __call__(self, obs: dict) -> np.ndarray:
        return np.zeros(7)


def test_an_operator_who_fails_too_often_is_named_before_anything_is_rendered(monkeypatch):
    use_obs_keys()
    monkeypatch.setattr("robomimic_frozen.data.episodes.MAX_ATTEMPTS", 2)
    monkeypatch.setattr("robomimic_frozen.data.episodes._filmed", lambda *view: (None, None))
    monkeypatch.setattr("robomimic_frozen.data.episodes._record", lambda *attempt: pytest.fail("it was rendered"))
    idle = Task("idle", "Lift", ("frontview",), image_size=8, horizon=3, operators=(Operator("idler", "idle"),), make_policy=Idler)
    with pytest.raises(DatasetError, match="operator idler did not solve idle in 2 attempts"):
        make_episode(idle, ("frontview",), 8, seed=0, index=0)


@pytest.mark.sim
def test_a_task_of_a_plugin_is_shown_by_its_operators(tmp_path, request, monkeypatch):
    monkeypatch.setattr("robomimic_frozen.data.demos.Processes", lambda workers: ThisProcess())  # a worker takes longer to start
    plugin = OneHand()
    plugin_manager().register(plugin)
    request.addfinalizer(lambda: plugin_manager().unregister(plugin))
    summary = generate_demos(tmp_path / "calm.hdf5", 1, workers=1, progress=False, task="lift_calmly")
    assert summary.frames_per_group == {"calm": summary.num_frames}
    assert mask(summary.path, "calm") == ["demo_0"]
    with h5py.File(summary.path) as file:
        assert file["data/demo_0/obs/frontview_image"].shape == (summary.num_frames, 16, 16, 3)


def test_every_attempt_starts_elsewhere_and_repeats():
    use_obs_keys()
    seeds = [episode_seeds(*numbers)[0] for numbers in [(0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]]
    same, again, *others = [make_physics_env("Lift", seed).reset()["object"].tolist() for seed in seeds]
    assert same == again
    assert len({tuple(start) for start in [same, *others]}) == 4


@pytest.mark.sim
def test_summary_and_format(summary):
    assert (summary.num_demos, summary.attempts) == (NUM_DEMOS, sum(summary.attempts_per_operator.values()))
    with h5py.File(summary.path) as file:
        assert file["data"].attrs["total"] == summary.num_frames == sum(summary.frames_per_group.values())
        assert list(file["data"]) == [f"demo_{index}" for index in range(NUM_DEMOS)]
        for demo in file["data"].values():
            steps = demo.attrs["num_samples"]
            expected = {"actions": (7,), "states": (32,), "rewards": (), "dones": ()}
            assert {key: demo[key].shape for key in expected} == {key: (steps, *rest) for key, rest in expected.items()}
            assert demo["actions"].dtype == demo["states"].dtype == demo["rewards"].dtype == np.float64
            assert demo["rewards"][0] == demo["dones"][0] == 0
            assert demo["rewards"][-1] == demo["dones"][-1] == 1
            image = demo["obs/agentview_image"]
            assert (image.shape, image.dtype) == ((steps, 32, 32, 3), np.uint8)
            assert image[()].std() > 10
            assert demo["obs/object"].shape == (steps, 10)
            assert demo["obs/robot0_eef_pos"].shape == (steps, 3)
            assert str(Path.home()) not in demo.attrs["model_file"]


@pytest.mark.sim
def test_env_args_make_the_same_env_anywhere(summary):
    with h5py.File(summary.path) as file:
        meta = json.loads(file["data"].attrs["env_args"])
    assert (meta["env_name"], meta["type"]) == ("Lift", 1)
    assert meta["env_kwargs"]["camera_names"] == ["agentview"]
    assert not {"seed", "render_gpu_device_id"} & set(meta["env_kwargs"])
    assert os.sep not in json.dumps(meta)


@pytest.mark.sim
def test_same_bytes_from_any_number_of_workers(summary, tmp_path):
    again = generate_demos(tmp_path / "again.hdf5", NUM_DEMOS, workers=2, **SMALL)
    assert again.path.read_bytes() == summary.path.read_bytes()
    assert list(tmp_path.iterdir()) == [again.path]


@pytest.mark.sim
def test_stock_dataset_info_accepts_it(summary):
    program = "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    report = run(program, STOCK_SCRIPTS / "get_dataset_info.py", "--dataset", summary.path)
    assert f"total trajectories: {NUM_DEMOS}" in report
    assert "filter key valid with 1 demos" in report


@pytest.mark.sim
def test_stock_playback_reaches_the_same_states(summary, monkeypatch, capsys):
    robomimic_frozen.register()
    script = str(STOCK_SCRIPTS / "playback_dataset.py")
    for actions in ([], ["--use-actions"]):
        monkeypatch.setattr(sys, "argv", [script, "--dataset", str(summary.path), *actions])
        runpy.run_path(script, run_name="__main__")
    report = capsys.readouterr().out
    assert report.count("Playing back episode") == 2 * NUM_DEMOS
    assert "diverged" not in report


@pytest.mark.sim
def test_observations_are_those_of_a_stock_rollout(summary):
    use_obs_keys("agentview_image")
    import robomimic.utils.env_utils as EnvUtils

    with h5py.File(summary.path) as file:
        meta = json.loads(file["data"].attrs["env_args"])
        env = EnvUtils.create_env_from_metadata(meta, render_offscreen=True, use_image_obs=True)
        demo = file["data/demo_0"]
        obs = env.reset_to({"model": demo.attrs["model_file"], "states": demo["states"][0]})
        assert set(obs) == set(demo["obs"])
        for step, action in enumerate(demo["actions"]):
            image = as_uint8(obs["agentview_image"])
            np.testing.assert_array_equal(image, demo["obs/agentview_image"][step])
            np.testing.assert_array_equal(obs["object"], demo["obs/object"][step])
            obs, reward, _, _ = env.step(action)
            assert reward == demo["rewards"][step]
        assert env.is_success()["task"]


def as_uint8(image: np.ndarray) -> np.ndarray:
    """[H, W, 3] uint8, whether robomimic has made it [3, H, W] float (0.3) or not (later)."""
    if image.dtype == np.uint8:
        return image
    return (image.transpose(1, 2, 0) * 255).round().astype(np.uint8)


@pytest.mark.sim
def test_interrupt_leaves_nothing(tmp_path):
    program = "import sys; from robomimic_frozen.data import generate_demos; generate_demos(sys.argv[1], 60)"
    command = [sys.executable, "-c", program, str(tmp_path / "lift.hdf5")]
    process = subprocess.Popen(
        command, start_new_session=True, stderr=subprocess.DEVNULL,
        # Where these tests run as a shell's background job, they have inherited that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: any(tmp_path.iterdir()))
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=20)
    assert process.returncode != 0
    assert not list(tmp_path.iterdir())
    wait_for(lambda: not group_lives(process.pid))


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def group_lives(group: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False
