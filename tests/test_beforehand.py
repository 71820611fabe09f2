"""What is said before a run begins: of environments that it could not roll out in, files of other kinds, lists, and large actions."""

import json
import zipfile

import h5py
import pytest
import robomimic.utils.dataset
import torch
from robomimic_versions import IS_0_5
from small_datasets import IMAGE, POSITION, write_dataset

import robomimic_frozen
from robomimic_frozen.doctor.examine import examine_file
from robomimic_frozen.doctor.findings import Severity
from robomimic_frozen.errors import ConfigError, DatasetError
from robomimic_frozen.integration.checks import check_config
from robomimic_frozen.integration.doubts import large_actions
from robomimic_frozen.integration.environments import check_rollouts
from robomimic_frozen.integration.settings import load_config
from robomimic_frozen.utils import hdf5

OLD_CONTROLLER = {"type": "OSC_POSE", "kp": 150, "control_delta": True}
CAMERA = {"camera_names": ["agentview"], "camera_heights": 8, "camera_widths": 8}


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "small.hdf5")


def set_env_args(dataset, text):
    with h5py.File(dataset, "a") as file:
        file["data"].attrs["env_args"] = text


def config_of(dataset, *overrides):
    robomimic_frozen.register()
    keys = [f'observation.modalities.obs.rgb=["{IMAGE}"]', f'observation.modalities.obs.low_dim=["{POSITION}"]']
    return load_config(None, "fbc_frozen", str(dataset), [*keys, "train.batch_size=4", *overrides])


ENVIRONMENTS = {
    "of a package that is not installed": ({"env_name": "Square_D0"}, "'Square_D0', which no package here has; install mimicgen"),
    "misspelt": ({"env_name": "Lfit"}, "'Lfit', which no package here has; did you mean 'Lift'"),
    "whose name is a list": ({"env_name": ["Lift"]}, "which no package here has"),
    "without a type": ({"type": None}, "lacks type"),
    "of a real robot": ({"type": 4}, "is of type 4, which robomimic makes no environment of; train without rollouts"),
    "of iGibson, which is not installed": ({"type": 3}, "is of type 3, whose package cannot be imported here (.*); install it"),
    "with a controller of robosuite 1.4": (
        {"env_kwargs": {**CAMERA, "controller_configs": OLD_CONTROLLER}}, "controller OSC_POSE .* before 1.5; convert it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_an_environment_is_refused_before_training_where_there_are_rollouts_and_the_doctor_knows(case, dataset):
    changes, words = ENVIRONMENTS[case]
    metadata = {"env_name": "Lift", "env_version": "1.5.2", "type": 1, "env_kwargs": CAMERA, **changes}
    set_env_args(dataset, json.dumps({key: value for key, value in metadata.items() if value is not None}))
    config = config_of(dataset)
    with pytest.raises(DatasetError, match=f"env_args .*{words}"):
        check_rollouts(config)
    assert "env_args" in [finding.where for finding in examine_file(dataset).findings]
    config.experiment.rollout.enabled = False
    check_rollouts(config)


@pytest.fixture
def shown(dataset):
    """A dataset whose environment shows its images."""
    set_env_args(dataset, json.dumps({"env_name": "Lift", "env_version": "1.5.2", "type": 1, "env_kwargs": CAMERA}))
    return dataset


def test_an_environment_that_takes_no_absolute_actions_is_refused_where_the_config_has_such(shown):
    keys = ['train.action_keys=["actions_abs"]', 'train.action_config={"actions_abs": {}}']
    with pytest.raises(ConfigError, match="dataset .*takes no absolute actions: its robots are not controlled by OSC_POSE"):
        check_rollouts(config_of(shown, *keys))


def test_an_environment_that_can_be_made_is_let_through(shown):
    check_rollouts(config_of(shown))


def test_rollouts_in_environments_that_the_config_names_are_looked_at(shown):
    check_rollouts(config_of(shown, "experiment.env=Door", 'experiment.additional_envs=["Stack"]'))
    with pytest.raises(DatasetError, match="'Dor', which no package here has; did you mean 'Door'"):
        check_rollouts(config_of(shown, "experiment.env=Dor"))
    with pytest.raises(DatasetError, match="'Stock'"):
        check_rollouts(config_of(shown, 'experiment.additional_envs=["Stock"]'))
    with pytest.raises(ConfigError, match="additional_envs is 'Stack'; give a list of names"):
        check_rollouts(config_of(shown, "experiment.additional_envs=Stack"))


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_env_args_that_are_no_json_object_are_refused_without_rollouts_too(text, dataset):
    set_env_args(dataset, text)
    for env in ("null", "Lift"):
        with pytest.raises(DatasetError, match="env_args is not (a )?JSON.*; convert the file"):
            check_config(config_of(dataset, f"experiment.env={env}", "experiment.rollout.enabled=false"))


def folder(*names):
    def make(path):
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).touch()

    return make


def archive(*names):
    def make(path):
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, "")

    return make


def act_episode(path):
    with h5py.File(path, "w") as file:
        file["action"], file["observations/qpos"] = [0], [0]


