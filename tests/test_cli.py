import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from robomimic_frozen import cli

CONFIGS = Path(__file__).parent.parent / "configs"
OFFLINE = str(CONFIGS / "lift_mh_offline.json")


HELP = ("", "quickstart", "demos", "data", "train", "eval", "precompute", "cache", "cache list", "info", "doctor")


def test_help_loads_neither_torch_nor_robomimic():
    script = """
import sys
from robomimic_frozen import cli
for words in sys.argv[1:]:
    try: cli.main([*words.split(), "--help"])
    except SystemExit as exit: assert exit.code == 0, words
    heavy = {'torch', 'robomimic', 'robosuite', 'mujoco', 'numpy', 'h5py'} & sys.modules.keys()
    assert not heavy, (words, heavy)
"""
    result = subprocess.run([sys.executable, "-c", script, *HELP], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("usage: robomimic-frozen") == len(HELP)


LIST = ["cache", "list", "--dir", "."]


@pytest.mark.parametrize(("arguments", "unbuffered"), [(["--help"], ""), (LIST, ""), (LIST, "1")])
def test_a_reader_that_has_left_ends_a_command_without_a_word(arguments, unbuffered, tmp_path):
    command, environment = [sys.executable, "-m", "robomimic_frozen.cli", *arguments], {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # as `head` does when it has enough
        assert (process.stderr.read(), process.wait()) == ("", 1)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def dataset(lift_dataset, tmp_path):
    copy = tmp_path / "lift.hdf5"
    copy.write_bytes(lift_dataset.read_bytes())
    return copy


def wrong_architecture(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


def corrupt(tmp_path):
    (tmp_path / "corrupt.pth").write_bytes(b"not a weights file")
    return tmp_path / "corrupt.pth"


def unwritable(tmp_path):
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "runs"


def set_core(key, value):
    return ["--set", f"observation.encoder.rgb.core_kwargs.{key}={value}"]


BAD_TRAINING = {
    "missing dataset": (lambda tmp: ["--dataset", str(tmp / "absent.hdf5")], "does not exist.*robomimic-frozen demos"),
    "dataset that is no HDF5": (lambda tmp: ["--dataset", str(corrupt(tmp))], "cannot be opened as HDF5"),
    "absent obs key": (
        lambda tmp: ["--set", 'observation.modalities.obs.rgb=["agentview_imge"]'],
        "no obs key 'agentview_imge'.*did you mean 'agentview_image'",
    ),
    "absent filter key": (lambda tmp: ["--set", "train.hdf5_filter_key=best"], "no filter key 'best'; it has: .*better"),
    "unknown backbone": (lambda tmp: set_core("rgb_model_name", "resnet81"), "did you mean 'resnet18'"),
    "misspelt core setting": (lambda tmp: set_core("emb_dims", "3"), "did you mean 'emb_dim'"),
    "image smaller than the crop": (lambda tmp: set_core("augment", "crops") + set_core("crop_shape", "[90,90]"), "larger than the image"),
    "corrupt weights": (lambda tmp: set_core("weights", corrupt(tmp)), "cannot be read"),
    "weights of another network": (lambda tmp: set_core("weights", wrong_architecture(tmp)), "not of a efficientnet_lite0"),
    "unknown setting": (lambda tmp: ["--set", "algo.horizn=3"], "nearest one is algo.horizon"),
    "setting of the wrong type": (lambda tmp: ["--set", "train.batch_size=big"], "takes a int"),
    "dataset of another task": (
        lambda tmp: ["--set", "experiment.env=PickPlaceCan"],
        r"lift.hdf5 is of the task lift \(Lift\), and experiment.env is 'PickPlaceCan'; set it to null, or give a dataset of can",
    ),
    "contradicting settings": (lambda tmp: ["--set", "algo.horizon=32"], "train.seq_length is 16"),
    "unwritable output folder": (lambda tmp: ["--set", f"train.output_dir={unwritable(tmp)}"], "cannot write to"),
    "missing config": (lambda tmp: ["--config", str(tmp / "absent.json")], "cannot be read"),
    "config that is no JSON": (lambda tmp: ["--config", str(corrupt(tmp))], "not a robomimic config"),
    "no working GL": (lambda tmp: [], "MUJOCO_GL=broken cannot render here"),
}


@pytest.mark.sim
@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_input_to_train_is_one_line_and_touches_no_file(case, dataset, tmp_path, monkeypatch, capfd):
    make_arguments, words = BAD_TRAINING[case]
    monkeypatch.chdir(tmp_path)
    if "GL" in case:
        monkeypatch.setenv("MUJOCO_GL", "broken")
    # Without rollouts nothing is rendered, which is what the other cases can do without.
    settings = ["--set", f"experiment.rollout.enabled={json.dumps('GL' in case)}", "--set", "experiment.render_video=false"]
    output = ["--set", f"train.output_dir={tmp_path / 'runs'}"]
    arguments = ["train", "--config", OFFLINE, "--dataset", str(dataset), *settings, *output, *make_arguments(tmp_path)]
    before = contents(tmp_path)

    status = cli.main(arguments)

    assert status == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("robomimic-frozen train: ")
    assert re.search(words, error), error
    assert before.items() <= contents(tmp_path).items()


@pytest.mark.parametrize(
    ("make_arguments", "words"),
    [
        (lambda tmp: ["eval", "--agent", str(tmp / "absent.pth")], "does not exist"),
        (lambda tmp: ["eval", "--agent", str(corrupt(tmp))], "is not a robomimic checkpoint"),
        (lambda tmp: ["demos", "--out", str(corrupt(tmp))], "exists"),
        (lambda tmp: ["demos", "--out", str(unwritable(tmp) / "demos.hdf5")], "cannot|not a"),
        (lambda tmp: ["demos", "--out", str(tmp / "demos.hdf5"), "--num", "0"], "1"),
        (lambda tmp: ["demos", "--task", "cna", "--out", str(tmp / "demos.hdf5")], "no task 'cna'; did you mean 'can'"),
        (lambda tmp: ["quickstart", "--task", "sqare", "--out", str(tmp / "runs")], "no task 'sqare'; did you mean 'square'"),
        (lambda tmp: ["demos", "--cameras", "a", "--workers", "1", "--out", str(tmp / "demos.hdf5")], "Lift has no camera 'a'; choose"),
        (lambda tmp: ["info", str(tmp / "absent.pth")], "does not exist"),
        (lambda tmp: ["info", str(corrupt(tmp))], "is not a robomimic checkpoint"),
        (lambda tmp: ["precompute", "--dataset", str(tmp / "absent.hdf5")], "does not exist"),
        (lambda tmp: ["quickstart", "--out", str(unwritable(tmp))], "cannot write to"),
    ],
)
def test_bad_input_elsewhere_is_one_line_and_touches_no_file(make_arguments, words, tmp_path, capfd):
    arguments = make_arguments(tmp_path)
    before = contents(tmp_path)
    assert cli.main(arguments) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"robomimic-frozen {arguments[0]}: ")
    assert re.search(words, error), error
    assert contents(tmp_path) == before
