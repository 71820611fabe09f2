"""What robomimic 0.5 does otherwise, as far as 0.3, on which the tests run, can show it."""

import json
import pickle
from pathlib import Path

import robomimic.scripts.train as script
import torch
from robomimic.utils import train_utils

from robomimic_frozen.features.dataset import gathering_batches
from robomimic_frozen.integration.settings import load_config
from robomimic_frozen.integration.training import resumable_training

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


class SeveralDatasets:
    """In the place of 0.5's MetaDataset."""


def test_its_mixture_of_datasets_can_be_sent_to_a_spawned_worker():
    mixture = gathering_batches(SeveralDatasets)()
    mixture.datasets = ["one", "other"]
    found = pickle.loads(pickle.dumps(mixture))
    assert isinstance(found, SeveralDatasets) and hasattr(found, "__getitems__")
    assert found.datasets == ["one", "other"]
