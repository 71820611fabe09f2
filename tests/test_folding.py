import gc
import weakref

import pytest
import torch
from torch import nn

from robomimic_frozen.encoders import get_backbone
from robomimic_frozen.encoders.folding import folded


def trained(stage):
    """The stage with statistics as training leaves them: its own on other images."""
    for module in stage.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return stage.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_lite0"])
def test_a_folded_stage_gives_the_same_maps(name):
    backbone = get_backbone(name)
    stage = trained(backbone.split(backbone.build())[0])
    images = torch.randn(2, 3, 84, 84)
    expected = stage(images)
    assert folded(stage) is not stage
    torch.testing.assert_close(folded(stage)(images), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_convolutions_take_over_the_batch_norm_behind_them():
    stage = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    assert [type(module) for module in folded(stage).children()] == [nn.Conv2d, nn.ReLU]


def test_a_stage_is_folded_once_and_both_are_forgotten_together():
    stage = trained(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert folded(stage) is folded(stage)
    forms = weakref.ref(stage), weakref.ref(folded(stage))
    del stage
    gc.collect()
    assert [form() for form in forms] == [None, None]


def test_a_stage_whose_code_depends_on_its_input_is_used_as_it_is_and_that_is_said(caplog):
    class Branching(nn.Sequential):
        def forward(self, images):
            return super().forward(images) if images.mean() > 0 else images

    caplog.set_level("INFO")
    stage = trained(Branching(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert folded(stage) is stage
    assert folded(stage) is stage
    assert caplog.text.count("cannot be folded") == 1


def test_a_stage_without_batch_norm_is_used_as_it_is():
    stage = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert folded(stage) is stage
