"""Readouts with and without weights, shifts of maps, and what is cached for them."""

import h5py
import numpy as np
import pytest
import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.train_utils as TrainUtils
import torch
import torch.nn.functional as F
from policies import change_settings, make_config
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from robomimic_versions import as_train_data
from small_datasets import IMAGE, POSITION, write_dataset
from third_parties import plugin
from torch import nn
from torch.utils.data import DataLoader

from robomimic_frozen.encoders import EncoderSpec, FrozenResNetCore
from robomimic_frozen.encoders.augmentation import shifted, with_dropped_positions, with_noise
from robomimic_frozen.encoders.readouts import Readout
from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.features.dataset import CachedFeatureDataset
from robomimic_frozen.integration.checks import check_config

WRIST = "wrist_image"
CORE = "observation__encoder__rgb__core_kwargs__"
KEYPOINTS = {"name": "spatial_softmax", "num_kp": 4}
ATTENTION = {"name": "attention", "queries": 2, "dim": 8, "heads": 2}
READOUTS = {
    "keypoints": {"feature_stage": "layer2", "pool": KEYPOINTS},
    "conv": {"feature_stage": "layer2", "pool": {"name": "conv", "channels": 4}},
    "attention": {"feature_stage": "layer2", "pool": ATTENTION},
    "one readout of two stages": {"feature_stage": ["layer2", "layer3"], "pool": KEYPOINTS},
    "a readout for each stage": {"feature_stage": ["layer1", "layer2"], "pool": ["avg", KEYPOINTS]},
    "two readouts of a stage": {"feature_stage": ["layer1", "layer2", "layer2"], "pool": [KEYPOINTS, ATTENTION, "grid"]},
    "a grid of shifted maps": {"feature_stage": "layer2", "pool": "grid", "augment": "shift"},
    "shifted keypoints": {"feature_stage": ["layer1", "layer2"], "pool": KEYPOINTS, "augment": "shift"},
    "noise and dropped positions": {"feature_stage": "layer2", "pool": "grid", "map_noise": 0.1, "map_drop": 0.2},
    "patches and class token": {
        "rgb_model_name": "timm:vit_tiny_patch16_224",
        "crop_shape": None,
        "feature_stage": ["final", "class_token"],
        "pool": [KEYPOINTS, "avg"],
    },
    "trained above frozen": {"feature_stage": ["layer1", "layer3"], "pool": KEYPOINTS, "freeze_encoder": "layer2", "augment": "shift"},
}
GMM_RNN = {"algo__gmm__enabled": True, "algo__rnn__enabled": True, "algo__rnn__hidden_dim": 16, "train__seq_length": 3}
ALGOS = {"fbc": ("fbc_frozen", {}), "frame stack": ("fbc_frozen", {"algo__obs_steps": 2}), "gmm rnn": ("bc_frozen", GMM_RNN)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = write_dataset(tmp_path_factory.mktemp("data") / "small.hdf5", size=32)
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo[f"obs/{WRIST}"] = 255 - demo[f"obs/{IMAGE}"][()]
    return path


@pytest.fixture
def config_for(dataset, tmp_path):
    def make(algo="fbc_frozen", cached=True, core=None, **changes):
        if algo == "fbc_frozen":
            config = make_config(horizon=2, act_steps=1, precision="float32", obs_steps=changes.pop("algo__obs_steps", 1))
        else:
            config = config_like(make_config(), algo)
        config.train.data, config.train.cuda, config.train.batch_size = as_train_data(dataset), False, 4
        cache = {"enabled": cached, "dir": str(tmp_path / "cache"), "cached_crops": 0, "dtype": "float32"}
        of_core = {f"{CORE}{key}": value for key, value in {"random_crop": False, "crop_shape": [28, 28], **(core or {})}.items()}
        change_settings(config, {**{f"algo__feature_cache__{key}": value for key, value in cache.items()}, **of_core, **changes})
        ObsUtils.initialize_obs_utils_with_config(config)
        return config

    return make


def config_like(like, algo):
    """The config of another algorithm, with the encoder of this one."""
    config = config_factory(algo)
    config.observation.modalities.obs.update({"low_dim": [POSITION], "rgb": [IMAGE]})
    config.observation.encoder.rgb.core_kwargs.update(like.observation.encoder.rgb.core_kwargs)
    config.algo.obs_normalization = None
    return config


def model_of(config):
    torch.manual_seed(0)
    shapes = {key: (3,) if key == POSITION else (3, 32, 32) for key in config.all_obs_keys}
    return algo_factory(config.algo_name, config, shapes, 7, torch.device("cpu"))


def losses(config, steps=20):
    model = model_of(config)
    torch.manual_seed(1)
    data = TrainUtils.dataset_factory(config, config.all_obs_keys)
    loader = DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(2), drop_last=True)
    model.set_train()
    torch.manual_seed(3)
    found = []
    while len(found) < steps:
        for raw in loader:
            batch = model.postprocess_batch_for_training(model.process_batch_for_training(raw), None)
            found.append(model.log_info(model.train_on_batch(batch, epoch=1))["Loss"])
    return type(data), found


