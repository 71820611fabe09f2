"""What robosuite's own teleoperation records, and files of packages that add environments to robosuite, as `data` takes them."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import pytest
from test_data_rendering import OSC_POSE, contents
from test_stock_scripts import CONFIGS, SHORT

import robomimic_frozen
from robomimic_frozen import cli, cli_flags
from robomimic_frozen.data.operators.lift import OPERATORS, LiftPolicy
from robomimic_frozen.data.raw_file import for_robosuite_1_5, read_raw_file
from robomimic_frozen.errors import DatasetError, MalformedError
from robomimic_frozen.simulation import gl, tasks
from robomimic_frozen.simulation.environments import check_can_be_made
from robomimic_frozen.utils.parallel import ThisProcess

CAMERAS = ("agentview", "robot0_eye_in_hand")
SIZE = 32
STEPS = 4


class ScriptedDevice:
    """Takes the place of a keyboard or a SpaceMouse: a scripted operator who lifts the cube."""

    active_robot = 0

    def __init__(self, env):
        self.env = env

    def start_control(self):
        self.policy = LiftPolicy(OPERATORS[0], np.random.default_rng(0))

    def input2action(self, goal_update_mode):
        obs = self.env._get_observations(force_update=True)
        action = self.policy({**obs, "object": obs["object-state"]})
        return {"right_delta": action[:6], "right_gripper": action[6:]}


def record(folder):
    """Do as the main part of robosuite's collect_human_demonstrations.py does by default, without a window and a device."""
    import robosuite
    import robosuite.scripts.collect_human_demonstrations as script
    from robosuite.wrappers import DataCollectionWrapper, VisualizationWrapper

    robots = "Panda"  # the default of --robots; the script takes its first letter for the first robot
    controller = robosuite.load_composite_controller_config(controller=None, robot=robots[0])
    config = {"env_name": "Lift", "robots": robots, "controller_configs": controller}
    unseen = {"has_renderer": False, "has_offscreen_renderer": False, "use_camera_obs": False}
    env = VisualizationWrapper(robosuite.make(**config, **unseen, ignore_done=True, reward_shaping=True, control_freq=20, seed=0))
    env_info = json.dumps(config)
    env = DataCollectionWrapper(env, str(folder / "episodes"))
    with mock.patch.object(env, "render", create=True):
        script.collect_human_trajectory(env, ScriptedDevice(env), "right", None, "target")
    script.gather_demonstrations_as_hdf5(str(folder / "episodes"), str(folder), env_info)
    return folder / "demo.hdf5"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demonstration of Lift as robosuite writes it, of which the last steps are left, in which the cube is up."""
    gl.select_gl_backend()
    path = record(tmp_path_factory.mktemp("recording"))
    with h5py.File(path, "a") as file:
        (demo,) = file["data"].values()
        assert len(demo["actions"]) > 30
        for key in ("states", "actions"):
            last = demo[key][-STEPS:]
            del demo[key]
            demo[key] = last
    return path


@pytest.fixture(scope="module")
def rendered(recording: Path) -> Path:
    path = recording.with_name("image.hdf5")
    with mock.patch.object(cli_flags, "Processes", return_value=ThisProcess()):
        assert cli.main(["data", str(recording), "--out", str(path), "--image-size", str(SIZE), "--absolute-actions", "--check"]) == 0
    return path


@pytest.fixture
def changed(recording: Path, tmp_path: Path):
    """Writes a copy of the recording with other attributes of 'data', with None for what it is not to have."""

    def write(**attributes):
        path = Path(shutil.copy(recording, tmp_path / "changed.hdf5"))
        with h5py.File(path, "a") as file:
            for name, value in attributes.items():
                del file["data"].attrs[name]
                if value is not None:
                    file["data"].attrs[name] = value if isinstance(value, str) else json.dumps(value)
        return path

    return write


def env_info_of(path, **changes):
    with h5py.File(path) as file:
        return {**json.loads(file["data"].attrs["env_info"]), **changes}


def convert_and_render_by_robomimic(path):
    """Run convert_robosuite.py, which changes the file, and dataset_states_to_obs.py."""
    robomimic_frozen.register()
    from robomimic.scripts.dataset_states_to_obs import dataset_states_to_obs

    with mock.patch.object(sys, "argv", ["convert_robosuite.py", "--dataset", str(path)]):
        runpy.run_module("robomimic.scripts.conversion.convert_robosuite", run_name="__main__")
    sizes = {"camera_height": SIZE, "camera_width": SIZE}
    off = dict.fromkeys(("shaped", "copy_rewards", "copy_dones", "exclude_next_obs", "compress", "depth"), False)
    settings = {"dataset": str(path), "output_name": "stock.hdf5", "camera_names": list(CAMERAS), "done_mode": 2}
    dataset_states_to_obs(argparse.Namespace(**settings, **sizes, **off, n=None))
    return path.with_name("stock.hdf5")


@pytest.mark.sim
def test_a_recording_becomes_what_robomimics_two_scripts_make_of_it(recording, rendered, tmp_path):
    stock = convert_and_render_by_robomimic(Path(shutil.copy(recording, tmp_path / "copy.hdf5")))
    # The parts of relative actions are written by convert_robosuite.py of 0.5 alone, those of absolute ones were asked for here.
    expected, found = contents(stock, "next_obs", "mask", "action_dict"), contents(rendered, "actions_abs", "action_dict")
    expected["data/demo_1@model_file"] = tasks.portable_model(expected["data/demo_1@model_file"])
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    with h5py.File(rendered) as file:
        assert list(file["data"]) == ["demo_1"]
        assert file["data/demo_1/rewards"][()].tolist() == [1.0] * STEPS
        assert file["data/demo_1/obs/agentview_image"][()].std() > 10


@pytest.mark.sim
def test_absolute_actions_of_a_recording_lead_from_where_the_hand_is(rendered):
    with h5py.File(rendered) as file:
        demo = file["data/demo_1"]
        absolute, actions, positions = (demo[key][()] for key in ("actions_abs", "actions", "obs/robot0_eef_pos"))
    from_the_base = (absolute[:, :3] - (positions + 0.05 * actions[:, :3]))[1:]
    assert np.abs(from_the_base - from_the_base[0]).max() < 1e-4
    np.testing.assert_array_equal(absolute[:, 6], actions[:, 6])


@pytest.mark.sim
def test_a_policy_trains_on_a_rendered_recording_and_rolls_out(rendered, tmp_path, capfd):
    pytest.importorskip("efficientnet_lite_pytorch")
    rollouts = {f"experiment.rollout.{key}": value for key, value in (("enabled", True), ("rate", 1), ("n", 1), ("horizon", 2))}
    here = {"train.output_dir": str(tmp_path / "runs"), "algo.feature_cache.dir": str(tmp_path / "features")}
    sets = [f"--set={key}={json.dumps(value)}" for key, value in {**SHORT, **here, **rollouts}.items()]
    assert cli.main(["train", "--config", str(CONFIGS / "lift_mh_offline.json"), "--dataset", str(rendered), *sets]) == 0
    assert '"Success_Rate"' in capfd.readouterr().out
    assert len(list((tmp_path / "runs").rglob("models/*.pth"))) == 1


def test_doctor_says_that_a_recording_is_one_and_what_to_do(recording, capfd):
    assert cli.main(["doctor", str(recording)]) == 1
    printed = " ".join(capfd.readouterr().out.split())
    assert "WARNING data: is a recording of robosuite's teleoperation, without observations -> robomimic-frozen data FILE" in printed
    assert f"Lift, version {importlib.metadata.version('robosuite')} demos 1, of {STEPS} to {STEPS} steps" in printed
    assert "errors: 0, warnings: 1, notes: 0" in printed


def test_doctor_finds_what_is_wrong_with_a_recording(changed, capfd):
    path = changed(env_info="{")
    with h5py.File(path, "a") as file:
        file["data/demo_1/actions"][0] = np.nan
    assert cli.main(["doctor", str(path)]) == 2
    printed = " ".join(capfd.readouterr().out.split())
    assert "ERROR env_info: is not JSON" in printed and "ERROR actions of demo_1: holds NaN" in printed


def test_training_on_a_recording_is_refused_with_what_to_do(recording, capfd):
    assert cli.main(["train", "--config", str(CONFIGS / "lift_mh_offline.json"), "--dataset", str(recording)]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("robomimic-frozen train: ")]
    assert line.endswith("is a recording of robosuite's teleoperation, without observations; robomimic-frozen data FILE renders them")


MALFORMED = {
    "no JSON": ({"env_info": "{"}, "env_info is not JSON .*; write it as robosuite's"),
    "a list": ({"env_info": ["Lift"]}, "env_info is not a JSON object"),
    "no robots": ({"env_info": {"env_name": "Lift"}}, "env_info describes no environment of robosuite: it lacks robots"),
    "no env": ({"env": None}, "env_args is missing; convert the file"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_recording_that_does_not_say_its_environment_is_refused_in_one_line(case, changed):
    attributes, words = MALFORMED[case]
    with pytest.raises(MalformedError, match=words) as refusal:
        read_raw_file(changed(**attributes))
    assert "\n" not in str(refusal.value)


def test_a_recording_of_robosuite_1_4_is_converted_as_env_args_of_that_version_are(recording, changed):
    env_info = env_info_of(recording, controller_configs=OSC_POSE)
    env_args = {"type": 1, "env_name": "Lift", "env_version": "1.4.1", "env_kwargs": env_info}
    assert read_raw_file(changed(repository_version="1.4.1", env_info=env_info)).env_meta == for_robosuite_1_5(env_args)
    with pytest.raises(DatasetError, match="changed.hdf5: its environment cannot be made with robosuite 1.5 .*'OSC_POSITION' moves"):
        read_raw_file(changed(repository_version="1.4.1", env_info={**env_info, "controller_configs": {"type": "OSC_POSITION"}}))


OF_PACKAGES = {"mimicgen": ("Stack_D1", {}), "robocasa": ("PnPCounterToCab", {"layout_ids": -1, "style_ids": -1})}


@pytest.mark.parametrize("package", OF_PACKAGES)
def test_a_file_of_a_package_that_is_missing_is_refused_by_its_name_before_anything_is_written(package, recording, changed, capfd):
    name, settings = OF_PACKAGES[package]
    path = changed(env=name, env_info=env_info_of(recording, **settings))
    assert cli.main(["data", str(path), "--out", str(path.with_name("image.hdf5"))]) == 1
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert re.search(f"changed.hdf5: .*the environment '{name}', which no package here has; install {package}", line), line
    assert "rollouts" not in line
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("package", OF_PACKAGES)
def test_a_package_that_cannot_be_imported_is_told_with_the_reason(package, tmp_path, monkeypatch):
    name, settings = OF_PACKAGES[package]
    (tmp_path / f"{package}.py").write_text("assert False, 'it needs another MuJoCo'")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MalformedError, match="whose package cannot be imported here .it needs another MuJoCo.; install it"):
        check_can_be_made("demo.hdf5", "env_args", {"type": 1, "env_name": name, "env_kwargs": settings})


ADDS_AN_ENVIRONMENT = """
from robosuite.environments.manipulation.lift import Lift
class Lift_D0(Lift):
    def reward(self, action=None):
        return self._ep_meta["worth"]
"""


@pytest.mark.sim
def test_environments_of_an_installed_package_are_known_to_every_process(recording, changed, tmp_path):
    (tmp_path / "mimicgen.py").write_text(ADDS_AN_ENVIRONMENT)
    path, out = changed(env="Lift_D0"), tmp_path / "image.hdf5"
    with h5py.File(path, "a") as file:
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"worth": 7})
    command = [sys.executable, "-m", "robomimic_frozen.cli", "data", path, "--out", out, "--image-size", "16", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with h5py.File(out) as file:
        assert file["data/demo_1/rewards"][()].tolist() == [7.0] * STEPS
