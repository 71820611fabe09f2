import pytest
import torch

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies.chiunet import ChiUNetVelocity

SMALL = {"down_dims": [16, 32, 64], "kernel_size": 3}


@pytest.mark.parametrize("horizon", [4, 8, 16])
def test_the_velocity_has_the_shape_of_the_chunk_and_every_weight_a_gradient(horizon):
    network = ChiUNetVelocity(7, horizon, 10, **SMALL)
    velocity = network(torch.randn(3, horizon, 7), torch.rand(3), torch.randn(3, 10))
    assert velocity.shape == (3, horizon, 7)
    velocity.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_time_and_condition_change_the_velocity():
    network = ChiUNetVelocity(2, 8, 4, **SMALL).eval()
    x, condition = torch.randn(1, 8, 2), torch.randn(1, 4)
    early, late = network(x, torch.zeros(1), condition), network(x, torch.ones(1), condition)
    assert not torch.allclose(early, late)
    assert not torch.allclose(early, network(x, torch.zeros(1), condition + 1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"down_dims": []}, "down_dims is ..; choose multiples of 8"),
        ({"down_dims": [12]}, "down_dims is .12.; choose multiples of 8"),
        ({"kernel_size": 4}, "kernel_size is 4; network 'chiunet' takes an odd one"),
    ],
)
def test_widths_and_kernels_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        ChiUNetVelocity(7, 8, 10, **{**SMALL, **settings})


@pytest.mark.parametrize("horizon", [2, 10, 15])
def test_a_horizon_that_cannot_be_halved_at_every_level_is_refused(horizon):
    with pytest.raises(ConfigError, match=f"algo.horizon is {horizon}.*power of two from 4"):
        ChiUNetVelocity(7, horizon, 10, **SMALL)
