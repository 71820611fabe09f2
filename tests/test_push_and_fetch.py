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

from robomimic_frozen import cli
from robomimic_frozen.encoders.weights import restoring_checkpoint
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies import hub as policies_hub
from robomimic_frozen.policies.checkpoints import read_checkpoint
from robomimic_frozen.policies.hub import fetch_policy
from robomimic_frozen.policies.portable import FILES, DamagedPolicyError, read_portable, shareable_config, without_places, write_portable

REPO = "lab/lift"
# Runs commands in one process, and prints the status and the last line of what each says.
SEVERAL = """
import contextlib, io, json, sys
from robomimic_frozen import cli
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        status = cli.main(words)
    print(json.dumps([status, (errors.getvalue().strip().splitlines() or [""])[-1]]))
"""


@pytest.fixture
def hub():
    with serving(Hub({"lab/other": {"model.bin": b"0"}}, gated={"lab/gated"})) as hub:
        yield hub


@pytest.fixture
def start(hub, tmp_path):
    """Runs Python in a process of its own, for huggingface_hub reads its settings when it is imported."""

    def start(*arguments, **settings):
        of_hub = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_x", "NO_PROXY": "*"}
        environment = {**os.environ, **of_hub, "HOME": str(tmp_path / "home"), **settings}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)

    return start


@pytest.fixture
def run(start):
    """Runs a command."""
    return lambda *words, **settings: start("-m", "robomimic_frozen.cli", *words, **settings)


@pytest.fixture
def shared(checkpoint, tmp_path, monkeypatch) -> Path:
    """The folder that huggingface_hub would give of a repository to which the policy was pushed."""
    folder = tmp_path / "0123456789abcdef"
    folder.mkdir()
    write_portable(read_checkpoint(checkpoint, "CKPT"), folder)
    monkeypatch.setattr(policies_hub, "_snapshot", lambda place: folder)
    monkeypatch.setenv("HOME", str(tmp_path))  # where the checkpoint that is made of it lies
    return folder


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
def test_a_policy_is_rolled_out_pushed_fetched_and_acts_the_same(checkpoint, run, start, hub, tmp_path, lift_dataset):
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

    shared = f"hf://{REPO}"
    commands = ["fetch", shared], ["fetch", shared], ["info", shared], ["eval", shared, *map(str, settings)]
    printed = output_of(start("-c", SEVERAL, json.dumps(commands)))
    answers = [json.loads(line) for line in printed.splitlines() if line.startswith(("[0, ", "[1, "))]
    assert [status for status, _ in answers] == [0, 1, 0, 0]
    assert "lift.pth exists already" in answers[1][1]
    there, here = (FileUtils.policy_from_checkpoint(ckpt_path=str(path))[0] for path in (checkpoint, tmp_path / "lift.pth"))
    obs = {key: torch.rand(1, *shape) for key, shape in there.policy.obs_shapes.items()}
    assert torch.equal(act(there.policy, obs), act(here.policy, obs))
    assert '"efficientnet_lite0"' in printed
    assert f"| hf://{REPO}@{hub.commit(REPO)} | 0.00 | 0.00-0.66 | 2 |" in printed


