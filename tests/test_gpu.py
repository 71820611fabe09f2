"""What must not depend on whether there is a GPU. Deselected where there is none."""

import numpy as np
import pytest
import torch
from policies import make_batch, make_config, make_obs, make_policy

from robomimic_frozen.encoders import EncoderSpec
from robomimic_frozen.features.extraction import FeatureExtraction

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda:0")


def test_features_are_those_of_the_cpu():
    core_kwargs = {"rgb_model_name": "resnet18", "pretrained_encoder": False, "crop_shape": [76, 76]}
    spec = EncoderSpec.from_core_kwargs(core_kwargs, (3, 84, 84))
    network = spec.build()
    images = np.random.default_rng(0).integers(0, 256, (40, 84, 84, 3), dtype=np.uint8)
    there, here = (
        torch.from_numpy(FeatureExtraction(spec, network, device, images)("demo", images)).float() for device in (CUDA, torch.device("cpu"))
    )
    assert torch.nn.functional.cosine_similarity(there, here, dim=-1).min() > 0.999


@pytest.mark.parametrize("network", ["mlp", "chiunet"])
def test_captured_steps_have_the_losses_of_plain_ones(network):
    losses = {}
    for captured in (True, False):
        torch.manual_seed(0)
        config = make_config(horizon=8, act_steps=8, network=network, network_kwargs=NETWORKS[network])
        config.observation.encoder.rgb.core_kwargs.update(augment="shift", crop_shape=None, feature_stage="layer2")
        policy = make_policy(config, device=CUDA)
        policy.set_train()
        if not captured:
            policy._captured = None
        losses[captured] = []
        for step in range(200):
            torch.manual_seed(step)
            losses[captured].append(policy.train_on_batch(make_batch(policy, size=8, features=True), epoch=1)["loss"].item())
        assert (policy._captured is not None and policy._captured._replay is not None) == captured
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


NETWORKS = {"mlp": {"hidden_dims": [32]}, "chiunet": {"down_dims": [16, 32], "kernel_size": 3}}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_policy_trained_there_acts_the_same_here(network, monkeypatch):
    there, here = (
        make_policy(make_config(horizon=8, act_steps=8, network=network, network_kwargs=NETWORKS[network]), device=device)
        for device in (CUDA, torch.device("cpu"))
    )
    batch = make_batch(there, size=8)
    there.set_train()
    losses = [there.train_on_batch(batch, epoch=1)["loss"].item() for _ in range(200)]
    assert np.mean(losses[-20:]) < np.mean(losses[:20])
    here.deserialize(there.serialize())
    obs = make_obs(here, size=8)
    monkeypatch.setattr("torch.randn", lambda *shape, device, generator: torch.zeros(*shape, device=device))  # generators of devices differ
    actions = []
    for policy in (there, here):
        policy.set_eval()
        actions.append(policy.get_action({key: value.to(policy.device) for key, value in obs.items()}).cpu())
    torch.testing.assert_close(*actions, atol=1e-3, rtol=1e-3)
