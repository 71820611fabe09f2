"""Image datasets of raw files: what stock robomimic would have written, whatever happens on the way."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
from hub_server import Hub, serving
from small_datasets import write_raw_file

import robomimic_frozen
from robomimic_frozen import cli, cli_flags
from robomimic_frozen.data.raw_file import RawFile, for_robosuite_1_5, read_raw_file
from robomimic_frozen.data.rendering import View, _fingerprint, check_images, render_dataset
from robomimic_frozen.data.sources import HUB_REPO, RELEASED
from robomimic_frozen.errors import ConfigError, DatasetError
from robomimic_frozen.simulation import gl
from robomimic_frozen.utils.files import exclusive_lock
from robomimic_frozen.utils.parallel import ThisProcess

CAMERAS = ("agentview", "robot0_eye_in_hand")
SIZE = 32
STEPS = 4
FULL = View(CAMERAS, SIZE, next_obs=True)


@pytest.fixture(scope="module")
def raw_path(lift_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last steps of two demos, in which the cube is up, without their observations."""
    path = tmp_path_factory.mktemp("raw") / "demo.hdf5"
    write_raw_file(lift_dataset, path, ("demo_0", "demo_1"), STEPS)
    with h5py.File(path, "a") as file:
        file["mask/train"] = np.array(["demo_1"], dtype="S")
        file["mask/better"] = np.array(["demo_0"], dtype="S")
    return path


@pytest.fixture(scope="module")
def raw(raw_path: Path) -> RawFile:
    return read_raw_file(raw_path)


@pytest.fixture(scope="module")
def stock(raw_path: Path) -> Path:
    """What robomimic's dataset_states_to_obs.py makes of it."""
    gl.select_gl_backend()
    robomimic_frozen.register()
    from robomimic.scripts.dataset_states_to_obs import dataset_states_to_obs

    settings = {"dataset": str(raw_path), "output_name": "stock.hdf5", "camera_names": list(CAMERAS), "done_mode": 2}
    sizes = {"camera_height": SIZE, "camera_width": SIZE}
    off = dict.fromkeys(("shaped", "copy_rewards", "copy_dones", "exclude_next_obs", "compress", "depth"), False)
    dataset_states_to_obs(argparse.Namespace(**settings, **sizes, **off, n=None))
    return raw_path.with_name("stock.hdf5")


@pytest.fixture
def rendered(raw: RawFile, tmp_path: Path) -> Path:
    render_dataset(raw, tmp_path / "image.hdf5", FULL, ThisProcess(), progress=False)
    return tmp_path / "image.hdf5"


@pytest.fixture
def changed_raw(raw_path: Path, tmp_path: Path) -> Iterator[h5py.File]:
    """A copy to spoil."""
    with h5py.File(shutil.copy(raw_path, tmp_path / "spoilt.hdf5"), "r+") as file:
        yield file


def contents(path: Path, *without: str) -> dict[str, object]:
    """Every array and attribute of a file, by its path."""
    found: dict[str, object] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not any(part in without for part in name.split("/")):
            found.update({f"{name}@{key}": value for key, value in item.attrs.items()})
            found[name] = (item.dtype.str, item.shape, item[()].tobytes()) if isinstance(item, h5py.Dataset) else None

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.sim
def test_it_writes_what_dataset_states_to_obs_writes_and_nothing_else(rendered, stock, tmp_path):
    expected, found = contents(stock), contents(rendered)
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert {f"data/demo_1/{obs}/{camera}_image" for obs in ("obs", "next_obs") for camera in CAMERAS} < found.keys()
    with h5py.File(rendered) as file:
        assert file["data/demo_0/obs/agentview_image"][()].std() > 10
        assert file["data/demo_0/rewards"][-1] == 1
        assert list(file["mask/train"]) == [b"demo_1"]
    assert list(tmp_path.iterdir()) == [rendered]


