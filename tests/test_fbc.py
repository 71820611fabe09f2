import pytest
import torch
from policies import make_batch, make_config, make_obs, make_policy

from robomimic_frozen.errors import ConfigError


def train(policy, steps=3, epoch=1):
    policy.set_train()
    return [policy.log_info(policy.train_on_batch(make_batch(policy), epoch)) for _ in range(steps)]


def test_the_actions_of_a_batch_can_be_learned():
    torch.manual_seed(0)
    config = make_config(horizon=4, act_steps=4, network_kwargs={"hidden_dims": [128, 128]})
    config.observation.modalities.obs.rgb = []  # the encoder has tests of its own, and without it this one is quick
    config.train.num_epochs = 2
    policy = make_policy(config)
    obs = {"robot0_eef_pos": torch.tensor([[[0.0, 0.0, 1.0]], [[0.0, 1.0, 0.0]]])}
    actions = torch.tensor([0.5, -0.5]).view(2, 1, 1).expand(2, 4, 7)
    batch = {
        "obs": {"robot0_eef_pos": obs["robot0_eef_pos"].repeat(32, 1, 1)},
        "goal_obs": None,
        "actions": actions.repeat(32, 1, 1),
    }
    policy.set_train()
    for _ in range(400):
        policy.train_on_batch(batch, epoch=1)
    policy.set_eval()
    learned = policy.get_action({"robot0_eef_pos": obs["robot0_eef_pos"][:, 0]})
    torch.testing.assert_close(learned.mean(dim=1), torch.tensor([0.5, -0.5]), atol=0.15, rtol=0)


def test_frozen_parameters_are_neither_trained_nor_optimized():
    policy = make_policy()
    encoder = policy.nets["policy"].encoder
    before = {name: value.clone() for name, value in encoder.state_dict().items() if "backbone" in name}
    train(policy)
    after = encoder.state_dict()
    assert before
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    optimized = {id(parameter) for group in policy.optimizers["policy"].param_groups for parameter in group["params"]}
    trainable = {id(parameter) for parameter in policy.nets["policy"].parameters() if parameter.requires_grad}
    frozen = {id(parameter) for name, parameter in encoder.named_parameters() if "backbone" in name}
    assert optimized == trainable
    assert not optimized & frozen


def test_logs_carry_the_names_robomimic_users_know():
    log = train(make_policy(), steps=1)[0]
    assert {"Loss", "Policy_Grad_Norms", "Optimizer/policy0_lr"} <= log.keys()


def test_validation_changes_nothing():
    policy = make_policy()
    before = {name: value.clone() for name, value in policy.nets.state_dict().items()}
    policy.set_eval()
    with torch.no_grad():
        info = policy.train_on_batch(make_batch(policy), epoch=1, validate=True)
    assert policy.log_info(info)["Loss"] > 0
    assert all(torch.equal(value, policy.nets.state_dict()[name]) for name, value in before.items())


@pytest.mark.parametrize("obs_steps", [1, 2])
def test_a_chunk_is_executed_action_by_action_and_then_replaced(obs_steps):
    policy = make_policy(make_config(horizon=8, act_steps=3, obs_steps=obs_steps))
    policy.set_eval()
    policy.reset()
    assert policy.get_action(make_obs(policy, size=2)).shape == (2, 7)
    policy.reset()
    sampled = []
    policy.sample_chunks = lambda obs, noise, goal: sampled.append(obs) or torch.arange(8.0).view(1, 8, 1).expand(1, 8, 7)
    actions = [policy.get_action(make_obs(policy))[0, 0].item() for _ in range(7)]
    assert actions == [0, 1, 2, 0, 1, 2, 0]
    assert len(sampled) == 3


def test_reset_forgets_the_rest_of_the_chunk():
    policy = make_policy()
    policy.set_eval()
    policy.sample_chunks = lambda obs, noise, goal: torch.arange(16.0).view(1, 16, 1).expand(1, 16, 7)
    policy.get_action(make_obs(policy))
    policy.reset()
    assert policy.get_action(make_obs(policy))[0, 0].item() == 0


def test_the_policy_sees_the_first_frames_and_learns_the_actions_from_the_newest_on():
    policy = make_policy(make_config(horizon=4, act_steps=2, obs_steps=2))
    frames = torch.arange(5.0).view(1, 5, 1)
    raw = {"obs": {"robot0_eef_pos": frames.expand(1, 5, 3)}, "actions": frames.expand(1, 5, 7)}
    batch = policy.process_batch_for_training(raw)
    assert batch["obs"]["robot0_eef_pos"][0, :, 0].tolist() == [0, 1]
    assert batch["actions"][0, :, 0].tolist() == [1, 2, 3, 4]


def act(policy, obs):
    policy.set_eval()
    policy.reset()
    torch.manual_seed(7)
    return torch.stack([policy.get_action(obs) for _ in range(10)])