OTHER_THINGS = {
    "lerobot": (folder("meta/info.json", "data/chunk-000/a.parquet"), "is a dataset of LeRobot; read it with .* data lerobot:DIR"),
    "chunk": (folder("a.parquet"), "holds Parquet tables, as LeRobot has them; read it with .* data lerobot:DIR"),
    "a.parquet": (lambda path: path.write_bytes(b"PAR1...PAR1"), "is a Parquet table, .*; read it with .* data lerobot:DIR"),
    "pusht.zarr": (folder(".zgroup", "data/.zgroup"), "is a Zarr store; convert it"),
    "zarr3.zarr": (folder("zarr.json"), "is a Zarr store; convert it"),
    "pusht.zarr.zip": (archive("pusht.zarr/.zgroup"), "is a Zarr store; convert it"),
    "act": (folder("episode_0.hdf5", "episode_1.hdf5"), "holds single episodes, as ACT has them; convert it"),
    "episode_0.hdf5": (act_episode, "has observations at its top, as an episode of ACT .*; convert it"),
    "several": (folder("b.hdf5", "a.hdf5", "sub/c.hdf5"), "is a folder; give a file in it: a.hdf5, b.hdf5, sub/c.hdf5"),
    "empty_folder": (lambda path: path.mkdir(), "is a folder; give a file$"),
    "lift.hdf5.zip": (archive("lift.hdf5"), "is a zip archive; unpack it, and give a file in it: lift.hdf5"),
    "lift.hdf5.gz": (lambda path: path.write_bytes(b"\x1f\x8b\x08"), "is compressed with gzip; unpack it"),
    "lfs.hdf5": (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "is a pointer of git-lfs .*; run git"),
    "page.hdf5": (lambda path: path.write_text("<!DOCTYPE html>"), "is a web page; download the file itself"),
    "nothing.hdf5": (lambda path: path.touch(), "is empty; download or generate it again"),
    "noise.hdf5": (lambda path: path.write_bytes(bytes(range(256))), "cannot be opened as HDF5 .*; download or generate it again"),
    "absent.hdf5": (lambda path: None, "does not exist; give one with --dataset, or make one"),
}


@pytest.mark.parametrize("name", OTHER_THINGS)
def test_what_is_no_dataset_of_robomimic_is_called_what_it_is(name, tmp_path):
    make, words = OTHER_THINGS[name]
    make(tmp_path / name)
    with pytest.raises(DatasetError, match=f"^dataset .*{name} {words}"), hdf5.opened(tmp_path / name):
        pass
    (finding,) = examine_file(tmp_path / name).findings
    assert finding.severity == Severity.ERROR and finding.remedy


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3:/bucket/lift.hdf5", "does not exist; if it is a URL, write it with two slashes: s3://"),
        ("C:\\data\\lift.hdf5", "is a path of Windows; give the one that it has on this machine"),
        ("D:/data/lift.hdf5", "is a path of Windows"),
    ],
)
def test_a_path_of_another_system_and_a_url_with_one_slash_are_recognised(place, words):
    with pytest.raises(DatasetError, match=words), hdf5.opened(place):
        pass
    assert [finding.severity for finding in examine_file(place).findings] == [Severity.ERROR]


def test_a_checkpoint_in_the_place_of_a_dataset_is_called_one(tmp_path):
    torch.save({"a": 1}, tmp_path / "model.ckpt")
    with pytest.raises(DatasetError, match="is a checkpoint; give a dataset"), hdf5.opened(tmp_path / "model.ckpt"):
        pass


def test_the_doctor_examines_a_dataset_at_a_url(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where its copy goes
    assert examine_file(f"file://{dataset}").findings == []


def config_of_list(*entries):
    robomimic_frozen.register()
    return load_config(None, "fbc_frozen", None, [f"train.data={json.dumps(entries)}"])


@pytest.mark.parametrize("entry", ["a.hdf5", {"path": "a.hdf5"}])
def test_a_list_of_one_dataset_is_that_dataset(entry):
    assert config_of_list(entry).train.data == ([{"path": "a.hdf5"}] if IS_0_5 else "a.hdf5")


@pytest.mark.parametrize("entries", [["a.hdf5", "b.hdf5"], [{"path": "a.hdf5", "demo_limit": 2}]])
def test_a_list_that_robomimic_0_3_does_not_take_is_refused_under_it(entries, monkeypatch):
    monkeypatch.delattr(robomimic.utils.dataset, "MetaDataset", raising=False)
    with pytest.raises(ConfigError, match="which needs robomimic 0.5, and .* is installed; install robomimic's master branch, or"):
        config_of_list(*entries)


def test_a_list_of_paths_is_what_robomimic_0_5_takes(monkeypatch):
    monkeypatch.setattr(robomimic.utils.dataset, "MetaDataset", None, raising=False)
    assert config_of_list("a.hdf5", {"path": "b.hdf5", "weight": 2}).train.data == [{"path": "a.hdf5"}, {"path": "b.hdf5", "weight": 2}]


@pytest.mark.parametrize("value", ["3", "[]", "[3]", '{"path": "a.hdf5"}', '[{"weight": 1}]', "true"])
def test_what_names_no_dataset_is_refused(value):
    robomimic_frozen.register()
    with pytest.raises(ConfigError, match="train.data is .*; give the path of a dataset, or a list of them"):
        load_config(None, "fbc_frozen", None, [f"train.data={value}"])


def scale_actions(dataset, demo, factor):
    with h5py.File(dataset, "a") as file:
        file[f"data/{demo}/actions"][...] *= factor


AS_STORED = 'train.action_config={"actions": {"normalization": null}}'


def test_actions_that_leave_the_range_of_robosuite_are_told_before_training(dataset):
    scale_actions(dataset, "demo_2", 300)
    assert not list(large_actions(config_of(dataset, AS_STORED, "train.hdf5_filter_key=train")))
    (doubt,) = check_config(config_of(dataset, AS_STORED))
    assert "are from -2" in doubt and "robosuite clips them to [-1, 1]; scale them" in doubt


def test_nothing_is_said_of_actions_that_are_normalised(dataset):
    scale_actions(dataset, "demo_2", 300)
    assert not list(large_actions(config_of(dataset)))