def start(*arguments: object, **settings: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "robomimic_frozen.cli", "data", *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **settings}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.sim
@pytest.mark.fault("rendering killed after its first demo", "the next run goes on after that, and ends in what stock robomimic writes")
def test_a_released_set_is_downloaded_rendered_killed_and_rendered_to_the_end(raw_path, stock, tmp_path, capsys, monkeypatch):
    out = tmp_path / "lift.hdf5"
    arguments = ("lift-mh", "--out", out, "--image-size", SIZE, "--workers", 1)
    with serving(Hub({f"datasets/{HUB_REPO}": {RELEASED["lift-mh"]: raw_path.read_bytes()}})) as hub:
        process = start(*arguments, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path / "hub"), NO_PROXY="*")
        wait_for(lambda: process.poll() is not None or any(tmp_path.glob(".lift.hdf5.partial/*/demo_0.hdf5")))
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert not out.exists()
    (first,) = tmp_path.glob(".lift.hdf5.partial/*/demo_0.hdf5")
    with h5py.File(first, "r+") as file:
        file["data/demo_0"].attrs["rendered_by"] = "the first process"

    monkeypatch.setattr(cli_flags, "Processes", lambda workers: ThisProcess())
    assert cli.main(["data", str(raw_path), *map(str, arguments[1:]), "--check"]) == 0
    printed = capsys.readouterr().out
    assert f"2 demonstrations, {2 * STEPS} frames of agentview, robot0_eye_in_hand" in printed
    assert f"{2 * STEPS} frames are what is rendered again" in printed
    found, expected = contents(out), contents(stock, "next_obs")
    assert found.pop("data/demo_0@rendered_by") == "the first process"
    assert found == expected
    assert {path.name for path in tmp_path.iterdir()} == {"lift.hdf5", "hub"}


