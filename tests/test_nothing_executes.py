"""Files that would run code if they were unpickled, given to every command that reads such files."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from policies import make_config, make_policy

from robomimic_frozen import cli
from robomimic_frozen.encoders.weights import read_weights
from robomimic_frozen.errors import ConfigError, WeightsError
from robomimic_frozen.integration.training import STATE_FILE, ResumableEpochs, resumable_training
from robomimic_frozen.policies.checkpoints import read_checkpoint
from robomimic_frozen.policies.fbc import start_from_checkpoint

OFFLINE = Path(__file__).parent.parent / "configs" / "lift_mh_offline.json"

pytestmark = pytest.mark.fault("a checkpoint, weights or state file that runs code when unpickled", "refused in one line, nothing runs")


class WritesAFile:
    """When unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "was_executed"


@pytest.fixture
def malicious(tmp_path, marker):
    """A checkpoint as robomimic writes them, with one thing more in it."""
    config = make_config()
    content = {
        "algo_name": "fbc_frozen", "config": config.dump(), "env_metadata": {}, "shape_metadata": {},
        "model": {"weight": torch.zeros(1), "extra": WritesAFile(marker)},
    }
    path = tmp_path / "run" / "models" / "model_epoch_1.pth"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()
    return path


def test_what_robomimic_0_5_saves_of_its_loop_is_no_code(tmp_path):
    loop = {"epoch": 1, "best_return": {"lift": np.float64(0.5)}, "best_success_rate": {"lift": np.float32(0)}}
    content = {"algo_name": "bc", "config": "{}", "env_metadata": {}, "model": {}, "variable_state": loop}
    torch.save(content, tmp_path / "model.pth")
    assert read_checkpoint(tmp_path / "model.pth", "CKPT")["variable_state"] == loop


@pytest.mark.parametrize(
    "command",
    [
        ["eval", "{}", "--episodes", "1", "--horizon", "5", "--out", "{out}"],
        ["eval", "--agent", "{}", "--n_rollouts", "1"],
        ["info", "{}"],
    ],
    ids=["eval", "eval --agent", "info"],
)
def test_a_checkpoint_is_refused_by(command, malicious, marker, tmp_path, capfd):
    words = [word.format(malicious, out=tmp_path / "out") for word in command]
    assert cli.main(words) != 0
    assert "is not a robomimic checkpoint" in "".join(capfd.readouterr())
    assert not marker.exists()


def test_training_does_not_start_from_it(malicious, marker):
    policy = make_policy()
    with pytest.raises(ConfigError, match="is not a robomimic checkpoint"):
        start_from_checkpoint(policy.nets["policy"], policy.nets["ema"], policy.nets["normalization"], malicious)
    assert not marker.exists()


def test_a_run_is_not_resumed_from_it(malicious, marker, tmp_path):
    state = shutil.copy(malicious, tmp_path / STATE_FILE)
    with pytest.raises(ConfigError, match="cannot be read"):
        ResumableEpochs(1, Path(state).parent)
    assert not marker.exists()


def test_newer_robomimics_own_resuming_does_not_read_it(malicious, marker, tmp_path, monkeypatch):
    import robomimic.scripts.train as script

    shutil.copy(malicious, tmp_path / "last.pth")
    monkeypatch.setattr(script, "train", lambda config, device, resume=False: None)  # as 0.5 has it
    with pytest.raises(ConfigError, match="is not a robomimic checkpoint"), resumable_training(1, tmp_path):
        pass
    assert not marker.exists()


def test_weights_are_not_read_from_it(malicious, marker):
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(malicious)
    assert not marker.exists()


def hostile_core(marker):
    """Settings of robomimic's own image core, which it would evaluate."""
    return {"backbone_class": f"__import__('pathlib').Path({str(marker)!r}).touch", "backbone_kwargs": {}}


def test_a_config_that_robomimic_would_evaluate_is_refused(tmp_path, marker, capfd):
    settings = json.loads(OFFLINE.read_text())
    settings["observation"]["encoder"]["rgb"].update(core_class="VisualCore", core_kwargs=hostile_core(marker))
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings))
    assert cli.main(["train", "--config", str(config), "--dataset", str(tmp_path / "absent.hdf5")]) == 1
    assert "would evaluate as Python" in capfd.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize("command", [["eval", "{}", "--out", "{out}"], ["eval", "--agent", "{}"]], ids=" ".join)
def test_a_checkpoint_whose_config_robomimic_would_evaluate_is_refused(command, tmp_path, marker, capfd):
    settings = json.loads(make_config().dump())
    settings["observation"]["encoder"]["rgb"].update(core_class="VisualCore", core_kwargs=hostile_core(marker))
    path = tmp_path / "model.pth"
    content = {"algo_name": "fbc_frozen", "config": json.dumps(settings), "env_metadata": {}, "shape_metadata": {}, "model": {}}
    torch.save(content, path)
    assert cli.main([word.format(path, out=tmp_path / "out") for word in command]) != 0
    assert "would evaluate as Python" in "".join(capfd.readouterr())
    assert not marker.exists()


def test_a_config_is_not_evaluated(tmp_path, marker, capfd):
    settings = json.loads(OFFLINE.read_text())
    settings["observation"]["encoder"]["rgb"]["core_kwargs"]["rgb_model_name"] = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    config = tmp_path / "config.json"
    config.write_text(json.dumps(settings))
    dataset = tmp_path / "dataset.hdf5"
    with h5py.File(dataset, "w") as file:
        file.create_group("data").attrs["env_args"] = "{}"
        for keys in settings["observation"]["modalities"]["obs"].values():
            for key in keys:
                file[f"data/demo_0/obs/{key}"] = [0]
    assert cli.main(["train", "--config", str(config), "--dataset", str(dataset)]) == 1
    assert "unknown backbone" in capfd.readouterr().err
    assert not marker.exists()