def test_a_run_starts_from_a_shared_policy(shared, tmp_path, lift_dataset):
    of_run = {
        "train.output_dir": str(tmp_path / "runs"), "train.num_epochs": 1, "experiment.epoch_every_n_steps": 2, "train.batch_size": 2,
        "experiment.rollout.enabled": False, "experiment.render_video": False, "train.cuda": False, "algo.feature_cache.enabled": False,
        "observation.encoder.rgb.core_kwargs.rgb_model_name": "efficientnet_lite0", "experiment.save.every_n_epochs": 1,
    }  # fmt: skip
    changes = [word for key, value in of_run.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    assert cli.main(["train", "--dataset", str(lift_dataset), "--init-from", f"hf://{REPO}", *changes]) == 0
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
        ("/home/Jane Doe/o'brien/lift.hdf5", "lift.hdf5"),
        ("~jane/data/lift.hdf5", "lift.hdf5"),
        ("cluster:/home/jane/lift.hdf5", "lift.hdf5"),
        ("jane@gpu01:/data/lift.hdf5", "lift.hdf5"),
        ("../../jane/lift.hdf5", "lift.hdf5"),
        ("https://jane:secret@example.org", ""),
        ("https://example.org/jane/lift.hdf5?X-Amz-Signature=secret", "lift.hdf5"),
        ("hf://lab/lift@v1", "hf://lab/lift@v1"),
        ("obs/agentview_image", "obs/agentview_image"),
        ("action_dict/abs_pos and/or 1/2", "action_dict/abs_pos and/or 1/2"),
        ("OSC_POSE", "OSC_POSE"),
    ],
)
def test_of_paths_and_urls_their_last_part_is_shared(text, left):
    assert without_places({"a": [text, 1, None]}) == {"a": [left, 1, None]}


def test_of_a_config_no_place_is_shared_also_where_it_is_a_relative_one():
    config = json.loads(make_config(init_from="jane/stage1.pth").dump())
    config["train"]["data"], config["train"]["output_dir"] = "jane/lift.hdf5", "/home/jane"
    config["algo"]["feature_cache"]["dir"] = "/home/jane"
    config["observation"]["encoder"]["rgb"]["core_kwargs"]["weights"] = "jane/weights.pth"
    shared = shareable_config(config)
    assert "jane" not in json.dumps(shared)
    assert (shared["train"]["data"], shared["algo"]["init_from"]) == ("lift.hdf5", "stage1.pth")
    assert shared["train"]["output_dir"] == "runs" and shared["algo"]["feature_cache"]["dir"] is None
    of_several = shareable_config({**config, "train": {**config["train"], "data": [{"path": "jane/a.hdf5", "weight": 2}]}})
    assert of_several["train"]["data"] == [{"path": "a.hdf5", "weight": 2}]


@pytest.mark.fault("a shared policy whose file is damaged", "removed, said in one line; the next run downloads it again")
def test_a_damaged_policy_is_refused_and_fetched_again(shared, tmp_path):
    tensors, whole = shared / FILES[1], (shared / FILES[1]).read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    description = (shared / FILES[0]).read_bytes()
    with pytest.raises(DamagedPolicyError, match="policy.safetensors is damaged, for its sha256 is another one"):
        fetch_policy(f"hf://{REPO}")
    assert not any((shared / file).exists() for file in FILES) and not list(tmp_path.rglob("*.pth"))
    for file, content in zip(FILES, (description, whole), strict=True):  # as huggingface_hub does now
        (shared / file).write_bytes(content)
    assert read_checkpoint(fetch_policy(f"hf://{REPO}"), "CKPT")["algo_name"] == "fbc_frozen"


NOWHERE = {"HF_ENDPOINT": "http://127.0.0.1:9"}
BAD_REPOSITORIES = [
    ({}, ["info", "hf://lab/absent"], "the hub has no such repository, or it is private"),
    ({}, ["info", "hf://lab/gated"], "its owners must let you in"),
    ({}, ["info", "hf://lab/other"], "holds no policy of this package, for it lacks policy.json"),
    ({}, ["fetch", "lift"], "lift is no OWNER/NAME of a repository at the hub"),
    ({}, ["fetch", "hf://lab/../../lift"], "is no OWNER/NAME"),
    (NOWHERE, ["eval", f"hf://{REPO}"], rf"hf://{REPO} could not be fetched \(.*\); check the name and the network"),
    ({"HF_HUB_OFFLINE": "1"}, ["fetch", REPO], "could not be fetched"),
]