@pytest.mark.sim
def test_from_url_to_url_it_writes_the_same(raw_path, stock, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where copies lie
    monkeypatch.setattr(cli_flags, "Processes", lambda workers: ThisProcess())
    fsspec.filesystem("memory").put_file(str(raw_path), "/raw/demo.hdf5")
    arguments = ["data", "memory://raw/demo.hdf5", "--out", "memory://rendered/lift.hdf5", "--image-size", str(SIZE), "--check"]
    assert cli.main(arguments) == 0
    fsspec.filesystem("memory").get_file("/rendered/lift.hdf5", str(tmp_path / "lift.hdf5"))
    assert contents(tmp_path / "lift.hdf5") == contents(stock, "next_obs")
    assert "frames are what is rendered again" in capsys.readouterr().out
    assert cli.main(arguments[:-1]) == 1
    assert "memory://rendered/lift.hdf5 exists already" in capsys.readouterr().err


@pytest.mark.sim
def test_absolute_actions_are_added_under_the_names_of_robomimic_s_scripts_and_nothing_else_changes(raw, stock, tmp_path):
    render_dataset(raw, tmp_path / "absolute.hdf5", dataclasses.replace(FULL, absolute_actions=True), ThisProcess(), progress=False)
    assert contents(tmp_path / "absolute.hdf5", "actions_abs", "action_dict") == contents(stock)
    with h5py.File(tmp_path / "absolute.hdf5") as file:
        demo = file["data/demo_0"]
        absolute, parts = demo["actions_abs"][()], {name: values[()] for name, values in demo["action_dict"].items()}
        positions, actions = demo["obs/robot0_eef_pos"][()], demo["actions"][()]
    # An action of 1 is 5 cm, from where the hand is; positions are those of the base from here to there.
    from_the_world = (absolute[:, :3] - (positions + 0.05 * actions[:, :3]))[1:]
    assert np.abs(from_the_world - from_the_world[0]).max() < 1e-4
    np.testing.assert_array_equal(absolute[:, 6], actions[:, 6])
    assert {name: values.shape[1] for name, values in parts.items()} == {
        "abs_pos": 3, "abs_rot_axis_angle": 3, "abs_rot_6d": 6, "gripper": 1}  # fmt: skip
    joined = np.concatenate([parts[name] for name in ("abs_pos", "abs_rot_axis_angle", "gripper")], axis=1)
    np.testing.assert_allclose(joined, absolute, atol=1e-6)


@pytest.mark.sim
def test_a_changed_pixel_is_found(raw_path, stock, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli_flags, "Processes", lambda workers: ThisProcess())
    path = Path(shutil.copy(stock, tmp_path / "changed.hdf5"))
    with h5py.File(path, "r+") as file:
        image = file["data/demo_1/obs/robot0_eye_in_hand_image"]
        image[2, 3, 4, 1] = image[2, 3, 4, 1] ^ 1
    assert cli.main(["data", str(raw_path), "--out", str(path), "--check"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(f"robot0_eye_in_hand_image of step 2 of demo_1 is not what .* in 1 of {SIZE**2} pixels", error)


def test_a_file_of_other_demos_is_not_compared(raw, stock, tmp_path):
    path = Path(shutil.copy(stock, tmp_path / "other.hdf5"))
    with h5py.File(path, "r+") as file:
        file.move("data/demo_1", "data/demo_7")
    with pytest.raises(DatasetError, match="not rendered from .*: demo_7 is only in one"):
        check_images(raw, path, ThisProcess())
    with h5py.File(path, "r+") as file:
        del file["data/demo_7"], file["data/demo_0/obs/agentview_image"], file["data/demo_0/obs/robot0_eye_in_hand_image"]
    with pytest.raises(DatasetError, match="has no images"):
        check_images(raw, path, ThisProcess())


@pytest.mark.fault("two processes that render one file", "one renders, the other says so in one line")
def test_of_two_processes_one_renders(raw, tmp_path):
    with exclusive_lock(tmp_path / ".image.hdf5.partial", "rendering"), pytest.raises(ConfigError, match="another rendering is writing"):
        render_dataset(raw, tmp_path / "image.hdf5", FULL, ThisProcess(), progress=False)
    assert not (tmp_path / "image.hdf5").exists()


@pytest.mark.sim
def test_what_another_process_finished_in_the_meantime_is_kept(raw, tmp_path, monkeypatch):
    out = tmp_path / "image.hdf5"
    monkeypatch.setattr(gl, "select_gl_backend", lambda: out.write_bytes(b"theirs") and "egl")
    with pytest.raises(DatasetError, match="exists already"):
        render_dataset(raw, out, FULL, ThisProcess(), progress=False)
    assert out.read_bytes() == b"theirs"


def test_a_disk_that_will_be_full_is_seen_beforehand(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: types.SimpleNamespace(free=2**24))
    with pytest.raises(DatasetError, match="has 16 MB free, and .* needed"):
        render_dataset(raw, tmp_path / "image.hdf5", FULL, ThisProcess(), progress=False)


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Make it fail to write more to a file, as on a full disk, while the block runs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.sim
@pytest.mark.fault("a disk that is full while demos are rendered, and while they are merged", "one line; what is rendered is kept", times=2)
def test_a_disk_that_is_full_all_the_same_leaves_nothing_half_written(raw, tmp_path):
    out = tmp_path / "image.hdf5"
    for size, left in ((30_000, set()), (90_000, {"demo_0.hdf5", "demo_1.hdf5"})):  # of a part, and of all of them
        with files_up_to(size), pytest.raises(DatasetError, match="cannot write .*image.hdf5 .*; what is rendered is kept"):
            render_dataset(raw, out, View(("agentview",), 8), ThisProcess(), progress=False)
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {".lock", *left}


def test_what_was_rendered_otherwise_is_not_gone_on_from(raw, stock, monkeypatch):
    another_raw = dataclasses.replace(raw, path=stock)
    views = [FULL, View(CAMERAS, SIZE), View(CAMERAS, 84), View(("agentview",), SIZE)]
    folders = {_fingerprint(raw, view, "egl") for view in views}
    folders |= {_fingerprint(another_raw, FULL, "egl"), _fingerprint(raw, FULL, "osmesa")}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0")
    folders.add(_fingerprint(raw, FULL, "egl"))
    assert len(folders) == len(views) + 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--out", "{tmp}/precious"), "precious exists already; delete it or choose another name"),
        (("--out", "{tmp}/precious/image.hdf5"), "cannot write to .*precious is no writable folder"),
        (("--cameras", "frontwiev"), "have no camera 'frontwiev'; choose from .*frontview"),
        (("--image-size", "0"), "--image-size is 0; choose 1 or more"),
        (("--workers", "0"), "--workers is 0; choose 1 or more"),
    ],
)
def test_bad_flags_are_one_line_and_touch_no_file(raw_path, flags, words, tmp_path, capfd):
    (tmp_path / "precious").write_bytes(b"precious")
    arguments = ["data", str(raw_path), "--out", str(tmp_path / "image.hdf5"), *(flag.format(tmp=tmp_path) for flag in flags)]
    assert cli.main(arguments) == 1
    assert re.search(words, capfd.readouterr().err.strip().splitlines()[-1])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"precious"]


