"""Training on cached features against training on pixels, through robomimic's own dataset factory."""

import copy
import json
import os
import pickle
import random
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.train_utils as TrainUtils
import torch
import torchvision
from policies import change_settings
from robomimic.algo import RolloutPolicy, algo_factory
from robomimic.config import config_factory
from robomimic.utils.dataset import SequenceDataset
from robomimic_versions import IS_0_5, as_train_data
from torch.utils.data import DataLoader

import robomimic_frozen
from robomimic_frozen.encoders import EncoderSpec
from robomimic_frozen.errors import CacheUnavailableError, ConfigError
from robomimic_frozen.features.dataset import ActionKeysDataset, CachedFeatureDataset
from robomimic_frozen.features.int8 import to_int8
from robomimic_frozen.features.store import FeatureStore
from robomimic_frozen.integration.cached_training import precompute
from robomimic_frozen.integration.checks import check_config

pytestmark = pytest.mark.sim

IMAGE = "agentview_image"
SHAPES = {IMAGE: (3, 84, 84), "robot0_eef_pos": (3,), "robot0_gripper_qpos": (2,)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    """One store for all tests; a test of how it is filled takes another."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_config(lift_dataset, weights, cache_dir):
    def make(algo="fbc_frozen", cached=True, **changes):
        robomimic_frozen.register()
        config = config_factory(algo)
        config.train.data = as_train_data(lift_dataset)
        config.train.cuda = False
        config.observation.modalities.obs.low_dim = [key for key in SHAPES if key != IMAGE]
        config.observation.modalities.obs.rgb = [IMAGE]
        # Small crops: these tests are about data, not about what a network sees.
        core = {"weights": str(weights), "augment": "crops", "crop_shape": [40, 40], "random_crop": False, "emb_dim": 32}
        config.observation.encoder.rgb.core_kwargs.update(core)
        cache = {"enabled": cached, "dir": str(cache_dir), "dtype": "float32", "cached_crops": 2}
        config.algo.feature_cache.update(cache)
        change_settings(config, changes)
        ObsUtils.initialize_obs_utils_with_config(config)
        return config

    return make


def make_dataset(config, filter_key=None):
    return TrainUtils.dataset_factory(config, obs_keys=list(SHAPES), filter_by_attribute=filter_key)


def losses_of_50_steps(config):
    torch.manual_seed(0)
    model = algo_factory(config.algo_name, config, dict(SHAPES), 7, torch.device("cpu"))
    torch.manual_seed(1)
    dataset = make_dataset(config)
    loader = DataLoader(dataset, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(2), drop_last=True)
    model.set_train()
    losses = []
    torch.manual_seed(3)
    while len(losses) < 50:
        for raw in loader:
            batch = model.postprocess_batch_for_training(model.process_batch_for_training(raw), None)
            losses.append(model.log_info(model.train_on_batch(batch, epoch=1))["Loss"])
    return type(dataset), losses[:50]


GMM_RNN = {"algo__gmm__enabled": True, "algo__rnn__enabled": True, "algo__rnn__hidden_dim": 32, "train__seq_length": 10}


FLOAT32 = {"algo__precision": "float32"}
UP_TO_LAYER3 = {**FLOAT32, "observation__encoder__rgb__core_kwargs__freeze_encoder": "layer3"}


@pytest.mark.parametrize(
    ("algo", "changes"),
    [("fbc_frozen", FLOAT32), ("fbc_frozen", UP_TO_LAYER3), ("bc_frozen", GMM_RNN)],
    ids=["fbc", "fbc_up_to_layer3", "gmm_rnn"],
)
def test_fifty_steps_with_and_without_cache_have_the_same_losses(algo, changes, make_config):
    kind, cached = losses_of_50_steps(make_config(algo, cached=True, **changes))
    assert kind is CachedFeatureDataset
    kind, uncached = losses_of_50_steps(make_config(algo, cached=False, **changes))
    assert not issubclass(kind, CachedFeatureDataset)
    assert cached == pytest.approx(uncached, rel=1e-4)
    assert len(set(cached)) > 40


def test_unfreezing_in_the_middle_of_a_run_leaves_the_cached_path(make_config):
    config = make_config(algo__unfreeze_at_epoch=2, algo__optim_params__policy__learning_rate__encoder=1e-5)
    model = algo_factory("fbc_frozen", config, dict(SHAPES), 7, torch.device("cpu"))
    dataset = make_dataset(config)
    loader = DataLoader(dataset, batch_size=4, shuffle=True)
    assert next(iter(loader))["obs"][IMAGE].shape[-2:] == (1, 1)
    name = next(name for name, _ in model.nets["policy"].named_parameters() if ".stages.layer1." in name)

    def train(epoch):
        before = model.nets["policy"].get_parameter(name).clone()
        TrainUtils.run_epoch(model, loader, epoch=epoch, num_steps=2)
        model.on_epoch_end(epoch)
        return not torch.equal(before, model.nets["policy"].get_parameter(name))

    assert not train(epoch=1)
    assert next(iter(loader))["obs"][IMAGE].shape[-3:] == (84, 84, 3)
    assert train(epoch=2)
    assert name in model.nets["ema"].names
    assert model.optimizers["policy"].param_groups[-1]["initial_lr"] == 1e-5
    assert config.observation.encoder.rgb.core_kwargs.freeze_encoder is False


BC_HEADS = {
    "mse": {},
    "gaussian": {"algo__gaussian__enabled": True},
    "gmm": {"algo__gmm__enabled": True},
    "rnn": {"algo__rnn__enabled": True, "train__seq_length": 10},
    "transformer": {"algo__transformer__enabled": True, "train__frame_stack": 10, "algo__transformer__embed_dim": 32},
}


@pytest.mark.parametrize("head", BC_HEADS)
def test_every_bc_head_trains_on_features(head, make_config):
    config = make_config("bc_frozen", **BC_HEADS[head])
    model = algo_factory("bc_frozen", config, dict(SHAPES), 7, torch.device("cpu"))
    model.set_train()
    raw = next(iter(DataLoader(make_dataset(config), batch_size=4, shuffle=True)))
    assert raw["obs"][IMAGE].shape[2:] == (512, 1, 1)
    batch = model.postprocess_batch_for_training(model.process_batch_for_training(raw), None)
    assert np.isfinite(model.log_info(model.train_on_batch(batch, epoch=1))["Loss"])


def test_normalised_observations_are_the_same_in_training_and_in_rollouts(lift_dataset, make_config):
    config = make_config(train__hdf5_normalize_obs=True)
    model = algo_factory("fbc_frozen", config, dict(SHAPES), 7, torch.device("cpu"))
    dataset = make_dataset(config)
    stats = dataset.get_obs_normalization_stats()
    raw = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    trained = model.postprocess_batch_for_training(model.process_batch_for_training(raw), stats)["obs"]
    positions = trained["robot0_eef_pos"]
    assert positions.mean(dim=(0, 1)).abs().max() < 1e-3
    assert positions.std(dim=(0, 1)) == pytest.approx([1, 1, 1], abs=0.1)
    assert torch.equal(trained[IMAGE], raw["obs"][IMAGE])  # the backbone has a normalisation of its own

    seen = []
    model.get_action = lambda obs_dict, goal_dict=None: seen.append(obs_dict) or torch.zeros(1, 7)
    with h5py.File(lift_dataset) as file:
        first = {key: file[f"data/demo_0/obs/{key}"][0] for key in SHAPES}
    policy = RolloutPolicy(model, obs_normalization_stats=stats)
    # In robomimic 0.5 it is the policy that processes images, before it is the environment.
    policy(first if IS_0_5 else {**first, IMAGE: ObsUtils.process_obs(first[IMAGE], obs_key=IMAGE)})
    assert torch.allclose(seen[0]["robot0_eef_pos"][0], positions[0, 0])
    assert seen[0][IMAGE].shape == (1, 3, 84, 84)


SETTINGS = {
    "padded": {"train__seq_length": 16},
    "stacked": {"train__seq_length": 8, "train__frame_stack": 3},
    "unpadded": {
        "train__seq_length": 8, "train__frame_stack": 3, "train__pad_seq_length": False, "train__pad_frame_stack": False
    },
}


@pytest.mark.parametrize("filter_key", [None, "better"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_every_sequence_is_the_stock_one_with_features_for_images(setting, filter_key, make_config):
    settings = {**SETTINGS[setting], "train__dataset_keys": ["actions", "rewards", "dones"]}
    # bc_frozen reads all frames of a sequence
    ours = make_dataset(make_config("bc_frozen", **settings), filter_key)
    stock = make_dataset(make_config("bc_frozen", cached=False, **settings), filter_key)
    assert len(ours) == len(stock)
    every_third = range(0, len(stock), 3)
    batch = ours.__getitems__(every_third)[0].tensors
    for position, index in enumerate(every_third):
        expected = stock[index]
        for key in ("actions", "rewards", "dones"):
            np.testing.assert_array_equal(batch[key][position], expected[key])
        for key in ("robot0_eef_pos", "robot0_gripper_qpos"):
            np.testing.assert_array_equal(batch["obs"][key][position], expected["obs"][key])
        assert batch["obs"][IMAGE][position].shape[0] == expected["obs"][IMAGE].shape[0]
    single = ours[len(stock) - 1]
    np.testing.assert_array_equal(single["actions"], stock[len(stock) - 1]["actions"])


def test_features_belong_to_the_frames_of_their_sequence(make_config):
    dataset = make_dataset(make_config(train__seq_length=16))
    features = dataset.features[f"obs/{IMAGE}"]
    lengths = [dataset._demo_id_to_demo_length[demo] for demo in dataset.demos]
    index = lengths[0] + 3  # the fourth frame of the second demo
    served = dataset[index]["obs"][IMAGE]
    assert served.shape == (1, 512, 1, 1)
    np.testing.assert_array_equal(served[0, :, 0, 0], features[index, 0])


@pytest.mark.parametrize(("free", "said"), [(10**12, "the dataset is kept on cpu"), (0, "batches are sent to cpu one by one")])
def test_batches_are_the_same_when_the_dataset_is_kept_on_a_device_or_does_not_fit_there(free, said, make_config, monkeypatch, caplog):
    caplog.set_level("INFO")
    config = make_config(train__seq_length=16)
    expected = make_dataset(config).gather(np.array([0, 17, 5]))
    monkeypatch.setattr("robomimic_frozen.integration.cached_training._device_of_training", lambda config: torch.device("cpu"))
    monkeypatch.setattr("robomimic_frozen.utils.machine.free_memory", lambda device: free)
    dataset = make_dataset(config)
    batch = dataset.gather(np.array([0, 17, 5]))
    assert said in caplog.text
    assert isinstance(dataset.features[f"obs/{IMAGE}"], torch.Tensor) == (free > 0)
    for group in ("obs", "actions"):
        torch.testing.assert_close(batch[group], expected[group], rtol=0, atol=0)


@pytest.mark.parametrize(("algo", "stack", "frames"), [("fbc_frozen", 1, 1), ("fbc_frozen", 2, 2), ("bc_frozen", 1, 16)])
def test_of_pixels_only_those_frames_are_loaded_that_the_policy_reads(algo, stack, frames, make_config):
    steps = {"algo__obs_steps": stack} if algo == "fbc_frozen" else {}
    item = make_dataset(make_config(algo, cached=False, train__seq_length=16, train__frame_stack=stack, **steps))[3]
    assert (len(item["obs"][IMAGE]), len(item["actions"])) == (frames, 15 + stack)


def test_training_draws_random_crops_and_validation_the_central_one(make_config):
    config = make_config(
        train__hdf5_filter_key="train",
        train__hdf5_validation_filter_key="valid",
        experiment__validate=True,
        observation__encoder__rgb__core_kwargs__random_crop=True,
    )
    train, valid = make_dataset(config, "train"), make_dataset(config, "valid")
    assert set(train.demos).isdisjoint(valid.demos)
    features = train.features[f"obs/{IMAGE}"]
    assert features.shape[1] == 3
    served = train.__getitems__([0] * 50)[0].tensors["obs"][IMAGE][:, 0, :, 0, 0].numpy()
    drawn = {variant for row in served for variant in range(3) if np.array_equal(row, features[0, variant])}
    assert drawn == {1, 2}
    central = valid.__getitems__([0] * 5)[0].tensors["obs"][IMAGE][:, 0, :, 0, 0].numpy()
    assert all(np.array_equal(row, valid.features[f"obs/{IMAGE}"][0, 0]) for row in central)


def test_goals_are_the_last_next_observations(make_config, lift_dataset, tmp_path):
    with_next = tmp_path / "next.hdf5"
    with_next.write_bytes(lift_dataset.read_bytes())
    with h5py.File(with_next, "a") as file:
        for demo in file["data"].values():
            for key in SHAPES:
                frames = demo[f"obs/{key}"][:]
                demo[f"next_obs/{key}"] = np.concatenate([frames[1:], frames[-1:]])
    settings = {"train__data": as_train_data(with_next), "train__goal_mode": "last", "train__hdf5_load_next_obs": True}
    ours, stock = make_dataset(make_config(**settings)), make_dataset(make_config(cached=False, **settings))
    batch = ours.__getitems__([0, 5])[0].tensors
    np.testing.assert_array_equal(batch["goal_obs"]["robot0_eef_pos"][1], stock[5]["goal_obs"]["robot0_eef_pos"])
    last = ours._demo_id_to_demo_length[ours.demos[0]] - 1
    np.testing.assert_array_equal(batch["goal_obs"][IMAGE][1, :, 0, 0], ours.features[f"next_obs/{IMAGE}"][last, 0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"algo__feature_cache__enabled": False}, "enabled is false"),
        ({"observation__encoder__rgb__obs_randomizer_class": "CropRandomizer"}, "randomizer CropRandomizer"),
        (
            {
                "observation__encoder__rgb__obs_randomizer_class": "ColorRandomizer",
                "observation__encoder__rgb__obs_randomizer_kwargs": {"num_samples": 2},
            },
            "randomizer ColorRandomizer with its num_samples",
        ),
        (
            {"observation__encoder__rgb__obs_randomizer_class": "ColorRandomizer", "algo__feature_cache__cached_crops": 0},
            "cached_crops is 0, which leaves nothing for the randomizer ColorRandomizer",
        ),
        ({"observation__encoder__rgb__core_class": "VisualCore"}, "VisualCore is not FrozenResNetCore"),
        ({"observation__encoder__rgb__core_kwargs__freeze_encoder": False}, "encoder is not frozen"),
    ],
)
def test_where_features_would_be_wrong_pixels_are_read_and_the_reason_is_logged(changes, reason, make_config, caplog):
    caplog.set_level("INFO")
    assert type(make_dataset(make_config(**changes))) is ActionKeysDataset
    assert reason in caplog.text


def colours(**arguments):
    rgb = "observation__encoder__rgb"
    return {f"{rgb}__obs_randomizer_class": "ColorRandomizer", f"{rgb}__obs_randomizer_kwargs": {"crop_height": 5, **arguments}}


def test_images_that_passed_robomimics_randomizer_are_cached_beside_one_that_did_not(make_config):
    plain, coloured = make_dataset(make_config()), make_dataset(make_config(**colours(hue=None)))
    assert type(coloured) is CachedFeatureDataset
    stored, as_they_are = coloured.features[f"obs/{IMAGE}"], plain.features[f"obs/{IMAGE}"]
    assert stored.shape[1] == 3
    np.testing.assert_array_equal(stored[:, 0], as_they_are[:, 0])
    assert all(not np.array_equal(stored[0, variant], stored[0, 0]) for variant in (1, 2))

    # Brightness 0 makes black images, whatever else is drawn: so the variants are of images that have passed it.
    black = make_dataset(make_config(**colours(brightness=[0, 0], contrast=None, saturation=None, hue=None))).features[f"obs/{IMAGE}"]
    np.testing.assert_array_equal(black[0, 1], black[-1, 2])


def test_what_a_randomizer_draws_is_drawn_again_and_leaves_other_random_numbers_alone(make_config, tmp_path):
    features = []
    for number in range(2):
        random.seed(number)
        torch.manual_seed(number)
        before = random.getstate()
        dataset = make_dataset(make_config(algo__feature_cache__dir=str(tmp_path / str(number)), **colours()))
        assert random.getstate() == before
        features.append(dataset.features[f"obs/{IMAGE}"])
    np.testing.assert_array_equal(*features)
    other = make_dataset(make_config(algo__feature_cache__dir=str(tmp_path / "0"), **colours(brightness=0.1))).features[f"obs/{IMAGE}"]
    assert not np.array_equal(other[:, 1], features[0][:, 1])


def test_with_randomizers_a_cache_of_random_crops_is_another_one_than_that_of_central_crops(make_config):
    randomizers = [("ColorRandomizer", {"brightness": 0.2})]
    specs = [
        EncoderSpec(pretrained_encoder=False, crop_shape=[40, 40], cached_crops=2, randomizers=randomizers, **settings)
        for settings in ({}, {"random_crop": False}, {"augment": None})
    ]
    descriptions = [spec.description() for spec in specs]
    assert descriptions[0] != descriptions[1] == descriptions[2]
    for description in descriptions:
        again = EncoderSpec.from_description(json.loads(json.dumps(description)), "random", (3, 84, 84))
        assert json.loads(json.dumps(again.description())) == json.loads(json.dumps(description))


def test_a_process_that_extracts_and_does_nothing_else_knows_the_randomizers():
    code = "from robomimic_frozen.features import extraction; assert 'ColorRandomizer' in extraction.OBS_RANDOMIZERS"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "ROBOMIMIC_FROZEN_AUTOLOAD": "0"}, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"obs_randomizer_class": "ColourRandomizer"}, "no obs_randomizer_class 'ColourRandomizer'; did you mean 'ColorRandomizer'"),
        (
            {"obs_randomizer_class": {"name": "ColorRandomizer"}},
            "no obs_randomizer_class {'name': 'ColorRandomizer'}; did you mean 'ColorRandomizer'",
        ),
        ({"obs_randomizer_class": [["ColorRandomizer"]]}, r"no obs_randomizer_class \['ColorRandomizer'\]; did you mean 'ColorRandomizer'"),
        ({"obs_randomizer_class": "ColorRandomizer", "obs_randomizer_kwargs": 3}, "obs_randomizer_kwargs of ColorRandomizer is 3"),
    ],
)
def test_a_randomizer_that_robomimic_cannot_make_is_named_before_training(settings, words, make_config):
    config = make_config()
    with config.values_unlocked():
        config.observation.encoder.rgb.update(settings)
    with pytest.raises(ConfigError, match=words):
        check_config(config)


def test_cached_features_pass_no_randomizer(make_config):
    losses = []
    for settings in ({}, colours()):
        torch.manual_seed(0)
        policy = algo_factory("fbc_frozen", make_config(**settings), dict(SHAPES), 7, torch.device("cpu"))
        policy.set_train()
        batch = next(iter(DataLoader(make_dataset(make_config()), batch_size=4)))
        torch.manual_seed(1)
        losses.append(policy.log_info(policy.train_on_batch(policy.process_batch_for_training(batch), epoch=1))["Loss"])
    assert losses[0] == losses[1]


def test_int8_takes_a_quarter_of_float32_and_says_how_much_it_differs(make_config, caplog, tmp_path):
    caplog.set_level("INFO")
    exact = make_dataset(make_config())
    small = make_dataset(make_config(algo__feature_cache__dtype="int8", algo__feature_cache__dir=str(tmp_path)))
    stored, expected = small.features[f"obs/{IMAGE}"], exact.features[f"obs/{IMAGE}"]
    assert (stored.shape, len(stored)) == (expected.shape, len(expected))
    scales = 4 * len(small.demos) * expected.shape[2]
    assert stored.nbytes == expected.nbytes // 4 + scales

    difference = stored[:] - expected
    shares = [np.sqrt(np.square(difference[demo]).mean() / np.square(expected[demo]).mean()) for demo in demo_slices(small)]
    assert 0 < max(shares) < 0.01
    logged = float(re.search(r"int8 differs from them by ([\d.]+) % at most", caplog.text)[1])
    # What is logged is of features that bfloat16 may have rounded before; those of float32 it has not.
    assert logged == pytest.approx(100 * max(to_int8(expected[demo])[1] for demo in demo_slices(small)), abs=0.02)


def demo_slices(dataset):
    ends = np.cumsum([dataset._demo_id_to_demo_length[demo] for demo in dataset.demos])
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


@pytest.mark.parametrize("seq_length", [1, 16])
def test_batches_of_int8_are_those_of_float32_but_for_its_error(seq_length, make_config):
    crops = {"observation__encoder__rgb__core_kwargs__random_crop": True, "algo__feature_cache__cached_crops": 3}
    crops["train__seq_length"] = seq_length
    exact, small = (make_dataset(make_config(algo__feature_cache__dtype=dtype, **crops)) for dtype in ("float32", "int8"))
    for dataset in (small, pickle.loads(pickle.dumps(small))):
        numbers = list(range(0, len(dataset), 7))
        batch, expected = (each.__getitems__(numbers)[0].tensors["obs"][IMAGE] for each in (dataset, exact))
        assert (batch.dtype, batch.shape) == (torch.float32, expected.shape)
        assert ((batch - expected).square().mean() / expected.square().mean()).sqrt() < 0.01


def test_precompute_extracts_all_that_training_reads(make_config, tmp_path, monkeypatch):
    config = make_config(
        train__hdf5_filter_key="train",
        train__hdf5_validation_filter_key="valid",
        experiment__validate=True,
        algo__feature_cache__dir=str(tmp_path),
    )
    precompute(config)
    monkeypatch.setattr(FeatureStore, "_build", lambda *_: pytest.fail("features were extracted again"))
    for filter_key in ("train", "valid"):
        assert type(make_dataset(config, filter_key)) is CachedFeatureDataset


def test_precompute_refuses_what_would_not_read_features(make_config, tmp_path):
    with pytest.raises(ConfigError, match="no features to precompute: the encoder is not frozen"):
        precompute(make_config(observation__encoder__rgb__core_kwargs__freeze_encoder=False))
    with pytest.raises(ConfigError, match="no features to precompute: the policy looks at no images"):
        precompute(make_config(observation__modalities__obs__rgb=[]))
    with pytest.raises(ConfigError, match="no features to precompute: bc reads no features; choose fbc_frozen or bc_frozen"):
        precompute(config_factory("bc"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheUnavailableError):
        precompute(make_config(algo__feature_cache__dir=str(tmp_path / "file" / "cache")))


def test_stock_algorithms_keep_their_own_dataset(make_config):
    config = config_factory("bc")
    config.train.data = make_config().train.data
    config.observation = copy.deepcopy(make_config().observation)
    assert type(make_dataset(config)) is SequenceDataset


def test_a_cache_folder_that_cannot_be_written_is_done_without(make_config, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    config = make_config(algo__feature_cache__dir=str(tmp_path / "file" / "cache"))
    assert type(make_dataset(config)) is ActionKeysDataset
    assert "training without it" in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_serve_whole_batches(workers, make_config):
    loader = DataLoader(make_dataset(make_config()), batch_size=16, shuffle=True, num_workers=workers)
    batch = next(iter(loader))
    assert batch["obs"][IMAGE].shape == (16, 1, 512, 1, 1)
    assert batch["actions"].shape == (16, 16, 7)


def test_what_a_spawned_worker_is_sent_serves_the_same_batches_and_holds_no_features(make_config):
    dataset = make_dataset(make_config())
    indices = np.array([0, 7, 3])
    dataset.gather(indices)
    assert dataset.hdf5_file  # as robomimic 0.5 leaves it open
    sent = pickle.dumps(dataset)
    assert len(sent) < sum(features.nbytes for features in dataset.features.values()) / 2
    expected, found = dataset.gather(indices), pickle.loads(sent).gather(indices)
    for group in ("obs", None):
        for key, value in (expected[group] if group else expected).items():
            assert isinstance(value, dict) or torch.equal(value, (found[group] if group else found)[key])


def test_what_a_spawned_worker_is_sent_after_unfreezing_reads_pixels(make_config, monkeypatch):
    config = make_config()
    dataset = make_dataset(config)
    with config.values_unlocked():
        config.observation.encoder.rgb.core_kwargs.freeze_encoder = False
    sent = pickle.dumps(dataset)
    monkeypatch.setattr(ObsUtils, "OBS_KEYS_TO_MODALITIES", None)  # as in a new process
    assert pickle.loads(sent)[0]["obs"][IMAGE].shape[1:] == (84, 84, 3)


def test_loss_and_weights_do_not_depend_on_the_number_of_loader_workers(make_config):
    config = make_config(observation__encoder__rgb__core_kwargs__random_crop=True)

    def ten_steps(workers):
        torch.manual_seed(0)
        model = algo_factory("fbc_frozen", config, dict(SHAPES), 7, torch.device("cpu"))
        loader = DataLoader(make_dataset(config), batch_size=4, shuffle=True, num_workers=workers)
        return TrainUtils.run_epoch(model, loader, epoch=1, num_steps=10)["Loss"], model.nets.state_dict()

    loss, weights = ten_steps(workers=0)
    for workers in (1, 2):
        same_loss, same_weights = ten_steps(workers)
        assert same_loss == loss
        assert all(torch.equal(value, same_weights[name]) for name, value in weights.items())
