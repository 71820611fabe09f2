"""Configs with something wrong in them, given to `robomimic-frozen train`."""

import contextlib
import copy
import json

import h5py
import numpy as np
import pytest
import robomimic.scripts.train as script
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policies import make_batch, make_config, make_policy

from robomimic_frozen import cli

CONFIGS = 200

KEYS = st.sampled_from(["", "kind", "enabled", "rgb", "0"]) | st.text(max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.floats() | st.text(max_size=8) | st.sampled_from(["layer3", "chiunet"]),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(KEYS, values, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "dataset.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = "{}"
        file.create_group("data/demo_0").attrs["num_samples"] = 8
        file["data/demo_0/actions"] = np.zeros((8, 7))
        file["data/demo_0/obs/agentview_image"] = np.zeros((8, 32, 32, 3), np.uint8)
        file["data/demo_0/obs/robot0_eef_pos"] = np.zeros((8, 3))
    return path


def places(section, path=()):
    """The paths of all keys of a nested mapping."""
    for key, value in section.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


def at(section, path):
    for key in path:
        section = section[key]
    return section


@st.composite
def mutated(draw, config):
    """The settings of a config, one to three of them removed, renamed or given other values."""
    config = copy.deepcopy(config)
    for _ in range(draw(st.integers(1, 3))):
        *parents, key = draw(st.sampled_from(sorted(places(config)))) if config else ("",)
        section = at(config, parents)
        kind = draw(st.sampled_from(["remove", "rename", "change", "change", "change"]))
        value = section.pop(key, None)
        if kind == "rename":
            section[draw(KEYS)] = value
        elif kind == "change":
            section[key] = draw(VALUES)
    return config


@contextlib.contextmanager
def training_is_one_step():
    """In the place of robomimic's training: the policy its config describes, and one step of it on a batch of random content."""

    def train(config, device, **kwargs):
        policy = make_policy(config)
        policy.set_train()
        policy.train_on_batch(make_batch(policy), epoch=1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "train", train)
        yield


@pytest.mark.fault(
    "a config with settings removed, renamed or given other values", "one line that says why, or training as it says", times=CONFIGS
)
@settings(max_examples=CONFIGS, deadline=20_000, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_mutated_config_trains_or_is_refused_in_one_line(data, dataset, tmp_path, capfd):
    config = make_config(horizon=4, act_steps=2, flow_steps=1)
    with config.values_unlocked():
        config.train.cuda = config.experiment.rollout.enabled = False
        config.train.output_dir = str(tmp_path / "runs")
        config.train.batch_size = 2
    content = data.draw(mutated(json.loads(config.dump())))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content))
    with training_is_one_step():
        code = cli.main(["train", "--config", str(file), "--dataset", str(dataset)])
    lines = capfd.readouterr().err.strip().splitlines()
    assert code == 0 or (code == 1 and lines[-1].startswith("robomimic-frozen train: ")), lines
    assert torch.get_default_dtype() is torch.float32
