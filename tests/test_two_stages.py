"""Stage 1 trains on a frozen encoder; stage 2 starts from its checkpoint and unfreezes."""

import json
import os
import re

import pytest
import torch
from policies import SmallBackbone, make_batch, make_config, make_obs, make_policy

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies.checkpoints import describe_checkpoint


def save(policy, path, **changes):
    """As robomimic's train.py does."""
    config = policy.global_config
    content = {"model": policy.serialize(), "config": config.dump(), "algo_name": config.algo_name, "env_metadata": {}}
    torch.save({**content, **changes}, path)
    return path


def train(policy, steps=3):
    policy.set_train()
    for _ in range(steps):
        policy.train_on_batch(make_batch(policy), epoch=1)


def act(policy, obs):
    policy.set_eval()
    policy.reset()
    torch.manual_seed(0)
    return policy.get_action(obs)


@pytest.fixture
def stage1(tmp_path):
    """A trained stage-1 policy and its checkpoint."""
    policy = make_policy()
    train(policy)
    return policy, save(policy, tmp_path / "stage1.pth")


def stage2_config(checkpoint, freeze):
    config = make_config(init_from=str(checkpoint))
    config.observation.encoder.rgb.core_kwargs.freeze_encoder = freeze
    return config


@pytest.mark.parametrize(("freeze", "rounding"), [(True, 0), ("layer3", 1e-5), (False, 1e-5)])
def test_before_its_first_step_stage_two_acts_as_stage_one(freeze, rounding, stage1):
    first, checkpoint = stage1
    second = make_policy(stage2_config(checkpoint, freeze))
    obs = make_obs(first)
    # BatchNorm is folded where stages are frozen, and nowhere else.
    torch.testing.assert_close(act(second, obs), act(first, obs), atol=rounding, rtol=0)


def test_a_folder_of_runs_stands_for_its_newest_checkpoint(stage1, tmp_path):
    first, checkpoint = stage1
    old, new = (tmp_path / "stage1" / run / "models" / "model_epoch_2.pth" for run in ("20260102", "20260101"))
    for path in (old, new):
        path.parent.mkdir(parents=True)
    save(make_policy(), old)
    checkpoint.rename(new)
    os.utime(old, (0, 0))
    second = make_policy(stage2_config(tmp_path / "stage1", True))
    obs = make_obs(first)
    assert torch.equal(act(second, obs), act(first, obs))


def test_what_is_unfrozen_learns_and_is_averaged(stage1):
    _, checkpoint = stage1
    policy = make_policy(stage2_config(checkpoint, "layer3"))
    name = next(name for name in policy.nets["ema"].names if ".stages.layer4." in name)
    before = policy.nets["ema"].averages()[name].clone()
    train(policy)
    assert not torch.equal(before, policy.nets["ema"].averages()[name])
    assert not any(".stages.layer3." in name for name in policy.nets["ema"].names)


def test_the_learning_rate_warms_up_again(stage1):
    _, checkpoint = stage1
    policy = make_policy(stage2_config(checkpoint, True))
    train(policy, steps=1)
    assert policy.optimizers["policy"].param_groups[0]["lr"] == pytest.approx(1e-3 / 100)


def test_a_checkpoint_of_stage_two_rolls_out_without_that_of_stage_one(stage1, tmp_path):
    from robomimic_frozen.encoders.weights import restoring_checkpoint

    _, checkpoint = stage1
    policy = make_policy(stage2_config(checkpoint, "layer3"))
    train(policy)
    checkpoint.unlink()
    with restoring_checkpoint():
        restored = make_policy(stage2_config(checkpoint, "layer3"))
    restored.deserialize(policy.serialize())
    obs = make_obs(policy)
    assert torch.equal(act(restored, obs), act(policy, obs))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda policy, path: path.unlink(), "does not exist; .*algo.init_from"),
        (lambda policy, path: (path.unlink(), path.mkdir()), "holds no checkpoint.*train first"),
        (lambda policy, path: path.write_bytes(b"no checkpoint"), "not a robomimic checkpoint"),
        (lambda policy, path: save(policy, path, algo_name="bc"), "checkpoint of 'bc'; give one of 'fbc_frozen'"),
        (lambda policy, path: save(policy, path, model={"policy.x": torch.zeros(1)}), "has other networks.*same obs keys"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(damage, words, stage1):
    policy, checkpoint = stage1
    damage(policy, checkpoint)
    with pytest.raises(ConfigError, match=words):
        make_policy(stage2_config(checkpoint, True))


def test_a_frozen_encoder_that_was_trained_before_is_not_served_from_features_of_the_original_one(stage1, tmp_path):
    from robomimic_frozen.integration.cached_training import why_uncached

    _, checkpoint = stage1
    assert why_uncached(stage2_config(checkpoint, True)) is None
    policy = make_policy(stage2_config(checkpoint, "layer3"))
    again = stage2_config(save(policy, tmp_path / "stage2.pth"), True)
    assert json.loads(again.dump())["algo"]["init_from"].endswith("stage2.pth")
    assert why_uncached(again) == "algo.init_from has trained its encoder"


def test_info_tells_what_the_checkpoint_holds(stage1):
    policy, checkpoint = stage1
    rows = dict(describe_checkpoint(checkpoint))
    trained = sum(parameter.numel() for parameter in policy.nets["policy"].parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in SmallBackbone.backbone.build().parameters())
    assert rows["  trainable"] == f"{trained:,}"
    assert rows["  frozen"].startswith(f"{frozen:,}, ")
    assert rows["parameters"] == f"{trained + frozen:,}"
    assert (rows["algorithm"], rows["  rgb_model_name"], rows["  freeze_encoder"]) == ("fbc_frozen", '"small"', "true")
    assert re.fullmatch("small, sha256 [0-9a-f]{64}, in this file", rows["frozen weights"])
