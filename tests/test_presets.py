"""Presets: networks of other projects, with those projects' own weights files, image sizes and normalisations."""

import argparse

import numpy as np
import pytest
import timm
import torch
import torchvision

from robomimic_frozen.encoders import EncoderSpec, FrozenResNetCore, get_backbone
from robomimic_frozen.errors import WeightsError, WeightsUnavailableError
from robomimic_frozen.integration.doubts import small_crop

SIGLIP = "vit_base_patch16_siglip_224"


def random_state(network):
    """Weights of a network, all of them random: biases and the like begin as zeros."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.05, 0.05)
    return network.state_dict()


def of_vision(backbone, weights):
    """What a preset has loaded of a file, under the names its network has."""
    vision = EncoderSpec(backbone, weights=weights).build()
    return {name.partition(".")[2].removeprefix("network."): value for name, value in vision.frozen_state().items()}


def assert_equal_states(loaded, expected):
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_dinov2_reads_its_own_file_in_which_the_class_token_has_a_position(tmp_path):
    expected = random_state(timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0))
    own = {name: value for name, value in expected.items() if name not in ("cls_token", "reg_token", "pos_embed")}
    position = torch.rand(1, 1, 384)
    own |= {
        "cls_token": expected["cls_token"] - position,
        "register_tokens": expected["reg_token"],
        "pos_embed": torch.cat([position, expected["pos_embed"]], dim=1),
        "mask_token": torch.rand(1, 384),
    }
    torch.save(own, tmp_path / "dinov2_vits14_reg4_pretrain.pth")

    loaded = of_vision("dinov2_small", tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    torch.testing.assert_close(loaded.pop("cls_token"), expected.pop("cls_token"))
    assert_equal_states(loaded, expected)


def test_vc1_reads_its_own_file_with_the_decoder_of_its_pretraining_left_aside(tmp_path):
    expected = random_state(timm.create_model("vit_base_patch16_224", num_classes=0))
    beside = {"mask_token": torch.rand(1, 1, 512), "decoder_embed.weight": torch.rand(512, 768)}
    torch.save({"model": {**expected, **beside}, "args": argparse.Namespace(lr=1e-3), "epoch": 3}, tmp_path / "vc1_vitb.pth")
    assert_equal_states(of_vision("vc1_base", tmp_path / "vc1_vitb.pth"), expected)


@pytest.mark.parametrize(("preset", "key"), [("r3m_resnet18", "r3m"), ("vip_resnet50", "vip")])
def test_r3m_and_vip_read_the_image_network_out_of_their_own_files(preset, key, tmp_path):
    network = torchvision.models.get_model(preset.partition("_")[2], weights=None)
    random_state(network)
    own = {f"module.convnet.{name}": value for name, value in network.state_dict().items()}
    torch.save({key: {**own, "module.lang_enc.weight": torch.rand(3)}, "global_step": 5}, tmp_path / "model.pt")

    vision = EncoderSpec(preset, weights=tmp_path / "model.pt", pool="avg").build()
    images = torch.rand(2, 3, 224, 224)
    network.fc = torch.nn.Identity()
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(vision(images), network.eval()((images - mean) / std))


def big_vision(state):
    """The arrays of a state dict of timm's SigLIP as big_vision names and lays them out, blocks in one array."""
    def blocks(name, change=lambda value: value):
        return np.stack([change(state[f"blocks.{number}.{name}"].numpy()) for number in range(12)])

    def heads(value):
        return value.T.reshape(768, 12, 64)

    arrays = {"embedding/kernel": state["patch_embed.proj.weight"].permute(2, 3, 1, 0), "embedding/bias": state["patch_embed.proj.bias"]}
    arrays |= {"pos_embedding": state["pos_embed"]}
    block, attention = "Transformer/encoderblock/", "MultiHeadDotProductAttention_0"
    for number in (1, 2):
        arrays[f"{block}LayerNorm_{number - 1}/scale"] = blocks(f"norm{number}.weight")
        arrays[f"{block}LayerNorm_{number - 1}/bias"] = blocks(f"norm{number}.bias")
        arrays[f"{block}MlpBlock_0/Dense_{number - 1}/kernel"] = blocks(f"mlp.fc{number}.weight", np.transpose)
        arrays[f"{block}MlpBlock_0/Dense_{number - 1}/bias"] = blocks(f"mlp.fc{number}.bias")
    for number, part in enumerate(("query", "key", "value")):
        rows = slice(768 * number, 768 * (number + 1))
        arrays[f"{block}{attention}/{part}/kernel"] = blocks("attn.qkv.weight", lambda value, rows=rows: heads(value[rows]))
        arrays[f"{block}{attention}/{part}/bias"] = blocks("attn.qkv.bias", lambda value, rows=rows: value[rows].reshape(12, 64))
    arrays[f"{block}{attention}/out/kernel"] = blocks("attn.proj.weight", lambda value: value.T.reshape(12, 64, 768))
    arrays[f"{block}{attention}/out/bias"] = blocks("attn.proj.bias")
    arrays |= {"Transformer/encoder_norm/scale": state["norm.weight"], "Transformer/encoder_norm/bias": state["norm.bias"]}
    pool = "MAPHead_0/"
    arrays[f"{pool}probe"] = state["attn_pool.latent"]
    arrays |= {f"{pool}LayerNorm_0/scale": state["attn_pool.norm.weight"], f"{pool}LayerNorm_0/bias": state["attn_pool.norm.bias"]}
    for number in (1, 2):
        arrays[f"{pool}MlpBlock_0/Dense_{number - 1}/kernel"] = state[f"attn_pool.mlp.fc{number}.weight"].T
        arrays[f"{pool}MlpBlock_0/Dense_{number - 1}/bias"] = state[f"attn_pool.mlp.fc{number}.bias"]
    key, value = state["attn_pool.kv.weight"].chunk(2)
    for part, weight, bias in (
        ("query", state["attn_pool.q.weight"], state["attn_pool.q.bias"]),
        ("key", key, state["attn_pool.kv.bias"][:768]),
        ("value", value, state["attn_pool.kv.bias"][768:]),
    ):
        arrays[f"{pool}{attention}/{part}/kernel"] = heads(weight.numpy())
        arrays[f"{pool}{attention}/{part}/bias"] = bias.reshape(12, 64)
    arrays[f"{pool}{attention}/out/kernel"] = state["attn_pool.proj.weight"].T.reshape(12, 64, 768)
    arrays[f"{pool}{attention}/out/bias"] = state["attn_pool.proj.bias"]
    return {f"params/img/{name}": np.asarray(array) for name, array in arrays.items()}


