"""Backbones that are frozen up to a stage, and the cache of what that stage gives."""

import pytest
import torch

from robomimic_frozen.encoders import EncoderSpec, FrozenResNetCore
from robomimic_frozen.encoders.readouts import spatial_softmax

IMAGES = torch.rand(2, 3, 76, 76)


def backbone(frozen, **kwargs):
    torch.manual_seed(0)
    return EncoderSpec(pretrained_encoder=False, freeze_encoder=frozen, **{"image_shape": (3, 76, 76), **kwargs}).build()


def test_the_frozen_stages_stand_still_and_the_others_learn():
    vision = backbone("layer3").train()
    before = {name: value.clone() for name, value in vision.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in vision.parameters() if p.requires_grad], lr=0.1)
    vision(IMAGES).square().sum().backward()
    optimizer.step()
    changed = {name.split(".")[1] for name, value in vision.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layer4"}
    assert "stages.layer4.0.bn1.running_mean" in {
        name for name, value in vision.state_dict().items() if not torch.equal(value, before[name])
    }


@pytest.mark.parametrize("stages", [None, ["layer2", "layer4"], ["layer3", "layer4"]])
@pytest.mark.parametrize("frozen", ["layer1", "layer3", "layer4", True])
def test_finishing_what_the_frozen_stages_gave_is_the_whole_feature(frozen, stages):
    vision = backbone(frozen, feature_stage=stages).eval()
    whole = backbone(False, feature_stage=stages).eval()
    whole.load_state_dict(vision.state_dict())
    cached = vision.frozen_part(IMAGES)
    assert cached.shape == (2, vision.frozen_dim)
    torch.testing.assert_close(vision.finish(cached), whole(IMAGES))
    assert whole(IMAGES).shape == (2, vision.feature_dim)


@pytest.mark.parametrize("settings", [{}, {"augment": "shift"}, {"feature_stage": ["layer2", "layer4"], "pool": "conv"}])
@pytest.mark.parametrize("frozen", ["layer2", "layer3", True])
def test_what_is_cached_as_float16_is_finished_under_automatic_bfloat16(frozen, settings):
    vision = backbone(frozen, **settings)
    cached = vision.frozen_part(IMAGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close = vision.train().finish(cached.half()), vision.eval().finish(cached.half())
    assert close[0].shape == (2, vision.feature_dim)
    torch.testing.assert_close(close[1].float(), vision.finish(cached), rtol=0.1, atol=0.1)


def test_frozen_stages_are_shared_and_trainable_ones_are_not():
    first, second = backbone("layer2"), backbone("layer2")
    assert first.stages["layer2"] is second.stages["layer2"]
    assert first.stages["layer3"] is not second.stages["layer3"]


def test_the_core_takes_the_activation_of_a_stage_for_pixels():
    core = FrozenResNetCore((3, 84, 84), pretrained_encoder=False, freeze_encoder="layer3", crop_shape=[76, 76]).eval()
    images = torch.rand(2, 3, 84, 84)
    cached = core.backbone.frozen_part(core.preprocess(images))
    torch.testing.assert_close(core(cached[..., None, None]), core(images))


def test_spatial_softmax_finds_where_a_channel_is_active():
    activation = torch.zeros(1, 2, 5, 9)
    activation[0, 0, 0, 8] = activation[0, 1, 4, 4] = 100.0
    torch.testing.assert_close(spatial_softmax(activation), torch.tensor([[1.0, 0.0, -1.0, 1.0]]))