@pytest.mark.parametrize("algo", ALGOS)
@pytest.mark.parametrize("readout", READOUTS)
def test_training_on_cached_maps_is_training_on_pixels(readout, algo, config_for):
    name, changes = ALGOS[algo]
    kind, cached = losses(config_for(name, core=READOUTS[readout], **changes))
    assert kind is CachedFeatureDataset
    kind, uncached = losses(config_for(name, cached=False, core=READOUTS[readout], **changes))
    assert not issubclass(kind, CachedFeatureDataset)
    assert cached == pytest.approx(uncached, rel=1e-4)


PER_KEY = {WRIST: {"feature_stage": "layer1", "pool": "conv", "crop_shape": [24, 24], "emb_dim": 6}}
TWO_CAMERAS = {"observation__modalities__obs__rgb": [IMAGE, WRIST]}


@pytest.mark.parametrize("algo", ALGOS)
def test_each_camera_has_what_is_said_of_it_alone_from_pixels_and_from_the_cache(algo, config_for):
    name, changes = ALGOS[algo]
    settings = {"core": {"feature_stage": "layer2", "pool": KEYPOINTS, "per_key": PER_KEY}, **TWO_CAMERAS, **changes}
    config = config_for(name, **settings)
    assert check_config(config) == []
    kind, cached = losses(config)
    assert kind is CachedFeatureDataset
    assert cached == pytest.approx(losses(config_for(name, cached=False, **settings))[1], rel=1e-4)
    read = {str(module) for module in model_of(config).nets.modules() if isinstance(module, VisionBackbone)}
    assert any("spatial_softmax of layer2" in each for each in read) and any("conv of layer1" in each for each in read)


def test_a_camera_that_is_not_frozen_makes_training_read_pixels_and_all_are_unfrozen_together(config_for):
    core = {"feature_stage": "layer2", "per_key": {WRIST: {"freeze_encoder": False}}}
    assert not issubclass(losses(config_for(core=core, **TWO_CAMERAS))[0], CachedFeatureDataset)
    core = {"feature_stage": "layer2", "per_key": {WRIST: {"freeze_encoder": "layer1"}}}
    config = config_for(core=core, algo__unfreeze_at_epoch=2, **TWO_CAMERAS)
    model = model_of(config)
    data = TrainUtils.dataset_factory(config, config.all_obs_keys)
    assert data[0]["obs"][WRIST].shape[-2:] == (1, 1)
    model.on_epoch_end(1)
    assert data[0]["obs"][WRIST].shape[-3:] == (32, 32, 3)
    assert not any(module.num_frozen for module in model.nets.modules() if isinstance(module, VisionBackbone))


@pytest.mark.parametrize(
    ("per_key", "words"),
    [
        ({"wrist": {}}, "core_kwargs.per_key names 'wrist', which is no obs key of an image; did you mean 'wrist_image'"),
        ({POSITION: {}}, f"core_kwargs.per_key names '{POSITION}', which is no obs key of an image"),
        ({WRIST: {"poool": "avg"}}, "unknown key 'poool' in observation.encoder.rgb.core_kwargs; did you mean 'pool'"),
        ({WRIST: {"per_key": {}}}, "core_kwargs.per_key.wrist_image has a per_key of its own"),
        ({WRIST: "avg"}, "core_kwargs.per_key is .*; give {OBS_KEY: {SETTING: VALUE}}, or null"),
        ({WRIST: {"crop_shape": [40, 40]}}, r"crop_shape \[40, 40\] is larger than the image \[32, 32\]"),
    ],
)
def test_settings_of_a_camera_that_cannot_be_are_refused_in_one_line(per_key, words, config_for):
    with pytest.raises(ConfigError, match=words):
        check_config(config_for(core={"per_key": per_key}, **TWO_CAMERAS))


def spec_of(**settings):
    make_config()  # which makes the backbone 'small' known
    return EncoderSpec(**{"rgb_model_name": "small", "pretrained_encoder": False, "image_shape": (3, 32, 32), **settings})


