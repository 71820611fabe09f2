"""Commands killed with SIGKILL at a random moment (`--kills N`: at N of them), and what they leave behind."""

import json
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import psutil
import pytest
import torch
from small_datasets import write_raw_file

from robomimic_frozen import cli, cli_flags
from robomimic_frozen.features.store import open_cache
from robomimic_frozen.policies.checkpoints import checkpoints_in, read_checkpoint
from robomimic_frozen.utils.files import sha256_of
from robomimic_frozen.utils.parallel import ThisProcess

pytestmark = pytest.mark.sim

OFFLINE = Path(__file__).parent.parent / "configs" / "lift_mh_offline.json"
RUN = {
    "experiment.name": "run",
    "experiment.rollout.enabled": False,
    "experiment.epoch_every_n_steps": 2,
    "experiment.save.every_n_epochs": 1,
    "experiment.logging.log_tb": False,
    "train.cuda": False,
    "train.num_epochs": 3,
    "train.batch_size": 4,
    "train.hdf5_filter_key": "valid",  # one demo
    "algo.feature_cache.cached_crops": 1,
}


def start(*command):
    return subprocess.Popen(
        [sys.executable, "-m", "robomimic_frozen.cli", *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )


def finish(*command):
    process = start(*command)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def finish_here(*command):
    """Run a command to its end in this process, which takes a third of the time that processes of its own take."""
    here = {"return_value": ThisProcess()}
    with mock.patch("robomimic_frozen.data.demos.Processes", **here), mock.patch.object(cli_flags, "Processes", **here):
        assert cli.main([*map(str, command)]) == 0


def settings(**changes):
    return [word for key, value in {**RUN, **changes}.items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Runs a command in a folder of its own, once: (the folder, the seconds it took)."""
    runs = {}

    def run(name, make_command):
        if name not in runs:
            folder = tmp_path_factory.mktemp(name)
            begin = time.monotonic()
            finish(*make_command(folder))
            runs[name] = folder, time.monotonic() - begin
        return runs[name]

    return run


def kill(command, seconds, moment):
    """Start a command and kill it after this share of the time it takes, with no chance to clean up."""
    process = start(*command)
    time.sleep(seconds * random.uniform(*moment))
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() for child in children)


@pytest.mark.fault("`demos` killed", "no file under its name but a whole one; the next run gives the same bytes as an undisturbed one")
def test_killed_generation_of_demonstrations(undisturbed, moment, tmp_path):
    def command(folder):
        return "demos", "--out", folder / "lift.hdf5", "--num", 1, "--image-size", 32, "--workers", 1

    reference, seconds = undisturbed("demos", command)
    expected = sha256_of(reference / "lift.hdf5")
    kill(command(tmp_path), seconds, moment)
    if (tmp_path / "lift.hdf5").exists():
        assert sha256_of(tmp_path / "lift.hdf5") == expected
        return
    finish_here(*command(tmp_path))
    assert sha256_of(tmp_path / "lift.hdf5") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["lift.hdf5"]


@pytest.mark.fault("rendering killed", "no file under its name but a whole one; the next run gives the same bytes as an undisturbed one")
def test_killed_rendering(undisturbed, moment, lift_dataset, tmp_path, tmp_path_factory):
    raw = tmp_path_factory.mktemp("raw") / "demo.hdf5"
    write_raw_file(lift_dataset, raw, ("demo_0", "demo_1"), steps=8)

    def command(folder):
        return "data", raw, "--out", folder / "image.hdf5", "--image-size", 16, "--workers", 1

    reference, seconds = undisturbed("rendering", command)
    kill(command(tmp_path), seconds, moment)
    if not (tmp_path / "image.hdf5").exists():
        finish_here(*command(tmp_path))
    assert sha256_of(tmp_path / "image.hdf5") == sha256_of(reference / "image.hdf5")
    assert [path.name for path in tmp_path.iterdir()] == ["image.hdf5"]


def cache_in(folder):
    (metadata,) = folder.rglob("metadata.json")
    return open_cache(metadata.parent)


@pytest.mark.fault("feature extraction killed", "no cache but a whole one; the next run gives the same bytes as an undisturbed one")
def test_killed_extraction(undisturbed, moment, lift_dataset, tmp_path):
    def command(folder):
        cached = settings(**{"algo.feature_cache.dir": str(folder), "observation.modalities.obs.rgb": ["agentview_image"]})
        return "precompute", "--config", OFFLINE, "--dataset", lift_dataset, *cached

    reference, seconds = undisturbed("extraction", command)
    kill(command(tmp_path), seconds, moment)
    for metadata in tmp_path.glob("*/metadata.json"):
        if not metadata.parent.name.endswith(".partial"):
            open_cache(metadata.parent)
    finish_here(*command(tmp_path))
    assert cache_in(tmp_path).features.tobytes() == cache_in(reference).features.tobytes()


@pytest.fixture
def train_command(lift_dataset):
    """What trains for three epochs in a folder, on features that are extracted once for all."""
    features = lift_dataset.parent / "features_of_killed_runs"

    def command(folder):
        places = settings(**{"train.output_dir": str(folder), "algo.feature_cache.dir": str(features)})
        return "train", "--config", OFFLINE, "--dataset", lift_dataset, *places

    return command


def networks_in(checkpoint):
    return read_checkpoint(checkpoint, "CKPT")["model"]


@pytest.mark.fault("training killed", "every checkpoint can be read; the run resumes and ends in the same weights as an undisturbed one")
def test_killed_training(undisturbed, moment, train_command, tmp_path):
    reference, seconds = undisturbed("training", train_command)
    kill(train_command(tmp_path), seconds, moment)
    if list(tmp_path.rglob("models/[!.]*.pth")):
        for checkpoint in checkpoints_in(tmp_path, "CKPT"):
            networks_in(checkpoint)
    states = list(tmp_path.rglob("resume.pth"))
    if states:
        finish("train", "--resume", states[0].parent)
    else:
        shutil.rmtree(tmp_path)
        finish(*train_command(tmp_path))
    whole, resumed = (networks_in(next(folder.rglob("model_epoch_3.pth"))) for folder in (reference, tmp_path))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items() if isinstance(value, torch.Tensor))


def episodes_in(folder):
    episodes = {}
    for file in folder.rglob("seed_*.json"):
        episode = json.loads(file.read_text())
        del episode["seconds"], episode["checkpoint"]
        episodes[file.name] = episode
    return episodes


@pytest.mark.fault("`eval` killed", "no episode is half written, no worker survives; the next run ends in the table of an undisturbed one")
def test_killed_evaluation(undisturbed, moment, train_command, tmp_path):
    trained, _ = undisturbed("training", train_command)
    checkpoint = next(trained.rglob("model_epoch_1.pth"))

    def command(folder):
        return "eval", checkpoint, "--episodes", 2, "--horizon", 5, "--workers", 1, "--out", folder

    reference, seconds = undisturbed("evaluation", command)
    kill(command(tmp_path), seconds, moment)
    episodes_in(tmp_path)
    finish_here(*command(tmp_path))
    assert episodes_in(tmp_path) == episodes_in(reference)
    assert len(episodes_in(tmp_path)) == 2