@pytest.mark.parametrize("settings", [{}, NOWHERE, {"HF_HUB_OFFLINE": "1"}], ids=["hub", "no network", "offline"])
def test_a_repository_that_gives_no_policy_is_one_line_and_nothing_is_written(settings, start, tmp_path):
    cases = [(words, message) for of_case, words, message in BAD_REPOSITORIES if of_case == settings]
    printed = output_of(start("-c", SEVERAL, json.dumps([words for words, _ in cases]), **settings))
    answers = [json.loads(line) for line in printed.splitlines() if line.startswith("[1, ")]
    assert len(answers) == len(cases)
    for (words, message), (_, error) in zip(cases, answers, strict=True):
        assert re.search(message, error), error
        assert error.startswith(f"robomimic-frozen {words[0]}: ")
    assert not list(tmp_path.rglob("*.pth"))


@pytest.mark.fault("a push without a token, and with one that may only read", "one line; nothing is rolled out or written")
@pytest.mark.parametrize(
    ("rights", "settings", "words"),
    [
        ("write", {"HF_TOKEN": ""}, "lab/lift cannot be written to .*; log in"),
        ("read", {}, r"cannot be written to \(the token may only read\); log in \(hf auth login, or HF_TOKEN\) with a token"),
    ],
    ids=["no token", "a token that may read"],
)
def test_a_push_that_may_not_write_is_refused_before_anything_is_rolled_out(rights, settings, words, checkpoint, run, hub, tmp_path):
    hub.rights = rights
    error = error_of(run("push", checkpoint, REPO, "--out", tmp_path / "eval", **settings))
    assert re.search(words, error), error
    assert REPO not in hub.repos
    assert not (tmp_path / "eval").exists()


@pytest.mark.fault("a push to a repository of something else or a public one, and one whose upload fails", "one line; the hub is as it was")
def test_a_push_leaves_other_repositories_alone_and_none_half_written(checkpoint, start, hub):
    hub.repos["lab/public"] = {FILES[0]: b"{}", "README.md": b"mine"}
    hub.repos["lab/of_others"], hub.rights = {}, "create"
    before = {name: dict(files) for name, files in hub.repos.items()}
    wanted = {
        ("lab/other",): "holds something else than a policy of this package .model.bin.; choose another name",
        ("lab/public", "--private"): "lab/public is there, and public; make it private on its page, or leave out --private",
        ("lab/new@v1",): "what is pushed becomes the newest one; leave out @v1",
        ("lab/new",): "lab/new could not be written .*403.*; check your rights",
        ("lab/of_others",): "lab/of_others could not be written",
    }
    commands = [["push", str(checkpoint), *words, "--episodes", "0"] for words in wanted]
    answers = [json.loads(line) for line in output_of(start("-c", SEVERAL, json.dumps(commands))).splitlines() if line.startswith("[1, ")]
    assert len(answers) == len(wanted)
    for (_, error), message in zip(answers, wanted.values(), strict=True):
        assert re.search(message, error), error
    assert hub.repos == before


def test_a_policy_without_an_environment_is_shared_and_its_page_says_so(checkpoint, run, hub, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "env_metadata": {"env_name": "so101", "type": -1, "env_kwargs": {}}}, tmp_path / "real.pth")
    output_of(run("push", tmp_path / "real.pth", "lab/real", "--private"))
    assert hub.private == {"lab/real"}
    page = hub.repos["lab/real"]["README.md"].decode()
    assert "It was not rolled out for this page: its demonstrations have no environment to roll it out in." in page


def test_what_is_no_portable_policy_is_one_line_and_a_later_format_is_not_called_damaged(tmp_path):
    for content in ("{}", "[]", "no JSON"):
        (tmp_path / FILES[0]).write_text(content)
        with pytest.raises(DamagedPolicyError, match="describes no policy of this package") as caught:
            read_portable(*(tmp_path / file for file in FILES))
        assert "\n" not in str(caught.value)
    (tmp_path / FILES[0]).write_text('{"format": 99, "sha256": "", "checkpoint": {}}')
    with pytest.raises(ConfigError, match="is of format 99, and this version reads 1; pip install -U") as caught:
        read_portable(*(tmp_path / file for file in FILES))
    assert not isinstance(caught.value, DamagedPolicyError)