def test_readouts_with_weights_share_the_cache_of_maps_and_others_have_that_of_their_vectors():
    maps = {
        spec_of(feature_stage="layer2", pool=pool, augment=augment).fingerprint()
        for pool, augment in [(KEYPOINTS, None), (ATTENTION, None), ("conv", None), ([KEYPOINTS, "grid"], None), ("grid", "shift")]
    }
    assert len(maps) == 1
    grid, average = (spec_of(feature_stage="layer2", pool=pool) for pool in ("grid", "avg"))
    assert len({*maps, grid.fingerprint(), average.fingerprint()}) == 3
    assert grid.build().frozen_dim == 16 * 9 and spec_of(feature_stage="layer2", pool=KEYPOINTS).build().frozen_dim == 16 * 8 * 8


def test_the_size_of_a_cache_is_told_before_it_is_made(config_for, caplog):
    caplog.set_level("INFO")
    config = config_for(core=READOUTS["keypoints"])
    TrainUtils.dataset_factory(config, config.all_obs_keys)
    size = 7 * 7 * 16 * 4  # a map of layer2 of a crop of 28 pixels, in float32
    assert f"features of obs/{IMAGE}: 12 frames of {size} bytes, 0.0 MB in {config.algo.feature_cache.dir}" in caplog.text


@pytest.mark.parametrize("readout", READOUTS)
def test_the_spec_of_a_cache_made_again_from_its_description_is_of_the_same_cache(readout):
    settings = {key: value for key, value in READOUTS[readout].items() if key != "freeze_encoder"}
    spec = spec_of(**settings)
    network = spec.build()
    description = spec.description(network)
    again = EncoderSpec.from_description(description, network.origin, spec.image_shape)
    assert again.description() == description
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again.build().eval().frozen_part(images), network.eval().frozen_part(images))


def test_a_shift_by_whole_cells_moves_a_map_and_repeats_its_border():
    maps = torch.rand(2, 3, 4, 5)
    moved = shifted(maps, torch.tensor([[2 / 5, 0.0], [0.0, -2 / 4]]))
    torch.testing.assert_close(moved[0], torch.cat([maps[0, :, :, 1:], maps[0, :, :, -1:]], dim=2))
    torch.testing.assert_close(moved[1], torch.cat([maps[1, :, :1], maps[1, :, :-1]], dim=1))


def test_a_shift_by_parts_of_cells_interpolates_as_grid_sample_does():
    maps, shifts = torch.rand(4, 3, 4, 5), torch.tensor([[0.03, -0.3], [-0.21, 0.4], [1.7, 0.0], [0.0, -2.0]])
    moves = torch.eye(2, 3).repeat(4, 1, 1)
    moves[:, :, 2] = shifts
    places = F.affine_grid(moves, list(maps.shape), align_corners=False)
    torch.testing.assert_close(shifted(maps, shifts), F.grid_sample(maps, places, padding_mode="border", align_corners=False))


def test_a_crop_beside_a_shift_is_passed_over_and_that_is_said(config_for, caplog):
    caplog.set_level("INFO")
    check_config(config_for(core={"feature_stage": "layer2", "augment": "shift", "crop_shape": [28, 28]}))
    assert "augment is 'shift', which takes images whole; crop_shape is passed over" in caplog.text
    assert spec_of(augment="shift", crop_shape=[28, 28], feature_stage="layer2") == spec_of(augment="shift", feature_stage="layer2")


def test_shifts_are_drawn_in_training_alone_and_alike_for_frames_of_a_sample():
    vision = spec_of(feature_stage="layer2", pool="map", augment="shift").build()
    kept = vision.frozen_part(torch.rand(1, 3, 32, 32)).expand(6, -1)
    assert torch.equal(vision.eval().finish(kept), kept)
    vision.train().frames = 3
    first, second = vision.finish(kept).split(3)
    assert torch.equal(first[0], first[2]) and torch.equal(second[0], second[2]) and not torch.equal(first, second)


def test_weights_of_readouts_are_trained_and_saved_with_the_policy(config_for):
    config = config_for(core=READOUTS["two readouts of a stage"])
    model = model_of(config)
    names = {name for name, parameter in model.nets["policy"].named_parameters() if parameter.requires_grad and ".readouts." in name}
    assert any("temperature" in name for name in names) and any("queries" in name for name in names)
    another = model_of(config_for(core=READOUTS["two readouts of a stage"], train__seed=7))
    another.deserialize(model.serialize())
    obs = {IMAGE: torch.rand(1, 3, 32, 32), POSITION: torch.zeros(1, 3)}
    for each in (model, another):
        each.set_eval()
        each.reset()
    assert torch.equal(model.get_action(dict(obs)), another.get_action(dict(obs)))


