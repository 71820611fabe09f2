"""Training that starts from the weights of an earlier run."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from robomimic_frozen.checkpoints import find_checkpoint, networks, read_checkpoint
from robomimic_frozen.encoders.frozen_weights import expanded
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies.ema import EMA, averages_in, num_updates_in
from robomimic_frozen.policies.flow_policy import FlowPolicy, trainable


def start_from_checkpoint(policy: FlowPolicy, ema: EMA, path: Path) -> None:
    """Take over the weights and averages of an earlier `fbc_frozen` run, whatever it had frozen.

    Args:
        path: a checkpoint, or a folder whose newest one is taken.

    Raises:
        ConfigError: the file is no such checkpoint, or its networks are others. Nothing has been loaded then.
        WeightsError: it refers to frozen weights that cannot be had.
    """
    path = find_checkpoint(path, "algo.init_from")
    checkpoint = read_checkpoint(path, "algo.init_from")
    if checkpoint["algo_name"] != "fbc_frozen":
        raise ConfigError(f"algo.init_from {path} is a checkpoint of {checkpoint['algo_name']!r}; give one of 'fbc_frozen'")
    state = expanded(nn.ModuleDict({"policy": policy}), networks(checkpoint["model"]))
    weights = {name.removeprefix("policy."): value for name, value in state.items() if name.startswith("policy.")}
    expected = policy.state_dict()
    wrong = weights.keys() ^ expected.keys()
    wrong |= {name for name in weights.keys() & expected.keys() if weights[name].shape != expected[name].shape}
    if wrong:
        raise ConfigError(
            f"algo.init_from {path} has other networks than this config: {len(wrong)} entries differ (first: {min(wrong)}); "
            "give both the same obs keys, backbone and algo.network"
        )
    policy.load_state_dict(weights)
    ema.start_from({**trainable(policy), **averages_in(state)}, num_updates_in(state))
