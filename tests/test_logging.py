"""What a run logs to wandb, beside TensorBoard, and what is said beforehand to those who lack something for it."""

import json
import struct
import sys
from types import SimpleNamespace

import pytest
import robomimic.macros
from policies import change_setting
from robomimic.utils import log_utils
from small_datasets import IMAGE, POSITION, write_dataset
from test_stock_scripts import CONFIGS, SHORT, stock_here

from robomimic_frozen import cli
from robomimic_frozen.evaluation.history import read_histories

WANDB = "experiment.logging.log_wandb"


@pytest.fixture
def settings(tmp_path):
    """Settings of a run of two epochs on a small dataset, which logs to both."""
    core = "observation.encoder.rgb.core_kwargs"
    small = {f"{core}.rgb_model_name": "resnet18", f"{core}.pretrained_encoder": False, f"{core}.freeze_encoder": True}
    keys = {"observation.modalities.obs.rgb": [IMAGE], "observation.modalities.obs.low_dim": [POSITION]}
    both = {"experiment.logging.log_tb": True, WANDB: True, "train.num_epochs": 2, "train.output_dir": str(tmp_path / "runs")}
    return {"algo.feature_cache.dir": str(tmp_path / "features"), **small, **keys, **SHORT, **both}


@pytest.fixture
def arguments(settings, tmp_path):
    sets = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    return ["--config", str(CONFIGS / "lift_mh_resnet18.json"), "--dataset", str(write_dataset(tmp_path / "small.hdf5", size=32)), *sets]


@pytest.fixture
def offline(monkeypatch):
    pytest.importorskip("wandb").teardown()  # it keeps the environment of the first run of a process
    monkeypatch.setattr(robomimic.macros, "WANDB_ENTITY", "somebody")
    monkeypatch.setattr(log_utils, "time", SimpleNamespace(sleep=lambda seconds: pytest.fail("robomimic tries again")))
    monkeypatch.setenv("WANDB_MODE", "offline")


def scalars_of_wandb(path):
    """Read name -> epoch -> value from a run-*.wandb, a log of LevelDB whose records are protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, record, scalars = path.read_bytes(), len(b":W&B") + 3, b"", {}
    while place + 7 <= len(content):
        if (rest := -place % 2**15) and rest < 7:  # of a block, too little for a header
            place += rest
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            history, record = Record.FromString(record).history, b""
            values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in history.item}
            for name, value in values.items():
                scalars.setdefault(name, {})[values["_step"]] = value
    return scalars


def assert_both_logged_the_same(folder):
    import wandb

    wandb.teardown()  # its process writes the end of the file when it ends
    (path,), (history,) = folder.rglob("*.wandb"), read_histories([folder])
    logged = {name: curve for name, curve in scalars_of_wandb(path).items() if not name.startswith("_")}
    assert {"Train/Loss", "Train/Policy_Grad_Norms", "Train/EMA_Decay", "Train/Steps_Per_Second"} < logged.keys()
    as_tensorboard_spells_them = {name.replace("System/RAM Usage (MB)", "System/RAM_Usage__MB_"): name for name in logged}
    assert history.scalars.keys() == as_tensorboard_spells_them.keys()
    for tag, curve in history.scalars.items():
        assert logged[as_tensorboard_spells_them[tag]] == pytest.approx(curve, rel=1e-6)


def test_a_run_logs_to_wandb_offline_what_it_logs_to_tensorboard(offline, arguments, tmp_path):
    assert cli.main(["train", *arguments]) == 0
    assert_both_logged_the_same(tmp_path / "runs")


def test_so_does_robomimics_own_script(offline, settings, tmp_path):
    config = json.loads((CONFIGS / "lift_mh_resnet18.json").read_text())
    for path, value in settings.items():
        change_setting(config, path, value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    output = stock_here("train", "--config", tmp_path / "config.json", "--dataset", write_dataset(tmp_path / "small.hdf5", size=32))
    assert "finished run successfully!" in output, output
    assert_both_logged_the_same(tmp_path / "runs")


def refusal(arguments, tmp_path, capfd):
    assert cli.main(["train", *arguments]) == 1
    assert not (tmp_path / "runs").exists()
    return capfd.readouterr().err.strip().splitlines()[-1]


def test_without_the_macro_that_robomimic_asks_for_nothing_is_trained(arguments, tmp_path, capfd):
    line = refusal(arguments, tmp_path, capfd)
    assert "macro WANDB_ENTITY is not set; set it in robomimic's macros_private.py, which python -m robomimic.scripts.setup_macros" in line


def test_without_a_login_nothing_is_trained(offline, arguments, tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    line = refusal(arguments, tmp_path, capfd)
    assert "wandb has no login here" in line and line.endswith("run wandb login, or set WANDB_MODE=offline")


def test_without_wandb_nothing_is_trained(arguments, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "and wandb is not installed; pip install wandb" in refusal(arguments, tmp_path, capfd)
