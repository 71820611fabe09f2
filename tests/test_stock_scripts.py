"""robomimic's own, unmodified scripts, in processes of their own where that matters, with no mention of this package in the command."""

import contextlib
import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

import h5py
import pytest
import robomimic.utils.train_utils as TrainUtils
import torch
import torchvision
from policies import change_setting
from robomimic.config import config_factory

from robomimic_frozen import cli
from robomimic_frozen.encoders.weights import frozen_records
from robomimic_frozen.policies.checkpoints import read_checkpoint
from robomimic_frozen.policies.states import networks

CONFIGS = Path(__file__).parent.parent / "configs"
SHORT = {
    "experiment.epoch_every_n_steps": 2,
    "experiment.save.every_n_epochs": 1,
    "experiment.rollout.enabled": False,
    "experiment.render_video": False,
    "experiment.logging.log_tb": False,
    "train.num_epochs": 1,
    "train.batch_size": 2,
}

pytestmark = pytest.mark.sim


def stock(script, *arguments):
    result = subprocess.run(
        [sys.executable, "-m", f"robomimic.scripts.{script}", *map(str, arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def stock_here(script, *arguments):
    """As `stock`, in this process, which has loaded everything already."""
    command = mock.patch.object(sys, "argv", [script, *map(str, arguments)])
    # The script leaves its log file in the place of stdout and stderr.
    with command, contextlib.redirect_stderr(sys.stderr), contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_module(f"robomimic.scripts.{script}", run_name="__main__")
    return output.getvalue()


@pytest.fixture
def write_config(lift_dataset, tmp_path):
    """Writes a config file to `tmp_path` that trains for two steps and saves once."""

    def write(settings, **changes):
        changes = {**SHORT, "train.output_dir": str(tmp_path / "runs"), **changes}
        if "feature_cache" in settings["algo"]:
            # Filled once for all tests and processes, with as few crops as can be.
            store = {"algo.feature_cache.dir": str(lift_dataset.parent / "features"), "algo.feature_cache.cached_crops": 1}
            changes = {**store, **changes}
        for path, value in changes.items():
            change_setting(settings, path, value)
        file = tmp_path / "config.json"
        file.write_text(json.dumps(settings))
        return file

    return write


def train(config, dataset, tmp_path, run=stock_here):
    output = run("train", "--config", config, "--dataset", dataset)
    assert "finished run successfully!" in output, output
    checkpoint, = (tmp_path / "runs").rglob("models/*.pth")
    return checkpoint, output


def roll_out(checkpoint, *arguments, run=stock_here):
    output = run("run_trained_agent", "--agent", checkpoint, "--n_rollouts", 1, "--horizon", 10, *arguments)
    return json.JSONDecoder().raw_decode(output.partition("Average Rollout Stats\n")[2])[0]


def offline_settings():
    return json.loads((CONFIGS / "lift_mh_offline.json").read_text())


def test_fbc_frozen_trains_and_rolls_out(lift_dataset, write_config, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    checkpoint, output = train(write_config(offline_settings()), lift_dataset, tmp_path, run=stock)
    assert re.search(r"efficientnet_lite0, weights=\S*efficientnet-lite0-57934424.pth, frozen", output)
    stats = roll_out(checkpoint, "--video_path", tmp_path / "video.mp4", run=stock)
    assert stats["Horizon"] == 10
    assert (tmp_path / "video.mp4").stat().st_size > 0


@pytest.mark.parametrize("head", ["bc", "bc_rnn_gmm"])
def test_the_core_works_under_stock_bc(head, lift_dataset, write_config, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch")
    settings = config_factory("bc").to_dict()
    settings["observation"]["modalities"] = offline_settings()["observation"]["modalities"]
    settings["observation"]["encoder"]["rgb"] = offline_settings()["observation"]["encoder"]["rgb"]
    rnn = head == "bc_rnn_gmm"
    changes = {"algo.gmm.enabled": rnn, "algo.rnn.enabled": rnn, "train.seq_length": 10 if rnn else 1}
    config = write_config(settings, **changes, **{"train.hdf5_cache_mode": "low_dim"})
    checkpoint, output = train(config, lift_dataset, tmp_path)
    assert "FrozenResNetCore" in output
    assert roll_out(checkpoint)["Horizon"] == 10


def test_a_checkpoint_rolls_out_where_the_weights_file_is_absent(lift_dataset, write_config, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    settings = offline_settings()
    settings["observation"]["encoder"]["rgb"]["core_kwargs"].update(rgb_model_name="resnet18", weights=str(weights))
    config = write_config(settings, **{"algo.feature_cache.enabled": False})  # for two steps, features are not worth extracting
    checkpoint, _ = train(config, lift_dataset, tmp_path)
    weights.unlink()
    assert roll_out(checkpoint, run=stock)["Horizon"] == 10


def test_the_command_reports_a_failed_run_that_stock_train_reports_as_success(lift_dataset, write_config, tmp_path, capfd):
    # A core that nobody has registered: robomimic's own error, in the middle of its run.
    config = write_config(offline_settings(), **{"observation.encoder.low_dim.core_class": "AbsentCore"})
    assert "run failed with error" in stock_here("train", "--config", config, "--dataset", lift_dataset)
    assert cli.main(["train", "--config", str(config), "--dataset", str(lift_dataset), "--name", "second"]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "the run failed: " in line]
    assert "AbsentCore" in line and line.endswith("the traceback is above")


def test_the_command_resolves_relative_folders_here_and_keeps_existing_runs(lift_dataset, write_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = write_config(offline_settings(), **{"train.output_dir": "here"})
    existing = tmp_path / "here" / "lift_mh_offline" / "earlier" / "models" / "model.pth"
    existing.parent.mkdir(parents=True)
    existing.write_text("kept")
    assert cli.main(["train", "--config", str(config), "--dataset", str(lift_dataset)]) == 0
    assert existing.read_text() == "kept"
    assert len(list((tmp_path / "here").rglob("models/*.pth"))) == 2


def test_eval_with_a_seed_repeats_itself(lift_dataset, write_config, tmp_path, capfd):
    assert cli.main(["train", "--config", str(write_config(offline_settings())), "--dataset", str(lift_dataset)]) == 0
    (checkpoint,) = (tmp_path / "runs").rglob("models/*.pth")

    def first_states(seed):
        file = tmp_path / "rollouts.hdf5"
        command = ["eval", "--agent", str(checkpoint), "--n_rollouts", "1", "--horizon", "3", "--seed", str(seed)]
        assert cli.main([*command, "--dataset_path", str(file), "--set", "algo.flow_steps=2"]) == 0
        assert re.search(r'"flow_steps": 2\b', capfd.readouterr().out)
        with h5py.File(file) as rollouts:
            return rollouts["data/demo_0/states"][:]

    first = first_states(3)
    assert (first == first_states(3)).all()
    assert not (first == first_states(4)).all()


@pytest.mark.parametrize("unfreeze_at", [None, 2])
def test_an_interrupted_run_resumes_and_ends_in_the_same_weights(unfreeze_at, lift_dataset, write_config, tmp_path, monkeypatch):
    changes = {"train.num_epochs": 3, "experiment.epoch_every_n_steps": 3, "experiment.save.every_n_epochs": 3}
    changes |= {"algo.unfreeze_at_epoch": unfreeze_at, "train.batch_size": 4, "train.cuda": False}
    config = write_config(offline_settings(), **changes)

    def run(name, *arguments):
        output = ["--set", f"train.output_dir={tmp_path / name}"]
        return cli.main(["train", *arguments, *([] if "--resume" in arguments else output)])

    assert run("whole", "--config", str(config), "--dataset", str(lift_dataset)) == 0
    run_epoch = TrainUtils.run_epoch

    def interrupted(*args, epoch, **kwargs):
        if epoch == 3:
            raise KeyboardInterrupt
        return run_epoch(*args, epoch=epoch, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainUtils, "run_epoch", interrupted)
        assert run("broken", "--config", str(config), "--dataset", str(lift_dataset)) == 130
    (folder,) = (tmp_path / "broken" / "lift_mh_offline").iterdir()
    assert run("broken", "--resume", str(folder)) == 0
    whole, resumed = (next((tmp_path / name).rglob("model_epoch_3.pth")) for name in ("whole", "broken"))
    first, second = (networks(read_checkpoint(path, "CKPT")["model"]) for path in (whole, resumed))
    assert bool(frozen_records(first)) == (unfreeze_at is None)
    assert first.pop("epoch") == second.pop("epoch") == 3
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_resuming_what_is_no_run_is_an_error(tmp_path, capfd):
    assert cli.main(["train", "--resume", str(tmp_path)]) == 1
    assert "cannot be read" in capfd.readouterr().err