def rename_a_gripper(file):
    model = file["data/demo_1"].attrs["model_file"]
    file["data/demo_1"].attrs["model_file"] = model.replace("fixed_mount0_", "mount0_").replace("gripper0_right_", "gripper0_")


def lose_a_step(file):
    actions = file["data/demo_1/actions"][1:]
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = actions


def lose_a_joint(file):
    states = file["data/demo_0/states"][:, 1:]
    del file["data/demo_0/states"]
    file["data/demo_0/states"] = states


def set_env_args(**changes):
    def change(file):
        meta = {**json.loads(file["data"].attrs["env_args"]), **changes}
        file["data"].attrs["env_args"] = json.dumps({key: value for key, value in meta.items() if value is not None})

    return change


SPOILT = {
    "no demos": (lambda file: file.move("data", "elsewhere"), "data is missing"),
    "no states": (lambda file: file["data/demo_1"].__delitem__("states"), "demo_1/states is missing"),
    "a step without action": (lose_a_step, r"demo_1 has states \[4, 32\] and actions \[3, 7\]"),
    "no scene": (lambda file: file["data/demo_0"].attrs.__delitem__("model_file"), "model_file of demo_0 is missing"),
    "a scene of robosuite 1.4": (rename_a_gripper, "demo_1 has a scene of robosuite before 1.5.*data lift-mh"),
    "a demo called something else": (lambda file: file.move("data/demo_1", "data/.."), "demos are called demo_0"),
    "no env_args": (lambda file: file["data"].attrs.__delitem__("env_args"), "env_args is missing.*convert_robosuite.py"),
    "another simulator": (set_env_args(type=2), "type 2 is not of robosuite"),
    "an environment that is none": (set_env_args(env_kwargs={}), "env_args describes no environment of robosuite: it lacks robots"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_raw_file_that_cannot_be_rendered_is_refused_with_the_reason(case, changed_raw):
    spoil, words = SPOILT[case]
    spoil(changed_raw)
    changed_raw.flush()
    with pytest.raises(DatasetError, match=words):
        read_raw_file(Path(changed_raw.filename))


@pytest.mark.sim
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (set_env_args(env_name="Lfit"), "the environment 'Lfit', which no package here has; did you mean 'Lift'"),
        (lose_a_joint, "cannot play /data/demo_0 back"),
    ],
    ids=["an unknown environment", "states of another scene"],
)
def test_what_robosuite_cannot_do_is_told_as_one_error(spoil, words, changed_raw, tmp_path):
    spoil(changed_raw)
    changed_raw.flush()
    with pytest.raises(DatasetError, match=words):
        render_dataset(read_raw_file(Path(changed_raw.filename)), tmp_path / "out.hdf5", View(("agentview",), 8), ThisProcess(), False)