def test_siglip_reads_files_of_big_vision_and_of_open_clip(tmp_path):
    expected = random_state(timm.create_model(SIGLIP, num_classes=0))
    np.savez(tmp_path / "webli_en_b16_224.npz", **big_vision(expected))
    assert_equal_states(of_vision("siglip_base", tmp_path / "webli_en_b16_224.npz"), expected)

    state = {f"visual.trunk.{name}": value for name, value in expected.items()}
    torch.save({**state, "text.positional_embedding": torch.rand(64, 768)}, tmp_path / "open_clip_pytorch_model.bin")
    assert_equal_states(of_vision("siglip_base", tmp_path / "open_clip_pytorch_model.bin"), expected)
    assert get_backbone("siglip_base").mean == (0.5, 0.5, 0.5)


def test_a_preset_says_how_large_images_are_unless_a_config_does():
    spec = EncoderSpec("r3m_resnet18", pretrained_encoder=False)
    assert (spec.resize_shape, spec.preprocessing()(torch.rand(1, 3, 84, 84)).shape) == ((224, 224), (1, 3, 224, 224))
    assert EncoderSpec("r3m_resnet18", resize_shape=[112, 112], pretrained_encoder=False).resize_shape == (112, 112)
    core = FrozenResNetCore((3, 84, 84), rgb_model_name="dinov2_small", pretrained_encoder=False, emb_dim=8)
    assert core.backbone.stages["final"].network.patch_embed.dynamic_feat_size((224, 224)) == (16, 16)
    assert core(torch.rand(2, 3, 84, 84)).shape == (2, 8)


@pytest.mark.parametrize(
    ("preset", "key", "other"),
    [
        ("dinov2_small", "teacher", "vit_tiny_patch16_224"),
        ("vc1_base", "model", "vit_tiny_patch16_224"),
        ("r3m_resnet18", "r3m", "resnet34"),
        ("vip_resnet50", "other", "resnet18"),
        ("siglip_base", "state_dict", "resnet18"),
    ],
)
def test_a_file_of_another_architecture_is_refused_in_one_line(preset, key, other, tmp_path):
    torch.save({key: timm.create_model(other).state_dict()}, tmp_path / "m.pt")
    with pytest.raises(WeightsError, match=r"m.pt (is not of a|has patch_embed.proj.weight of|holds no state dict)") as caught:
        EncoderSpec(preset, weights=tmp_path / "m.pt").build()
    assert "\n" not in str(caught.value)


def test_arrays_of_another_network_than_siglips_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", **{"params/img/embedding/kernel": np.zeros((14, 14, 3, 8))})
    with pytest.raises(WeightsError, match="other.npz is not of a siglip_base of big_vision"):
        EncoderSpec("siglip_base", weights=tmp_path / "other.npz").build()
    with pytest.raises(WeightsUnavailableError, match="none.npz does not exist"):
        EncoderSpec("siglip_base", weights=tmp_path / "none.npz").build()


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:100], lambda content: content[:-30] + b"x" * 30])
def test_a_damaged_file_of_arrays_is_named_in_one_line(damage, tmp_path):
    path = tmp_path / "siglip.npz"
    np.savez(path, **{"params/img/embedding/kernel": np.zeros((16, 16, 3, 8))})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match="siglip.npz is not of a siglip_base of big_vision"):
        EncoderSpec("siglip_base", weights=path).build()


@pytest.mark.parametrize(("preset", "crop"), [("r3m_resnet18", [203, 203]), ("dinov2_small", [196, 196]), ("vc1_base", [208, 208])])
def test_for_crops_of_images_of_84_pixels_the_right_ones_are_recommended(preset, crop):
    assert str(crop) in small_crop(EncoderSpec(preset, crop_shape=[76, 76], pretrained_encoder=False))
    assert small_crop(EncoderSpec(preset, crop_shape=crop, pretrained_encoder=False)) is None


@pytest.mark.parametrize(
    ("preset", "file"), [("r3m_resnet50", "model.pt"), ("vip_resnet50", "vip_resnet50.pt"), ("vc1_large", "vc1_vitl.pth")]
)
def test_weights_that_cannot_be_had_are_named_with_the_place_they_belong_to(preset, file, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(WeightsUnavailableError, match=rf"no pretrained weights for {preset}: .*{file}.*core_kwargs.weights"):
        EncoderSpec(preset).build()
