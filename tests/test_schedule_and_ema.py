import pytest
import torch
from torch import nn

from robomimic_frozen.policies.ema import EMA
from robomimic_frozen.policies.schedule import warmup_cosine


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
        ema.update(parameters.values())
        torch.testing.assert_close(ema.averages(), {"layers.weight": expected})
        restored = EMA(parameters, max_decay=0.5, power=1.0)
        restored.load_state_dict(ema.state_dict())
        ema = restored
    assert ema.num_updates == 4