# What robomimic's documentation shows of its sets for robosuite 1.4, and what its sets for 1.5 hold in its place.
OSC_POSE = {
    "type": "OSC_POSE", "input_max": 1, "input_min": -1, "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5], "kp": 150, "damping": 1, "impedance_mode": "fixed", "kp_limits": [0, 300],
    "damping_limits": [0, 10], "position_limits": None, "orientation_limits": None, "uncouple_pos_ori": True, "control_delta": True,
    "interpolation": None, "ramp_ratio": 0.2,
}  # fmt: skip
RELEASED_1_5 = {"type": "BASIC", "body_parts": {"right": {**OSC_POSE, "input_ref_frame": "world", "gripper": {"type": "GRIP"}}}}


def env_meta(controller=OSC_POSE, version="1.4.1", robots=("Panda",), **changes):
    kwargs = {"robots": list(robots), "control_freq": 20, "controller_configs": controller, **changes}
    return {"env_name": "Lift", "env_version": version, "type": 1, "env_kwargs": kwargs}


def controller_of(meta):
    import robosuite

    env = robosuite.make("Lift", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False, **meta["env_kwargs"])
    arm = env.robots[0].part_controllers["right"]
    gains = [getattr(arm, key).tolist() for key in ("kp", "kd", "input_min", "input_max", "output_min", "output_max")]
    return type(arm).__name__, arm.input_type, arm.input_ref_frame, arm.lite_physics, env.lite_physics, arm.uncoupling, gains


@pytest.mark.parametrize("version", ["1.4.1", "1.2.0", None])
def test_a_controller_of_robosuite_1_4_becomes_what_it_is_in_the_released_sets(version):
    converted = for_robosuite_1_5(env_meta(version=version))
    assert converted["env_kwargs"]["lite_physics"] is False
    assert controller_of(converted) == controller_of(env_meta(RELEASED_1_5, "1.5.1", lite_physics=False))
    assert controller_of(converted)[1:5] == ("delta", "world", False, False)


def test_every_robot_keeps_its_controller():
    one, other = OSC_POSE, {**OSC_POSE, "kp": 50, "control_delta": False}
    converted = for_robosuite_1_5(env_meta([one, other], robots=("Panda", "Sawyer")))["env_kwargs"]["controller_configs"]
    assert [part["body_parts"]["right"]["kp"] for part in converted] == [150, 50]
    assert [part["body_parts"]["right"]["input_type"] for part in converted] == ["delta", "absolute"]


@pytest.mark.parametrize("controller", [RELEASED_1_5, None, [RELEASED_1_5]])
def test_metadata_of_robosuite_1_5_stays_as_it_is(controller):
    assert for_robosuite_1_5(env_meta(controller, "1.5.1")) == env_meta(controller, "1.5.1")


REFUSED = {
    "another controller": (env_meta({**OSC_POSE, "type": "OSC_POSITION"}), "'OSC_POSITION' moves the arm in another way"),
    "an unknown setting": (env_meta({**OSC_POSE, "kq": 1}), "what kq of its controller would be"),
    "no controller": (env_meta(None), "its controller is None, no settings, and the default is another"),
    "a controller of settings elsewhere": (env_meta("osc_pose.json"), "its controller is 'osc_pose.json'"),
    "too few controllers": (env_meta([OSC_POSE], robots=("Panda", "Panda")), "1 controllers for 2 robots"),
    "limits": (env_meta({**OSC_POSE, "position_limits": [0, 1]}), "position_limits are not to be had"),
    "damping": (env_meta({**OSC_POSE, "damping": 2}), "heeded damping depends on a version"),
    "limits of damping": (env_meta({**OSC_POSE, "impedance_mode": "variable"}), "heeded damping"),
    "a robot with two arms": (env_meta(robots=("Baxter",)), "'Baxter' was controlled"),
    "absolute actions that 1.5 takes for deltas": (
        env_meta({"body_parts": {"right": {**OSC_POSE, "control_delta": False}}}, "1.5.1"), "control_delta of right is false"
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_known_counterpart_in_robosuite_1_5_is_refused_with_the_reason(case):
    meta, words = REFUSED[case]
    with pytest.raises(DatasetError, match=f"cannot be made with robosuite 1.5 .*{words}"):
        for_robosuite_1_5(meta)
