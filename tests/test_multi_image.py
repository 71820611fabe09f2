"""MultiImageObsEncoder: what people check of such an encoder."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from robomimic_frozen.encoders import FrozenResNetCore, MultiImageObsEncoder, get_resnet
from robomimic_frozen.errors import ConfigError, ObservationError

LOW_DIM = {"pos": {"shape": [3], "type": "low_dim"}}
ONE = {"obs": {"image": {"shape": [3, 84, 84], "type": "rgb"}, **LOW_DIM}}
TWO = {"obs": {"front": {"shape": [3, 84, 84], "type": "rgb"}, "wrist": {"shape": [3, 84, 84], "type": "rgb"}, **LOW_DIM}}


def observations(meta, *lead):
    return {key: torch.rand(*lead, *entry["shape"]) for key, entry in meta["obs"].items()}


def count(module, trainable_only=False):
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable_only)


@pytest.fixture
def make():
    def make(meta=ONE, **kwargs):
        return MultiImageObsEncoder(meta, **{"pretrained": False, **kwargs})

    return make


@pytest.fixture
def make_small():
    """As `make`, with a network that takes no time."""

    def make_small(meta=ONE, **kwargs):
        return MultiImageObsEncoder(meta, **{"rgb_model_name": nn.Conv2d(3, 4, 5, stride=5), "emb_dim": 8, **kwargs})

    return make_small


def test_the_counts_of_the_established_recipe(make):
    encoder = make()
    assert count(encoder) == 11_374_400
    assert count(encoder, trainable_only=True) == 197_888


def test_frozen_the_mlp_learns_and_the_backbone_does_not(make):
    encoder = make().train()
    output = encoder(observations(ONE, 4))
    assert output.shape == (4, 256) == (4, encoder.output_dim) == (4, *encoder.output_shape())
    output.sum().backward()
    assert all(p.grad is not None for p in encoder.mlp.parameters())
    assert all(p.grad is None and not p.requires_grad for p in encoder.key_model_map.parameters())


def test_unfreezing_makes_all_trainable_and_leaves_the_embedding_as_it_was(make):
    encoder = make().eval()
    obs = observations(ONE, 2)
    before = encoder(obs)
    encoder.unfreeze_rgb_encoder()
    assert encoder.freeze_rgb_encoder is False
    assert count(encoder, trainable_only=True) == count(encoder) == 11_374_400
    torch.testing.assert_close(encoder(obs), before, rtol=1e-4, atol=1e-5)  # but for rounding: BatchNorm of frozen stages is folded
    encoder.train()(obs).sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_unfreezing_one_encoder_leaves_its_equal_frozen(make):
    first, second = make(), make()
    first.unfreeze_rgb_encoder()
    assert count(second, trainable_only=True) == 197_888
    assert not set(map(id, first.key_model_map.parameters())) & set(map(id, second.key_model_map.parameters()))


def test_cameras_have_backbones_of_their_own_or_share_one(make):
    separate = make(TWO, freeze_rgb_encoder=False)
    assert set(separate.key_model_map) == {"front", "wrist"}
    shared = make(TWO, freeze_rgb_encoder=False, share_rgb_model=True)
    assert set(shared.key_model_map) == {"rgb"}
    assert count(separate.key_model_map) == 2 * count(shared.key_model_map)
    assert shared(observations(TWO, 2)).shape == (2, 256)


def test_sequences_keep_their_horizon_or_are_laid_side_by_side(make):
    obs = observations(TWO, 2, 5)
    torch.manual_seed(0)
    kept = make(TWO, use_seq=True, keep_horizon_dims=True).eval()
    torch.manual_seed(0)
    flat = make(TWO, use_seq=True).eval()
    assert kept(obs).shape == (2, 5, 256)
    assert torch.equal(kept(obs).flatten(1), flat(obs))
    torch.manual_seed(0)
    single = make(TWO).eval()
    torch.testing.assert_close(kept(obs)[:, 3], single({key: value[:, 3] for key, value in obs.items()}))


def test_the_embedding_is_that_of_the_core_without_low_dim(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    meta = {"obs": {"image": ONE["obs"]["image"]}}
    settings = {"weights": str(tmp_path / "resnet18.pth"), "crop_shape": [76, 76]}
    encoder = MultiImageObsEncoder(meta, **settings).eval()
    core = FrozenResNetCore((3, 84, 84), **settings).eval()
    core.projection.load_state_dict(encoder.mlp.state_dict())
    images = torch.rand(2, 3, 84, 84)
    assert torch.equal(encoder({"image": images}), core(images))


def test_crops_and_sizes_can_differ_by_key(make):
    encoder = make(TWO, crop_shape={"front": [76, 76], "wrist": [60, 60]}, resize_shape={"wrist": [64, 64]})
    assert encoder.key_transform_map["wrist"].output_size == (60, 60)
    assert encoder(observations(TWO, 1)).shape == (1, 256)


def test_group_norm_takes_the_place_of_every_batch_norm(make):
    encoder = make(use_group_norm=True, freeze_rgb_encoder=False)
    kinds = {type(module) for module in encoder.modules()}
    assert nn.GroupNorm in kinds and nn.BatchNorm2d not in kinds
    assert encoder(observations(ONE, 2)).shape == (2, 256)


def test_a_network_of_ones_own_takes_the_place_of_a_backbone():
    own = nn.Sequential(nn.Conv2d(3, 7, 5, stride=4), nn.ReLU())
    encoder = MultiImageObsEncoder(ONE, rgb_model_name=own).eval()
    assert encoder.mlp[0].in_features == 7 + 3
    (model,) = encoder.key_model_map.values()
    assert torch.equal(model.stages["final"][0].weight, own[0].weight)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "feature_dim"),
    [
        ({"feature_stage": "layer3"}, 256),
        ({"feature_stage": ["layer4", "layer2"]}, 128 + 512),
        ({"feature_stage": "layer2", "pool": "grid"}, 128 * 9),
        ({"feature_stage": "layer3", "pool": "grid", "grid_size": [2, 4]}, 256 * 8),
        ({"pool": "spatial_softmax"}, 2 * 512),
    ],
)
def test_stage_and_pool_decide_the_feature(settings, feature_dim, make):
    encoder = make(**settings)
    assert encoder.mlp[0].in_features == feature_dim + 3
    assert encoder(observations(ONE, 2)).shape == (2, 256)


def test_get_resnet_has_no_classifier_and_takes_a_weights_file(tmp_path):
    state = torchvision.models.resnet34().state_dict()
    torch.save(state, tmp_path / "resnet34.pth")
    network = get_resnet("resnet34", weights=tmp_path / "resnet34.pth")
    assert network(torch.rand(1, 3, 84, 84)).shape == (1, 512)
    assert torch.equal(network.conv1.weight, state["conv1.weight"])
    assert all(p.requires_grad for p in network.parameters())


def test_it_needs_no_robomimic():
    script = (
        "import sys; sys.modules['robomimic'] = None\n"
        "import torch; from robomimic_frozen import MultiImageObsEncoder\n"
        "meta = {'obs': {'image': {'shape': [3, 32, 32], 'type': 'rgb'}}}\n"
        "print(MultiImageObsEncoder(meta, pretrained=False)({'image': torch.rand(1, 3, 32, 32)}).shape)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "torch.Size([1, 256])" in result.stdout, result.stderr


def rgb(shape):
    return {"obs": {"image": {"shape": shape, "type": "rgb"}}}


@pytest.mark.parametrize(
    ("meta", "kwargs", "words"),
    [
        ({}, {}, "shape_meta has no 'obs'"),
        ({"obs": {"image": {"shape": [3, 84, 84], "type": "depth"}}}, {}, "'image'.*'depth'; choose 'rgb' or 'low_dim'"),
        ({"obs": {"image": {"type": "rgb"}}}, {}, "'image'. has no 'shape'"),
        (rgb([1, 84, 84]), {}, r"'image'.*an rgb shape is \[3, H, W\]"),
        (ONE, {"rgb_model_name": "resnet20"}, "unknown backbone 'resnet20'"),
        (ONE, {"feature_stage": "layer5"}, "feature_stage is 'layer5'; the stages of resnet18 are: layer1, layer2"),
        (ONE, {"freeze_rgb_encoder": "layer9"}, "freeze_encoder is 'layer9'"),
        (ONE, {"pool": "max"}, "pool is 'max'; choose 'avg'"),
        (ONE, {"use_group_norm": True, "pretrained": True}, "throws their BatchNorm statistics away"),
        (TWO, {"share_rgb_model": True, "crop_shape": {"front": [76, 76]}}, "images of one size"),
        (rgb(84), {}, "'shape'. is 84; give a list of whole numbers"),
        ({"obs": {"image": [3, 84, 84]}}, {}, r"'image'. is \[3, 84, 84\]; give {'shape'"),
        (ONE, {"crop_shape": 76}, r"crop_shape is 76; give \[height, width\] in pixels, or null"),
        (ONE, {"resize_shape": {"image": 96}}, r"resize_shape is 96; give \[height, width\]"),
        (ONE, {"crop_shape": [0.9, 0.9]}, r"crop_shape is \[0.9, 0.9\]; give"),
        (ONE, {"crop_shape": {"imagee": [76, 76]}}, "crop_shape names 'imagee', which is no image of shape_meta; did you mean 'image'"),
        (ONE, {"resize_shape": {"pos": [76, 76]}}, "resize_shape names 'pos', which is no image .*; its images are: image"),
        (ONE, {"grid_size": 3}, r"grid_size is 3; give \[rows, columns\]"),
        (ONE, {"feature_stage": 3}, "feature_stage is 3; the stages of resnet18 are"),
        (ONE, {"emb_dim": 0}, "emb_dim is 0; choose 1 or more"),
    ],
)
def test_wrong_settings_are_named(meta, kwargs, words, make):
    with pytest.raises(ConfigError, match=words):
        make(meta, **kwargs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda obs: obs.pop("pos"), "observation 'pos' is missing; got: image"),
        (lambda obs: obs.update(pos=torch.rand(2, 4)), r"observation 'pos' has shape \[2, 4\]; shape_meta says \['B', 3\]"),
        (lambda obs: obs.update(image=torch.rand(2, 84, 84, 3)), "observation 'image' has shape"),
        (lambda obs: obs.update(image=torch.rand(2, 84, 84, 3)), "its channels come last: permute it"),
        (lambda obs: obs.update(pos=torch.rand(3, 3)), "observation 'pos' has shape"),
        (lambda obs: obs.update(pos=np.zeros((2, 3))), "observation 'pos' is a ndarray; make a tensor of it"),
        (lambda obs: obs.update(image=255 * obs["image"]), r"images 'image' have values of .* to 25.*; give floats in \[0, 1\]"),
        (lambda obs: obs.update(image=2 * obs["image"] - 1), "images 'image' have values of -"),
        (lambda obs: obs.update(image=obs["image"] * torch.nan), "images 'image' have values of nan to nan"),
        (lambda obs: obs.update(image=(255 * obs["image"]).long()), "images 'image' are torch.int64; give floats"),
    ],
)
@pytest.mark.parametrize("mode", [True, False])
def test_wrong_observations_are_named(change, words, mode, make_small):
    obs = observations(ONE, 2)
    change(obs)
    with pytest.raises(ObservationError, match=words):
        make_small().train(mode)(obs)


def test_uint8_images_and_doubles_embed_as_floats_do(make_small):
    encoder = make_small().eval()
    obs = observations(ONE, 2)
    whole = {"image": (255 * obs["image"]).byte(), "pos": obs["pos"].double()}
    expected = encoder({"image": whole["image"] / 255, "pos": obs["pos"]})
    torch.testing.assert_close(encoder(whole), expected)
    torch.testing.assert_close(encoder({"image": whole["image"].double() / 255, "pos": obs["pos"]}), expected)


def test_images_that_were_resized_a_little_beyond_their_range_are_taken(make_small):
    obs = observations(ONE, 2)
    make_small()({**obs, "image": 1.2 * obs["image"] - 0.1})


def test_training_looks_at_the_values_of_its_first_batch_alone(make_small):
    encoder, obs = make_small(), observations(ONE, 2)
    wrong = {**obs, "image": 255 * obs["image"]}
    with pytest.raises(ObservationError):
        encoder(wrong)
    encoder(obs)
    encoder(wrong)
    with pytest.raises(ObservationError):
        encoder.eval()(wrong)


def test_it_can_be_mapped_and_compiled_whole(make_small):
    encoder = make_small().eval()
    obs = observations(ONE, 2)
    expected = encoder(obs)
    mapped = torch.func.vmap(lambda image, pos: encoder({"image": image[None], "pos": pos[None]})[0])
    torch.testing.assert_close(mapped(obs["image"], obs["pos"]), expected)
    torch.testing.assert_close(torch.compile(encoder, backend="eager", fullgraph=True)(obs), expected)


def test_sizes_may_be_numpys_and_a_low_dim_observation_a_scalar(make_small):
    meta = {"obs": {"image": {"shape": np.array([3, 84, 84]), "type": "rgb"}, "time": {"shape": []}}}
    encoder = make_small(meta, crop_shape=np.array([76, 76]), grid_size=np.array([2, 2]), emb_dim=np.int64(4))
    assert encoder({"image": torch.rand(2, 3, 84, 84), "time": torch.rand(2)}).shape == (2, 4)
