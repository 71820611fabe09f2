"""Folders that cannot be written to, disks that are full, and others who write the same thing at the same time."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from robomimic_frozen import cli
from robomimic_frozen.utils.files import sha256_of

pytestmark = pytest.mark.sim

OFFLINE = Path(__file__).parent.parent / "configs" / "lift_mh_offline.json"
EACH_COMMAND = """
import contextlib, io, json, sys
from robomimic_frozen import cli
for command in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(sys.stderr):
        code = cli.main(command)
    print(json.dumps([code, stderr.getvalue().strip().splitlines()[-1]]), flush=True)
"""


def outcomes(commands, prefix=(), **options):
    """[exit status, last line] of each command, all in one process."""
    command = [*prefix, sys.executable, "-c", EACH_COMMAND, json.dumps([[str(word) for word in words] for words in commands])]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def as_a_user():
    """What takes from root the privilege to write where it may not."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root without setpriv may write anywhere")
    return ("setpriv", "--bounding-set", "-dac_override")


@pytest.mark.fault("a read-only folder for demonstrations, features, runs, results and figures", "one line that names it", times=5)
def test_a_read_only_folder_is_named_and_stays_empty(lift_dataset, tmp_path):
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o555)
    config = ("--config", OFFLINE, "--dataset", lift_dataset)
    commands = [
        ("demos", "--out", folder / "lift.hdf5"),
        ("precompute", *config, "--set", f"algo.feature_cache.dir={folder / 'cache'}"),
        ("train", *config, "--set", f"train.output_dir={folder / 'runs'}"),
        ("eval", tmp_path / "model.pth", "--out", folder / "eval"),
        ("plot", tmp_path, "--out", folder / "curves.png"),
    ]
    for (code, line), command in zip(outcomes(commands, as_a_user()), commands, strict=True):
        assert code == 1, command
        assert line.startswith(f"robomimic-frozen {command[0]}: ")
        assert str(folder) in line, command
    assert not list(folder.iterdir())


def limit_file_size():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


@pytest.mark.fault("a disk that is full after 200 kB", "one line that says so; no half-written checkpoint", times=2)
def test_a_full_disk_ends_training_in_one_line(lift_dataset, tmp_path):
    train = [
        "train", "--config", OFFLINE, "--dataset", lift_dataset, "--set", f"train.output_dir={tmp_path / 'runs'}",
        "--set", f"algo.feature_cache.dir={lift_dataset.parent / 'features'}", "--set", "algo.feature_cache.cached_crops=1",
        "--set", "experiment.rollout.enabled=false", "--set", "train.num_epochs=1", "--set", "experiment.epoch_every_n_steps=1",
        "--set", "experiment.save.every_n_epochs=1", "--set", "experiment.logging.log_tb=false", "--set", "train.batch_size=2",
    ]
    extract = ["precompute", *train[1:5], "--set", f"algo.feature_cache.dir={tmp_path / 'features'}"]
    ((code, line), (other_code, other_line)) = outcomes([train, extract], preexec_fn=limit_file_size)
    assert (code, other_code) == (1, 1)
    assert "File too large" in line or "failed" in line
    assert "cannot be written" in other_line
    assert not list((tmp_path / "runs").rglob("*.pth"))


@pytest.mark.fault("four processes that make the same demonstrations", "one does, three say so in one line; the file is whole", times=4)
def test_of_several_processes_that_make_one_file_one_does(tmp_path):
    command = [sys.executable, "-m", "robomimic_frozen.cli", "demos", "--out", str(tmp_path / "lift.hdf5"), "--num", "1"]
    command += ["--image-size", "8", "--workers", "1"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) for _ in range(4)]
    errors = [process.communicate()[1].strip().splitlines()[-1] for process in processes]
    assert sorted(process.returncode for process in processes) == [0, 1, 1, 1]
    refusals = [line for process, line in zip(processes, errors, strict=True) if process.returncode]
    assert all("another process is writing" in line or "exists already" in line for line in refusals)
    before = sha256_of(tmp_path / "lift.hdf5")
    assert cli.main(command[3:]) == 1
    assert sha256_of(tmp_path / "lift.hdf5") == before
