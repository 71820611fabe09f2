"""What robomimic 0.5 does otherwise, as far as 0.3, on which the tests run, can show it."""

import importlib.metadata
import json
import pickle
from pathlib import Path

import pytest
import robomimic.scripts.train as script
import torch
from policies import ACTION_DIM, CAMERAS, OBS_SHAPES, make_policy
from robomimic.utils import file_utils, train_utils
from robomimic_versions import IS_0_5

from robomimic_frozen.doctor.examine import examine_checkpoint
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation.evaluate import finished_episodes
from robomimic_frozen.features.dataset import gathering_batches
from robomimic_frozen.integration.settings import load_config
from robomimic_frozen.integration.training import resumable_training
from robomimic_frozen.policies.checkpoints import describe_checkpoint

OFFLINE = Path(__file__).parent.parent / "configs" / "lift_mh_offline.json"


def test_the_config_it_saves_with_a_run_is_read(tmp_path):
    settings = json.loads(OFFLINE.read_text())
    settings["algo"]["optim_params"]["policy"] |= {"num_train_batches": 100, "num_epochs": 40}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert load_config(str(tmp_path / "config.json"), None, None, []).algo.horizon == 16


def test_it_resumes_the_run_that_was_named_also_beside_a_newer_one(tmp_path, monkeypatch):
    run = tmp_path / "20260101000000"
    for folder in (run, tmp_path / "20260202000000"):
        folder.mkdir()
    torch.save({"algo_name": "bc", "config": "{}", "env_metadata": {}, "model": {}}, run / "last.pth")
    monkeypatch.setattr(script, "train", lambda config, device, resume=False: None)
    with resumable_training(1, run):
        folders = train_utils.get_exp_dir(None, resume=True)
    assert folders == tuple(map(str, (run / "logs", run / "models", run / "videos", run)))


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: content.replace(b"last of all", b"another one")])
def test_it_resumes_from_the_backup_of_a_damaged_checkpoint(damage, tmp_path, monkeypatch, caplog):
    checkpoint = {"algo_name": "bc", "config": "{}", "env_metadata": {}, "model": {}, "variable_state": {"epoch": 3}}
    torch.save(checkpoint, tmp_path / "last_bak.pth")
    torch.save({**checkpoint, "said": "last of all"}, tmp_path / "last.pth")
    (tmp_path / "last.pth").write_bytes(damage((tmp_path / "last.pth").read_bytes()))
    monkeypatch.setattr(script, "train", lambda config, device, resume=False: None)
    with resumable_training(1, tmp_path):
        assert script.FileUtils.load_dict_from_checkpoint(str(tmp_path / "last.pth")) == checkpoint
    assert "; going on after epoch 3, from" in caplog.text


@pytest.mark.parametrize("name", ["last.pth", "last_bak.pth"])
def test_it_resumes_nothing_where_there_is_no_whole_checkpoint(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"cut off")
    monkeypatch.setattr(script, "train", lambda config, device, resume=False: None)
    refusal = pytest.raises(ConfigError, match=f"{name} is not a robomimic checkpoint.*; give another --resume")
    with refusal, resumable_training(1, tmp_path):
        pass


class SeveralDatasets:
    """In the place of 0.5's MetaDataset."""


def test_its_mixture_of_datasets_can_be_sent_to_a_spawned_worker():
    mixture = gathering_batches(SeveralDatasets)()
    mixture.datasets = ["one", "other"]
    found = pickle.loads(pickle.dumps(mixture))
    assert isinstance(found, SeveralDatasets) and hasattr(found, "__getitems__")
    assert found.datasets == ["one", "other"]


@pytest.fixture
def of_two_datasets(tmp_path):
    """A checkpoint of a run on datasets of Lift and Can."""
    policy = make_policy()
    with policy.global_config.values_unlocked():
        policy.global_config.train.data = [{"path": "lift.hdf5"}, {"path": "can.hdf5"}]
    lift = {"env_name": "Lift", "env_version": importlib.metadata.version("robosuite"), "type": 1, "env_kwargs": CAMERAS}
    shapes = {"all_shapes": OBS_SHAPES, "ac_dim": ACTION_DIM, "use_images": True}
    path = tmp_path / "model_epoch_1.pth"
    environments = [lift, {**lift, "env_name": "PickPlaceCan"}]
    # Without what is added to shapes under 0.3, which knows of one dataset.
    save_model = getattr(train_utils.save_model, "__wrapped__", train_utils.save_model)
    save_model(policy, policy.global_config, environments, [shapes, shapes], ckpt_path=str(path))
    return path


def test_its_checkpoints_of_several_datasets_are_described_and_examined(of_two_datasets):
    facts = dict(describe_checkpoint(of_two_datasets))
    assert (facts["environment"], facts["dataset"]) == ("Lift, PickPlaceCan", "lift.hdf5, can.hdf5")
    assert examine_checkpoint(of_two_datasets).findings == []


def test_its_checkpoints_of_several_datasets_are_rolled_out_in_the_first_environment(of_two_datasets, tmp_path, monkeypatch, caplog):
    from robomimic_frozen.evaluation.episodes import Rollouts

    def no_environment(ckpt_dict):
        raise ValueError(f"no {ckpt_dict['env_metadata']['env_name']} here")

    assert finished_episodes(of_two_datasets, 1, None, 0, tmp_path) == []
    assert "was trained on 2 datasets; it is rolled out in the environment of the first, Lift" in caplog.text
    monkeypatch.setattr(file_utils, "env_from_checkpoint", no_environment)
    with pytest.raises(ConfigError, match="no Lift here"):
        Rollouts(of_two_datasets)


@pytest.mark.skipif(IS_0_5, reason="it is installed")
def test_its_checkpoints_are_refused_in_a_line_where_it_is_not_installed(of_two_datasets, tmp_path):
    torch.save({**torch.load(of_two_datasets, weights_only=True), "variable_state": {"epoch": 1}}, of_two_datasets)
    with pytest.raises(ConfigError, match="was saved by robomimic 0.5, and 0.3.* is installed; install robomimic's master branch"):
        finished_episodes(of_two_datasets, 1, None, 0, tmp_path)
    (finding,) = examine_checkpoint(of_two_datasets).findings
    assert finding.what.startswith("it was saved by robomimic 0.5")
