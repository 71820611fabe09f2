"""Checkpoints hold a frozen network once, packed, or only its sha256."""

import io
import pickle

import pytest
import torch
from policies import SmallBackbone, make_config, make_obs, make_policy
from robomimic_versions import IS_0_5
from test_two_stages import act, save, train

from robomimic_frozen.encoders import get_backbone
from robomimic_frozen.encoders.weights import _as_bytes, read_record, restoring_checkpoint
from robomimic_frozen.errors import ConfigError, WeightsError, WeightsUnavailableError
from robomimic_frozen.policies.states import networks


def size_mb(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return len(buffer.getvalue()) / 1e6


def restored(policy, config=None):
    """What `policy_from_checkpoint` builds of what robomimic saves."""
    with restoring_checkpoint():
        other = make_policy(config or policy.global_config)
        other.deserialize(policy.serialize())
    return other


@pytest.fixture
def weights_file(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "weights.pth"
    torch.save(SmallBackbone.backbone.build().state_dict(), path)
    return path


def referring_config(weights_file):
    config = make_config()
    config.algo.checkpoint.frozen_weights = "reference"
    config.observation.encoder.rgb.core_kwargs.update({"pretrained_encoder": True, "weights": str(weights_file)})
    return config


@pytest.mark.parametrize("setting", ["include", "reference"])
@pytest.mark.parametrize("freeze", [True, "layer3", False])
def test_a_restored_policy_acts_as_the_trained_one_bit_for_bit(setting, freeze, weights_file):
    config = referring_config(weights_file)
    config.algo.checkpoint.frozen_weights = setting
    config.observation.encoder.rgb.core_kwargs.freeze_encoder = freeze
    policy = make_policy(config)
    train(policy)
    obs = make_obs(policy)
    assert torch.equal(act(restored(policy), obs), act(policy, obs))


@pytest.mark.parametrize(("setting", "most"), [("include", 94.6 / 2), ("reference", 12)])
def test_two_cameras_of_the_default_config_take_little_room(setting, most, weights_file):
    torch.save(get_backbone("resnet18").build().state_dict(), weights_file)
    config = referring_config(weights_file)
    config.algo.checkpoint.frozen_weights = setting
    config.observation.encoder.rgb.core_kwargs.rgb_model_name = "resnet18"
    config.algo.network_kwargs.hidden_dims = [512, 512, 512, 512]
    config.observation.encoder.rgb.core_kwargs.emb_dim = 256
    config.observation.modalities.obs.rgb = ["agentview_image", "robot0_eye_in_hand_image"]
    shapes = {"agentview_image": (3, 84, 84), "robot0_eye_in_hand_image": (3, 84, 84), "robot0_eef_pos": (3,)}
    behind_the_averages = 6.5 if IS_0_5 else 0  # from which 0.5 resumes
    assert size_mb(make_policy(config, shapes).serialize()) < most + behind_the_averages


def test_a_reference_whose_file_is_gone_says_what_is_missing(weights_file):
    policy = make_policy(referring_config(weights_file))
    weights_file.unlink()
    with pytest.raises(WeightsUnavailableError, match=r"only refers to .* small, sha256 [0-9a-f]{64}: .*does not exist"):
        restored(policy)


def test_a_reference_to_other_weights_is_refused_before_anything_is_loaded(weights_file):
    policy = make_policy(referring_config(weights_file))
    torch.save(SmallBackbone.backbone.build().state_dict(), weights_file)
    with restoring_checkpoint():
        other = make_policy(policy.global_config)
    before = {name: value.clone() for name, value in other.nets.state_dict().items() if isinstance(value, torch.Tensor)}
    with pytest.raises(WeightsError, match="sha256 .*those at hand have .*core_kwargs.weights"):
        other.deserialize(policy.serialize())
    assert all(torch.equal(value, other.nets.state_dict()[name]) for name, value in before.items())


def test_weights_that_no_file_has_cannot_be_referred_to(weights_file, tmp_path):
    config = referring_config(weights_file)
    config.observation.encoder.rgb.core_kwargs.freeze_encoder = False
    first = make_policy(config)
    train(first)
    again = referring_config(weights_file)
    again.algo.init_from = str(save(first, tmp_path / "first.pth"))
    with pytest.raises(WeightsError, match="or algo.checkpoint.frozen_weights to 'include'"):
        make_policy(again)


def test_another_setting_is_refused():
    config = make_config()
    config.algo.checkpoint.frozen_weights = "omit"
    with pytest.raises(ConfigError, match="'omit'; choose 'include' or 'reference'"):
        make_policy(config)


def test_damaged_packed_weights_are_refused():
    policy = make_policy()
    state = dict(networks(policy.serialize()))
    (name,) = [name for name, value in state.items() if name.endswith("_extra_state") and value.dtype == torch.uint8]
    record = read_record(state[name])
    record["weights"] = {**record["weights"], "layer1.1.weight": record["weights"]["layer1.1.bias"]}
    state[name] = _as_bytes(record)
    with pytest.raises(WeightsError, match="are damaged"):
        policy.deserialize(state)


def test_a_checkpoint_is_read_without_executing_anything_in_it(tmp_path):
    from robomimic_frozen.policies.checkpoints import describe_checkpoint

    class Malicious:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    path = save(make_policy(), tmp_path / "tampered.pth", algo_name=Malicious())
    with pytest.raises(ConfigError, match="not a robomimic checkpoint"):
        describe_checkpoint(path)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ConfigError, match="not a robomimic checkpoint"):
        describe_checkpoint(path)
    assert not (tmp_path / "executed").exists()
