"""Policies shared on a hub on this machine, and fetched from it."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import robomimic.utils.file_utils as FileUtils
import torch
from hub_server import Hub, serving
from policies import make_config, make_obs, make_policy
from safetensors.torch import load_file
from test_two_stages import act, save, train
from untrained import HORIZON, write_untrained_checkpoint

from robomimic_frozen.encoders.weights import restoring_checkpoint
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies.checkpoints import read_checkpoint
from robomimic_frozen.policies.portable import FILES, read_portable, without_places, write_portable

REPO = "lab/lift"


@pytest.fixture
def hub():
    with serving(Hub({"lab/other": {"model.bin": b"0"}}, gated={"lab/gated"})) as hub:
        yield hub


@pytest.fixture
def run(hub, tmp_path):
    """Runs a command in a process of its own, for huggingface_hub reads its settings when it is imported."""

    def run(*words, **settings):
        of_hub = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_x", "NO_PROXY": "*"}
        environment = {**os.environ, **of_hub, "HOME": str(tmp_path / "home"), **settings}
        command = [sys.executable, "-m", "robomimic_frozen.cli", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)

    return run


@pytest.fixture(scope="module")
def checkpoint(lift_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_untrained_checkpoint(lift_dataset, tmp_path_factory.mktemp("trained") / "lift.pth")
    content = torch.load(path, weights_only=True)
    config = json.loads(content["config"])
    config["experiment"]["rollout"]["horizon"] = HORIZON
    torch.save({**content, "config": json.dumps(config)}, path)
    return path


def output_of(result) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout


def error_of(result) -> str:
    assert result.returncode == 1, result.stdout
    return result.stderr.strip().splitlines()[-1]


@pytest.mark.sim
def test_a_policy_is_rolled_out_pushed_fetched_and_acts_the_same(checkpoint, run, hub, tmp_path, lift_dataset):
    settings = "--episodes", 2, "--workers", 1, "--out", tmp_path / "eval"
    assert output_of(run("push", checkpoint, REPO, *settings)).strip().endswith(f"{hub.url}/{REPO}")
    files = hub.repos[REPO]
    assert files.keys() == {*FILES, "README.md", "rollout.jpg"}
    assert files["rollout.jpg"][:2] == b"\xff\xd8"
    card = files["README.md"].decode()
    for words in (
        "0 of 2 episodes succeed: 0.00, with 95 % confidence 0.00 to 0.66", f"robomimic-frozen eval hf://{REPO} --episodes 2 --seed 0",
        "| dataset | lift.hdf5 |", "| sha256 of lift.hdf5 | ", "| frozen weights | efficientnet_lite0, sha256 ", "are under Apache 2.0",
        '"horizon": 16', "success_rate", "library_name: robomimic", "![Frames of an episode](rollout.jpg)",
    ):  # fmt: skip
        assert words in card, words
    for private in (tmp_path, checkpoint.parent, lift_dataset.parent, Path.home()):
        assert not any(str(private).encode() in content for content in files.values()), private
    names = {socket.gethostname(), getpass.getuser()}
    assert not names & set(re.findall(r"\w+", card + files["policy.json"].decode()))

    assert output_of(run("fetch", f"hf://{REPO}")).strip() == "lift.pth"
    there, here = (FileUtils.policy_from_checkpoint(ckpt_path=str(path))[0] for path in (checkpoint, tmp_path / "lift.pth"))
    obs = {key: torch.rand(1, *shape) for key, shape in there.policy.obs_shapes.items()}
    assert torch.equal(act(there.policy, obs), act(here.policy, obs))
    assert "exists already" in error_of(run("fetch", REPO))

    described = output_of(run("info", f"hf://{REPO}"))
    assert "fbc_frozen" in described and "efficientnet_lite0" in described
    table = output_of(run("eval", f"hf://{REPO}", *settings, HF_HUB_OFFLINE="1"))
    assert f"| hf://{REPO} | 0.00 | 0.00-0.66 | 2 |" in table


def test_a_run_starts_from_a_shared_policy(run, hub, tmp_path, checkpoint, lift_dataset):
    output_of(run("push", checkpoint, REPO, "--episodes", 0))
    assert "It was not rolled out for this page: no episodes were asked for." in hub.repos[REPO]["README.md"].decode()
    of_run = {
        "train.output_dir": str(tmp_path / "runs"), "train.num_epochs": 1, "experiment.epoch_every_n_steps": 2, "train.batch_size": 2,
        "experiment.rollout.enabled": False, "experiment.render_video": False, "train.cuda": False, "algo.feature_cache.enabled": False,
        "observation.encoder.rgb.core_kwargs.rgb_model_name": "efficientnet_lite0", "experiment.save.every_n_epochs": 1,
    }  # fmt: skip
    changes = [word for key, value in of_run.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    output_of(run("train", "--dataset", lift_dataset, "--init-from", f"hf://{REPO}", *changes))
    (trained,) = (tmp_path / "runs").rglob("model_epoch_1.pth")
    started = torch.load(trained, weights_only=True)
    assert json.loads(started["config"])["algo"]["init_from"] == f"hf://{REPO}"


@pytest.mark.parametrize("freeze", [True, "layer3", False])
def test_as_safetensors_and_json_a_policy_is_the_same_and_holds_frozen_weights_as_tensors(freeze, tmp_path):
    config = make_config()
    config.observation.encoder.rgb.core_kwargs.freeze_encoder = freeze
    policy = make_policy(config)
    train(policy)
    path = save(policy, tmp_path / "small.pth", shape_metadata={"all_shapes": {}, "ac_dim": 7})
    write_portable(read_checkpoint(path, "CKPT"), tmp_path)
    tensors = load_file(tmp_path / FILES[1])
    frozen = [name for name in tensors if name.startswith("frozen.")]
    assert bool(frozen) == bool(freeze)
    assert not any(name.startswith("model.ema.layer") or "optimizers" in name for name in tensors)
    with restoring_checkpoint():
        other = make_policy(config)
        other.deserialize(read_portable(*(tmp_path / file for file in FILES))["model"])
    obs = make_obs(policy)
    assert torch.equal(act(other, obs), act(policy, obs))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/jane/data/lift.hdf5", "lift.hdf5"),
        ("~/robomimic_frozen_runs", "robomimic_frozen_runs"),
        ("s3://janes-bucket/sets/lift.hdf5", "lift.hdf5"),
        (r"C:\Users\jane\lift.hdf5", "lift.hdf5"),
        (r"\\server\jane\lift.hdf5", "lift.hdf5"),
        ("saved in /home/jane/runs, by hand", "saved in runs, by hand"),
        ("obs/agentview_image", "obs/agentview_image"),
        ("action_dict/abs_pos and/or 1/2", "action_dict/abs_pos and/or 1/2"),
        ("OSC_POSE", "OSC_POSE"),
    ],
)
def test_of_paths_and_urls_their_last_part_is_shared(text, left):
    assert without_places({"a": [text, 1, None]}) == {"a": [left, 1, None]}


@pytest.mark.fault("a shared policy whose file is damaged", "removed, said in one line; the next run downloads it again")
def test_a_damaged_policy_is_refused_and_fetched_again(checkpoint, run, hub, tmp_path):
    output_of(run("push", checkpoint, REPO, "--episodes", 0))
    whole = hub.repos[REPO][FILES[1]]
    hub.repos[REPO][FILES[1]] = whole[:-1] + bytes([whole[-1] ^ 1])
    assert "damaged: the sha256 of policy.safetensors is another one" in error_of(run("info", f"hf://{REPO}"))
    assert not list((tmp_path / "home").rglob("*.pth"))
    hub.repos[REPO][FILES[1]] = whole
    assert "fbc_frozen" in output_of(run("info", f"hf://{REPO}"))


BAD_REPOSITORIES = {
    "missing or private": (["info", "hf://lab/absent"], {}, "the hub has no such repository, or it is private"),
    "gated": (["info", "hf://lab/gated"], {}, "its owners must let you in"),
    "of something else": (["info", "hf://lab/other"], {}, "holds no policy of this package, for it lacks policy.json"),
    "no network": (["eval", f"hf://{REPO}"], {"HF_ENDPOINT": "http://127.0.0.1:9"}, f"hf://{REPO} could not be fetched (.*)"),
    "offline": (["fetch", REPO], {"HF_HUB_OFFLINE": "1"}, "could not be fetched"),
    "no name": (["fetch", "lift"], {}, "lift is no repository of a policy; give hf://OWNER/NAME"),
}


@pytest.mark.parametrize("case", BAD_REPOSITORIES)
def test_a_repository_that_gives_no_policy_is_one_line_and_nothing_is_written(case, run, tmp_path):
    words, settings, message = BAD_REPOSITORIES[case]
    error = error_of(run(*words, **settings))
    assert re.search(message, error), error
    assert error.startswith(f"robomimic-frozen {words[0]}: ")
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.fault("a push without a token, and with one that may only read", "one line; nothing is rolled out or written")
@pytest.mark.parametrize(
    ("rights", "settings", "words"),
    [
        ("write", {"HF_TOKEN": ""}, "lab/lift cannot be written to .*; log in with a token that may write: hf auth login"),
        ("read", {}, r"lab/lift cannot be written to \(the token may only read\); log in with a token that may write: hf auth login"),
        ("write", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "lab/lift cannot be written to"),
    ],
)
def test_a_push_that_may_not_write_is_refused_before_anything_is_rolled_out(rights, settings, words, checkpoint, run, hub, tmp_path):
    hub.rights = rights
    error = error_of(run("push", checkpoint, REPO, "--out", tmp_path / "eval", **settings))
    assert re.search(words, error), error
    assert REPO not in hub.repos
    assert not (tmp_path / "eval").exists()


def test_a_policy_without_an_environment_is_shared_and_its_page_says_so(checkpoint, run, hub, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "env_metadata": {"env_name": "so101", "type": -1, "env_kwargs": {}}}, tmp_path / "real.pth")
    output_of(run("push", tmp_path / "real.pth", "lab/real"))
    assert "It was not rolled out for this page: there is no environment of its task." in hub.repos["lab/real"]["README.md"].decode()


def test_what_is_no_portable_policy_is_one_line(tmp_path):
    for content in ("{}", "[]", "no JSON", '{"format": 99}'):
        (tmp_path / FILES[0]).write_text(content)
        with pytest.raises(ConfigError, match="holds no policy of robomimic_frozen") as caught:
            read_portable(*(tmp_path / file for file in FILES))
        assert "\n" not in str(caught.value)