def test_a_restored_checkpoint_gives_the_same_actions(tmp_path):
    policy = make_policy()
    train(policy)
    torch.save(policy.serialize(), tmp_path / "model.pth")
    restored = make_policy()
    restored.deserialize(torch.load(tmp_path / "model.pth", weights_only=True))
    obs = make_obs(policy)
    assert torch.equal(act(policy, obs), act(restored, obs))


def test_actions_come_from_the_averaged_weights():
    policy = make_policy()
    train(policy)
    obs = make_obs(policy)
    before = act(policy, obs)
    with torch.no_grad():
        for parameter in policy.nets["policy"].velocity.parameters():
            parameter.zero_()
    assert torch.equal(act(policy, obs), before)
    with torch.no_grad():
        for average in policy.nets["ema"].buffers():
            average.zero_()
    assert not torch.equal(act(policy, obs), before)


def test_the_chiunet_learns_in_the_place_of_the_mlp():
    config = make_config(network="chiunet")
    config.algo.network_kwargs.update({"down_dims": [16, 32], "kernel_size": 3})
    policy = make_policy(config)
    train(policy)
    assert act(policy, make_obs(policy)).shape[1:] == (1, 7)


def test_trainable_stages_of_the_backbone_learn_at_their_own_rate():
    config = make_config()
    config.observation.encoder.rgb.core_kwargs.freeze_encoder = "layer3"
    config.algo.optim_params.policy.learning_rate.encoder = 1e-5
    policy = make_policy(config)
    rates = {group["initial_lr"]: len(group["params"]) for group in policy.optimizers["policy"].param_groups}
    layer4 = [name for name, _ in policy.nets["policy"].named_parameters() if ".stages.layer4." in name]
    assert rates[1e-5] == len(layer4)
    assert set(rates) == {1e-3, 1e-5}
    train(policy)
    first, second = (group["lr"] for group in policy.optimizers["policy"].param_groups)
    assert second == pytest.approx(first / 100)


def test_bfloat16_steps_follow_the_float32_ones_and_leave_weights_and_actions_in_float32():
    losses = {}
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        policy = make_policy(make_config(precision=precision))
        losses[precision] = [log["Loss"] for log in train(policy, steps=10)]
        assert {value.dtype for value in policy.nets["policy"].parameters()} == {torch.float32}
        assert act(policy, make_obs(policy)).dtype == torch.float32
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]


def test_goals_condition_the_policy():
    config = make_config()
    config.observation.modalities.goal.low_dim = ["robot0_eef_pos"]
    policy = make_policy(config)
    obs, goal = make_obs(policy), {"robot0_eef_pos": torch.zeros(1, 3)}
    policy.set_eval()

    def first_action(goal):
        policy.reset()
        torch.manual_seed(0)
        return policy.get_action(obs, goal)

    assert torch.equal(first_action(goal), first_action(goal))
    assert not torch.equal(first_action(goal), first_action({"robot0_eef_pos": torch.ones(1, 3)}))


def test_the_learning_rate_warms_up_by_step_and_decays_to_the_last_epoch():
    config = make_config()
    config.algo.optim_params.policy.learning_rate.warmup_steps = 2
    config.experiment.epoch_every_n_steps = 2
    config.train.num_epochs = 2
    policy = make_policy(config)
    rates = []
    for epoch in (1, 2):
        rates += [log["Optimizer/policy0_lr"] for log in train(policy, steps=2, epoch=epoch)]
        policy.on_epoch_end(epoch)
    initial = config.algo.optim_params.policy.learning_rate.initial
    assert rates == pytest.approx([initial * share for share in (0.5, 0.853553, 0.5, 0.146447)], rel=1e-4)


def test_gradients_are_clipped():
    config = make_config()
    config.train.max_grad_norm = 1e-3
    policy = make_policy(config)
    train(policy, steps=1)
    norm = torch.stack([parameter.grad.norm() for parameter in policy._trainable.values()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.train.update({"seq_length": 4}), "algo.horizon is 16 and train.seq_length is 4"),
        (lambda c: c.train.update({"frame_stack": 3}), "algo.obs_steps is 1 and train.frame_stack is 3"),
        (lambda c: c.algo.update({"act_steps": 17}), "algo.act_steps is 17; choose 1 to"),
        (lambda c: c.algo.update({"flow_steps": 0}), "algo.flow_steps is 0"),
        (lambda c: c.algo.update({"network": "transformer"}), "unknown algo.network 'transformer'"),
        (lambda c: c.algo.update({"precision": "float16"}), 'algo.precision is "float16"; choose'),
        (lambda c: c.algo.update({"network": "chiunet", "horizon": 12}) or c.train.update({"seq_length": 12}), "power of two"),
        (lambda c: c.algo.optim_params.policy.update({"optimizer_type": "sgd"}), "optimizer_type is 'sgd'"),
        (
            lambda c: c.observation.encoder.rgb.core_kwargs.update({"rgb_modle_name": "resnet18"}),
            "unknown key 'rgb_modle_name'.*did you mean 'rgb_model_name'",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(change, words):
    config = make_config()
    change(config)
    with pytest.raises(ConfigError, match=words):
        make_policy(config)
