"""Single bits that flip, and files that end early, at random places."""

import random

import pytest
import robomimic.utils.file_utils as FileUtils
import torch
from policies import OBS_SHAPES, make_config, make_policy
from robomimic.utils.train_utils import save_model

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies.checkpoints import read_checkpoint
from robomimic_frozen.policies.states import networks

DAMAGES = 40


def flip_a_bit(content):
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]


def cut_off(content):
    return content[: random.randrange(len(content))]


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "model.pth"
    shapes = {"ac_dim": 7, "all_shapes": dict(OBS_SHAPES), "all_obs_keys": list(OBS_SHAPES), "use_images": True}
    save_model(make_policy(), make_config(), {"env_name": "Lift"}, shapes, str(path))
    return path


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(flip_a_bit, marks=pytest.mark.fault("a bit of a checkpoint flipped", "refused, or read as it was", times=DAMAGES)),
        pytest.param(cut_off, marks=pytest.mark.fault("a checkpoint cut off", "refused in one line", times=DAMAGES)),
    ],
)
def test_a_damaged_checkpoint_is_refused_unless_it_says_what_it_said(damage, checkpoint, tmp_path):
    good, damaged = read_checkpoint(checkpoint, "CKPT"), tmp_path / "model.pth"
    content, refused = checkpoint.read_bytes(), 0
    for _ in range(DAMAGES):
        damaged.write_bytes(damage(content))
        try:
            read = read_checkpoint(damaged, "CKPT")
        except ConfigError:
            refused += 1
        else:
            assert same(read, good)
    # What nobody reads may flip: the padding between the parts of an archive.
    assert refused == DAMAGES if damage is cut_off else refused > DAMAGES / 2


def test_robomimics_own_scripts_refuse_a_checkpoint_with_a_flipped_bit(checkpoint, tmp_path):
    weights = next(iter(networks(read_checkpoint(checkpoint, "CKPT")["model"]).values())).contiguous()
    content = checkpoint.read_bytes()
    place = content.index(weights.numpy().tobytes())
    damaged = tmp_path / "model.pth"
    damaged.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    FileUtils.policy_from_checkpoint(ckpt_path=str(checkpoint), device=torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"model.pth is damaged: the checksum of \S+ differs"):
        FileUtils.policy_from_checkpoint(ckpt_path=str(damaged), device=torch.device("cpu"))
