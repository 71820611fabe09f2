import pytest
import torch
from torch import nn

from robomimic_frozen.config import FBCFrozenConfig
from robomimic_frozen.policies.optimization import CLEAR_EVERY, EMA, clear_negligible_moments, make_optimizer, warmup_cosine


def test_the_learning_rate_climbs_over_the_warm_up_and_ends_at_zero():
    climb = [warmup_cosine(step, progress=0.0, warmup_steps=4) for step in range(6)]
    assert climb == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])
    assert warmup_cosine(100, progress=0.5, warmup_steps=4) == pytest.approx(0.5)
    assert warmup_cosine(100, progress=1.0, warmup_steps=4) == pytest.approx(0.0)


def test_no_warm_up_starts_at_the_full_rate():
    assert warmup_cosine(0, progress=0.0, warmup_steps=0) == 1.0


def test_ema_follows_its_recurrence_and_goes_on_from_its_state():
    parameters = {"layers.weight": nn.Parameter(torch.randn(2, 2))}
    ema = EMA(parameters, max_decay=0.5, power=1.0)
    expected = parameters["layers.weight"].detach().clone()
    for step in range(4):
        with torch.no_grad():
            parameters["layers.weight"] += 1.0
        decay = min(0.5, 1 - 1 / (1 + step))
        expected = decay * expected + (1 - decay) * parameters["layers.weight"].detach()
        ema.update(parameters.values(), 1 - ema.decay())
        ema.num_updates += 1
        torch.testing.assert_close(ema.averages(), {"layers.weight": expected})
        restored = EMA(parameters, max_decay=0.5, power=1.0)
        restored.load_state_dict(ema.state_dict())
        ema = restored
    assert ema.num_updates == 4


def test_moments_of_weights_without_gradients_never_become_denormal():
    weight = torch.nn.Parameter(torch.ones(100))
    settings = FBCFrozenConfig().algo.optim_params.policy
    optimizer = make_optimizer([weight], [], settings, "cpu")
    smallest = torch.finfo(torch.float32).tiny
    for step in range(2000):
        weight.grad = torch.linspace(1e-6, 1, 100) if step < 10 else torch.zeros(100)
        optimizer.step()
        moment = optimizer.state[weight]["exp_avg"]
        assert ((moment == 0) | (moment.abs() >= smallest)).all()
        if (step + 1) % CLEAR_EVERY == 0:
            clear_negligible_moments(optimizer)
    assert (moment == 0).all()
