"""Gradient steps from a CUDA graph, with graphs that need no GPU: they take the same steps, with what is in the same tensors."""

import pytest
import torch
from policies import make_batch, make_config, make_policy

from robomimic_frozen.policies.captured_step import WARM_UP_STEPS, CapturedStep

CPU = torch.device("cpu")
FEATURES = {"augment": "shift", "crop_shape": None, "feature_stage": "layer2"}


class EagerGraphs:
    """Takes what was captured again and again, each time by the same function on the same tensors."""

    captures = 0

    def warm_up(self, step):
        return step()

    def capture(self, step):
        self.captures += 1
        return step


class NoGraphs(EagerGraphs):
    def capture(self, step):
        raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def policy(graphs=None):
    torch.manual_seed(0)
    config = make_config(obs_steps=2, horizon=4, act_steps=4)
    config.observation.encoder.rgb.core_kwargs.update(FEATURES)
    made = make_policy(config)
    made.set_train()
    if graphs is not None:
        made._captured = CapturedStep(made._gradient_step, CPU, graphs)
    return made


def losses(of, steps=12, size=lambda step: 4):
    found = []
    for step in range(steps):
        torch.manual_seed(step)
        found.append(of.train_on_batch(make_batch(of, size(step), features=True), epoch=1)["loss"].item())
    return found


def test_captured_steps_are_the_plain_ones():
    graphs = EagerGraphs()
    plain, captured = policy(), policy(graphs)
    assert losses(captured) == pytest.approx(losses(plain), rel=1e-3)
    assert graphs.captures == 1
    for name, value in plain.nets.state_dict().items():
        torch.testing.assert_close(captured.nets.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_batches_of_another_size_are_no_replays():
    def size(step):
        return 3 if step == WARM_UP_STEPS + 2 else 4

    assert losses(policy(EagerGraphs()), size=size) == pytest.approx(losses(policy(), size=size), rel=1e-3)


def test_what_cannot_be_captured_is_said_once_and_trained_all_the_same(caplog):
    assert losses(policy(NoGraphs())) == pytest.approx(losses(policy()), rel=1e-3)
    assert caplog.text.count("cannot be captured (operation not permitted when stream is capturing)") == 1


def test_pixels_and_a_trained_encoder_end_it_and_that_is_said(caplog):
    caplog.set_level("INFO")
    unfrozen = policy(EagerGraphs())
    unfrozen._unfreeze_encoder()
    assert unfrozen._captured is None
    assert "gradient steps are launched kernel by kernel: the encoder is trained" in caplog.text
    seeing = policy(EagerGraphs())
    seeing.train_on_batch(make_batch(seeing), epoch=1)
    assert seeing._captured is None
    assert "gradient steps are launched kernel by kernel: training reads pixels" in caplog.text