def test_noise_and_dropped_positions_are_as_large_as_is_said_and_in_training_alone():
    maps = torch.rand(8, 16, 20, 20)
    noise = with_noise(maps, 0.5) - maps
    assert noise.std() == pytest.approx(0.5 * maps.std().item(), rel=0.05)
    dropped = with_dropped_positions(maps, 0.25)
    zero = (dropped == 0).all(dim=1)
    assert zero.float().mean() == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(dropped[~zero[:, None].expand_as(maps)], maps[~zero[:, None].expand_as(maps)] / 0.75)
    vision = spec_of(feature_stage="layer2", map_noise=0.5, map_drop=0.25).build().eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(vision(images), vision(images)) and not torch.equal(vision.train()(images), vision(images))


class Gated(nn.Module):
    """A third party's: the average of a map, each channel times a weight that is learned."""

    def __init__(self, map_shape, start=1.0):
        super().__init__()
        self.weights = nn.Parameter(torch.full((map_shape[0],), start))

    def forward(self, maps):
        return maps.mean((2, 3)) * self.weights


def test_a_third_partys_readout_with_weights_is_trained_on_cached_maps(config_for, install):
    install(gates=plugin(readouts=lambda: [Readout("gated", Gated)]))
    core = {"feature_stage": "layer2", "pool": {"name": "gated", "start": 0.5}}
    assert losses(config_for(core=core))[1] == pytest.approx(losses(config_for(cached=False, core=core))[1], rel=1e-4)
    with pytest.raises(ConfigError, match="pool 'gated' has no parameter 'begin'; it has: start"):
        spec_of(pool={"name": "gated", "begin": 1})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pool": "keypoints"}, "pool is 'keypoints'; choose 'avg', 'grid', 'spatial_softmax', 'conv', 'attention'"),
        ({"pool": {"name": "spatial_softmax", "num_kps": 4}}, "pool 'spatial_softmax' has no parameter 'num_kps'; did you mean 'num_kp'"),
        ({"pool": {"num_kp": 4}}, "pool is None; choose"),
        ({"pool": []}, "pool is empty"),
        ({"pool": 3}, "pool is 3; choose"),
        ({"feature_stage": ["layer1", "layer2"], "pool": ["avg"] * 3}, "pool has 3 readouts, and feature_stage 2 stages; give one"),
        ({"augment": "crop"}, "augment is 'crop'; choose 'crops', 'shift' or null"),
        ({"max_shift": 0}, "max_shift is 0; choose a number of pixels above 0"),
        ({"map_noise": -1}, "map_noise is -1; choose 0"),
        ({"map_drop": 1.0}, "map_drop is 1.0; choose 0 .* less than 1"),
    ],
)
def test_settings_that_no_readout_takes_are_refused_in_one_line(settings, words):
    with pytest.raises(ConfigError, match=words):
        spec_of(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"feature_stage": "layer2", "pool": {"name": "spatial_softmax", "num_kp": 0.5}}, "pool is 'spatial_softmax', which takes no"),
        ({"feature_stage": "layer2", "pool": {"name": "spatial_softmax", "num_kp": 0}}, "pool is 'spatial_softmax', which takes no"),
        ({"feature_stage": "layer2", "pool": {"name": "conv", "channels": -2}}, "pool is 'conv', which takes no"),
        ({"feature_stage": "layer2", "pool": {"name": "attention", "dim": 6, "heads": 4}}, "pool is 'attention', which takes no"),
    ],
)
def test_parameters_that_a_readout_cannot_have_are_refused_in_one_line(settings, words):
    with pytest.raises(ConfigError, match=words):
        spec_of(**settings).build()


@pytest.mark.parametrize("settings", [{"pool": KEYPOINTS}, {"augment": "shift"}])
def test_a_stage_that_gives_no_map_is_refused(settings):
    make_config()
    with pytest.raises(ConfigError, match="stage 'layer4' of small gives no map"):
        EncoderSpec("small", pretrained_encoder=False, image_shape=(3, 16, 16), feature_stage="layer4", **settings).build()


def test_images_that_are_no_multiple_of_a_transformers_patches_are_refused_before_training(config_for):
    core = {"rgb_model_name": "timm:vit_tiny_patch16_224"}
    with pytest.raises(ConfigError, match=r"patches of 16 pixels, and would pad those of .*; set core_kwargs.crop_shape to \[16, 16"):
        check_config(config_for(core=core))
    assert check_config(config_for(core={**core, "crop_shape": None})) == []


def test_a_core_of_any_algorithm_takes_maps_that_are_cached():
    make_config()
    settings = {"feature_stage": "layer2", "pool": KEYPOINTS, "augment": "shift"}
    core = FrozenResNetCore((3, 32, 32), "small", pretrained_encoder=False, emb_dim=5, **settings)
    images = torch.from_numpy(np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32))
    kept = core.eval().backbone.frozen_part(core.preprocess(images))
    torch.testing.assert_close(core(kept[..., None, None]), core(images))
