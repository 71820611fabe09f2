"""Networks of timm as frozen backbones."""

import pytest
import timm
import torch

from robomimic_frozen.encoders import EncoderSpec, FrozenResNetCore, get_backbone
from robomimic_frozen.errors import ConfigError, WeightsError, WeightsUnavailableError

IMAGES = torch.rand(2, 3, 76, 76)


@pytest.fixture
def weights_of(tmp_path):
    """A file of random weights, as timm's own files are: with the classifier."""

    def write(name, suffix=".pth"):
        torch.manual_seed(1)
        state = timm.create_model(name, pretrained=False).state_dict()
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(state, path)
        else:
            torch.save(state, path)
        return path

    return write


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["mobilenetv3_small_100", "regnetx_002", "resnetv2_18", "ghostnet_050"])
def test_every_stage_gives_the_activation_timm_gives(name, suffix, weights_of):
    path = weights_of(name, suffix)
    torch.manual_seed(1)
    expected = timm.create_model(name, pretrained=False).eval().forward_intermediates(IMAGES, intermediates_only=True)
    backbone = get_backbone(f"timm:{name}")
    for stage, activation in zip(backbone.stages, expected, strict=True):
        spec = EncoderSpec(
            backbone.name, weights=path, feature_stage=stage, pool="avg", imagenet_norm=False, image_shape=(3, 76, 76)
        )
        vision = spec.build()
        torch.testing.assert_close(vision(IMAGES), activation.mean((2, 3)), atol=1e-4, rtol=1e-4)


def test_a_vision_transformer_takes_small_images(weights_of):
    name = "vit_tiny_patch16_224"
    core = FrozenResNetCore(
        (3, 84, 84), rgb_model_name=f"timm:{name}", weights=str(weights_of(name)), crop_shape=[76, 76], pool="grid", emb_dim=16
    )
    assert get_backbone(f"timm:{name}").mean == (0.5, 0.5, 0.5)
    assert core(torch.rand(2, 3, 84, 84)).shape == (2, 16)


def test_it_trains_up_to_a_stage_like_any_other(weights_of):
    core = FrozenResNetCore(
        (3, 84, 84), rgb_model_name="timm:regnetx_002", weights=str(weights_of("regnetx_002")), freeze_encoder="s3"
    )
    trained = {name.split(".")[2] for name, p in core.named_parameters() if p.requires_grad and name.startswith("backbone.")}
    assert trained == {"s4"}


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(ConfigError, match="timm has no model 'mobilenetv3_smal_100'; did you mean timm:mobilenetv3_small_100"):
        get_backbone("timm:mobilenetv3_smal_100")


def test_weights_of_another_network_are_refused(weights_of):
    with pytest.raises(WeightsError, match="is not of a timm:regnetx_002"):
        EncoderSpec("timm:regnetx_002", weights=weights_of("mobilenetv3_small_100")).build()


def test_weights_that_cannot_be_had_are_named_with_the_way_out(monkeypatch):
    import huggingface_hub

    def refuse(repository, file):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(WeightsUnavailableError, match=r"model.safetensors of huggingface.co/timm/regnetx_002\S* .*core_kwargs.weights"):
        EncoderSpec("timm:regnetx_002").build()


def test_looking_a_network_up_for_the_first_time_draws_no_random_number():
    from robomimic_frozen.encoders import timm_models

    timm_models._get.cache_clear()
    torch.manual_seed(0)
    get_backbone("timm:regnetx_002")
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert drawn == torch.rand(1)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "eva02_tiny_patch14_224"])
def test_a_transformers_class_token_is_one_more_feature(name):
    backbone = get_backbone(f"timm:{name}")
    size = 8 * backbone.patch_size
    images = torch.rand(2, 3, size, size)
    options = {"pretrained_encoder": False, "image_shape": (3, size, size), "imagenet_norm": False}
    vision = EncoderSpec(backbone.name, feature_stage=["final", "class_token"], pool=["grid", "avg"], **options).build()
    assert (backbone.stages, backbone.feature_stage) == (("final", "class_token"), "final")

    network = vision.stages["final"].network
    tokens = network.forward_features(images)
    patches = network.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]
    expected = torch.cat([torch.nn.functional.adaptive_avg_pool2d(patches, 3).flatten(1), tokens[:, 0]], dim=1)
    torch.testing.assert_close(vision(images), expected)


def test_a_class_token_stays_as_it_is_where_the_map_beside_it_is_shifted():
    settings = {"feature_stage": ["final", "class_token"], "pool": ["spatial_softmax", "avg"], "augment": "shift"}
    vision = EncoderSpec("timm:vit_tiny_patch16_224", pretrained_encoder=False, image_shape=(3, 80, 80), **settings).build()
    images = torch.rand(2, 3, 80, 80)
    moved, still = vision.train()(images), vision.eval()(images)
    assert not torch.equal(moved[:, :-192], still[:, :-192])
    torch.testing.assert_close(moved[:, -192:], still[:, -192:])


def test_a_class_token_has_no_positions_to_find():
    settings = {"feature_stage": "class_token", "pool": "attention", "pretrained_encoder": False}
    with pytest.raises(ConfigError, match="stage 'class_token' of timm:vit_tiny_patch16_224 gives no map, which pool or augment needs"):
        EncoderSpec("timm:vit_tiny_patch16_224", **settings).build()


@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_file_of_other_patches_or_another_image_size_is_refused_and_not_resampled(key, tmp_path):
    for name, words in (
        ("vit_small_patch32_224", "pos_embed of .1, 50, 384., and the network 197 patches of .192, 3, 16, 16."),
        ("vit_small_patch16_224", "patch_embed.proj.weight of .384, 3, 16, 16., and the network 197 patches of .192, 3, 16, 16."),
        ("vit_tiny_patch16_384", "pos_embed of .1, 577, 192., and the network 197 patches"),
    ):
        state = timm.create_model(name).state_dict()
        torch.save(state if key is None else {key: state}, tmp_path / "file.pth")
        with pytest.raises(WeightsError, match=words):
            EncoderSpec("timm:vit_tiny_patch16_224", weights=tmp_path / "file.pth").build()


def test_a_hybrid_whose_patches_are_those_of_a_convolutional_network_is_one_stage():
    backbone = get_backbone("timm:vit_tiny_r_s16_p8_224")
    assert backbone.stages == ("final",)
    assert EncoderSpec(backbone.name, pretrained_encoder=False, image_shape=(3, 64, 64)).build()(torch.rand(1, 3, 64, 64)).shape == (1, 192)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("regnetx_002", "cannot have GroupNorm in the place of .*set use_group_norm to false"),
        ("vit_tiny_patch16_224", "has no BatchNorm that GroupNorm could take the place of"),
    ],
)
def test_group_norm_is_refused_where_it_would_change_more_or_nothing(name, words):
    with pytest.raises(ConfigError, match=f"timm:{name} {words}"):
        EncoderSpec(f"timm:{name}", pretrained_encoder=False, use_group_norm=True).build()


def test_a_network_that_timm_made_with_group_norm_is_not_taken_for_one_of_ours():
    spec = EncoderSpec("timm:resnet50_gn", pretrained_encoder=False)
    again = EncoderSpec.from_description(spec.description(), "random", (3, 84, 84))
    assert (again.rgb_model_name, again.use_group_norm) == ("timm:resnet50_gn", False)
