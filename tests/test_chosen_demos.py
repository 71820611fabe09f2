"""What is looked at before training: the demos that a config chooses, those alone, and whether its settings suit them."""

import re

import h5py
import numpy as np
import pytest
import robomimic.utils.file_utils as FileUtils
import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.train_utils as TrainUtils
import torch
from policies import change_settings, make_config
from robomimic_versions import IS_0_5, as_train_data
from small_datasets import IMAGE, POSITION, STEPS, write_dataset

from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.errors import ConfigError, DatasetError
from robomimic_frozen.features.extraction import FeatureExtraction
from robomimic_frozen.features.source import demos_in
from robomimic_frozen.integration.checks import check_config
from robomimic_frozen.integration.training import shapes_of_chosen_demos

OBS = f"obs/{IMAGE}"
CORE = "observation__encoder__rgb__core_kwargs__"
SPLITS = {"experiment__validate": True, "train__hdf5_filter_key": "train", "train__hdf5_validation_filter_key": "valid"}
GOALS = {"observation__modalities__goal__rgb": [IMAGE]}


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "small.hdf5")


def config_for(dataset, cached=True, **changes):
    config = make_config(horizon=2, act_steps=1)
    config.train.data = as_train_data(dataset)
    config.train.batch_size, config.train.cuda = 4, False
    config.algo.feature_cache.update({"enabled": cached, "dir": str(dataset.parent / "cache"), "cached_crops": 0, "dtype": "float32"})
    change_settings(config, {f"{CORE}augment": "crops", f"{CORE}crop_shape": [6, 6], **changes})
    ObsUtils.initialize_obs_utils_with_config(config)
    return config


def replace(key, change, demos=("demo_0", "demo_1", "demo_2")):
    def edit(file):
        for demo in demos:
            values = change(file[f"data/{demo}/{key}"][()])
            del file[f"data/{demo}/{key}"]
            file[f"data/{demo}/{key}"] = values

    return edit


def in_demo_1(key, change):
    return replace(key, change, ["demo_1"])


def put(path, value):
    def edit(file):
        file.pop(path, None)
        file[path] = value

    return edit


def delete(path):
    return lambda file: file.pop(path)


def as_group(file):
    del file["data/demo_1"]
    file.create_group("data/demo_1")


def without_attribute(file):
    del file["data/demo_1"].attrs["num_samples"]


def of_no_steps(file):
    for key in ("actions", OBS, f"obs/{POSITION}"):
        in_demo_1(key, lambda x: x[:0])(file)
    file["data/demo_1"].attrs["num_samples"] = 0


def longer(x):
    return np.concatenate([x, x[:1]])


BROKEN_DEMOS = {
    "no image": (delete(f"data/demo_1/{OBS}"), f"no obs key '{IMAGE}' in demo_1"),
    "no observations": (delete("data/demo_1/obs"), "no obs key .* in demo_1; it has: none"),
    "no demo": (as_group, "data/demo_1 has no attribute num_samples"),
    "no num_samples": (without_attribute, "data/demo_1 has no attribute num_samples"),
    "no steps": (of_no_steps, "data/demo_1 has no steps"),
    "no actions": (delete("data/demo_1/actions"), "data/demo_1/actions is missing"),
    "short actions": (in_demo_1("actions", lambda x: x[:-1]), "demo_1/actions is shorter .*3 steps, num_samples is 4"),
    "short images": (in_demo_1(OBS, lambda x: x[:-1]), f"demo_1/{OBS} is shorter .*3 steps, num_samples is 4"),
    "short positions": (in_demo_1(f"obs/{POSITION}", lambda x: x[:-1]), f"demo_1/obs/{POSITION} is shorter"),
    "narrow actions": (in_demo_1("actions", lambda x: x[:, :6]), r"demo_1/actions is \[6\] at each step, and \[7\] in demo_0"),
    "flat actions": (in_demo_1("actions", lambda x: x[:, 0]), r"demo_1/actions are not \[T, action dim\]"),
    "words": (put(f"data/demo_1/obs/{POSITION}", [b"x"] * STEPS), f"demo_1/obs/{POSITION} is no sequence of numbers"),
    "small images": (in_demo_1(OBS, lambda x: x[:, :4, :4]), rf"demo_1/{OBS} is \[4, 4, 3\] at each step, and \[8, 8, 3\] in demo_0"),
    "channels first": (in_demo_1(OBS, lambda x: x.transpose(0, 3, 1, 2)), f"demo_1/{OBS} has channels first"),
    "float images": (in_demo_1(OBS, lambda x: np.float32(x / 255)), f"demo_1/{OBS} is float32, not uint8"),
    "images of int64": (in_demo_1(OBS, np.int64), f"demo_1/{OBS} is int64, not uint8"),
    "grey images": (in_demo_1(OBS, lambda x: x[..., 0]), f"demo_1/{OBS} is no sequence of RGB images"),
}


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "pixels"])
@pytest.mark.parametrize("case", BROKEN_DEMOS)
def test_a_broken_demo_is_refused_by_name_unless_the_filter_key_leaves_it_out(case, cached, dataset):
    edit, words = BROKEN_DEMOS[case]
    with h5py.File(dataset, "a") as file:
        edit(file)
        file["mask/good"] = np.array(["demo_0", "demo_2"], "S")
    with pytest.raises(DatasetError, match=words) as error:
        check_config(config_for(dataset, cached))
    assert "; " in str(error.value) and "\n" not in str(error.value)
    assert check_config(config_for(dataset, cached, train__hdf5_filter_key="good")) == []


def test_a_broken_demo_is_refused_where_robomimics_own_script_asks_for_a_dataset(dataset):
    with h5py.File(dataset, "a") as file:
        in_demo_1("actions", lambda x: x[:-1])(file)
    config = config_for(dataset)
    with pytest.raises(DatasetError, match="demo_1/actions is shorter"):
        TrainUtils.dataset_factory(config, obs_keys=config.all_obs_keys)


@pytest.mark.parametrize("bad", ["demo_0", "demo_1"])
def test_shapes_are_those_of_a_chosen_demo(bad, dataset):
    with h5py.File(dataset, "a") as file:
        del file[f"data/{bad}/{OBS}"]
        file["mask/good"] = np.array([name for name in ("demo_0", "demo_1", "demo_2") if name != bad], "S")
    config = config_for(dataset, train__hdf5_filter_key="good")
    arguments = {"dataset_config": config.train.data[0], "action_keys": ["actions"]} if IS_0_5 else {"dataset_path": config.train.data}
    with shapes_of_chosen_demos(config):
        found = FileUtils.get_shape_metadata_from_dataset(all_obs_keys=config.all_obs_keys, **arguments)
    assert found["ac_dim"] == 7 and found["all_shapes"][IMAGE] == [3, 8, 8]


@pytest.mark.parametrize("settings", [{}, {"train__hdf5_load_next_obs": True, "train__goal_mode": "last"}], ids=["obs", "goals"])
def test_of_arrays_longer_than_the_demo_training_reads_what_robomimic_reads(settings, dataset):
    with h5py.File(dataset, "a") as file:
        for key in ("actions", OBS, f"obs/{POSITION}"):
            replace(key, longer)(file)
        for demo in file["data"].values():
            for key in (IMAGE, POSITION):
                demo[f"next_obs/{key}"] = demo[f"obs/{key}"][()][::-1]
    ours, stock = (
        TrainUtils.dataset_factory(config, obs_keys=config.all_obs_keys)
        for config in (config_for(dataset, cached, **settings) for cached in (True, False))
    )
    spec = EncoderSpec("small", pretrained_encoder=False, image_shape=(3, 8, 8), crop_shape=(6, 6), dtype="float32")
    extract = FeatureExtraction(spec, spec.build(), torch.device("cpu"), np.zeros((1, 8, 8, 3), np.uint8))
    assert len(ours) == len(stock) == 3 * STEPS
    for index in range(len(stock)):
        expected, found = stock[index], ours[index]
        np.testing.assert_array_equal(found["actions"], expected["actions"])
        for group in ("obs", "next_obs", "goal_obs") if settings else ("obs",):  # of which the policy reads the first frame
            np.testing.assert_array_equal(found[group][POSITION].flatten(), expected[group][POSITION].reshape(-1, 3)[0])
            feature = extract("", expected[group][IMAGE].reshape(-1, 8, 8, 3)[:1])
            np.testing.assert_allclose(found[group][IMAGE].flatten(), feature.flatten(), rtol=1e-4, atol=1e-6)


MASKS = {
    "a missing demo": (np.array(["demo_0", "demo_99"], "S"), "filter key mine names 'demo_99', which the file does not have"),
    "a padded name": (np.array(["demo_0 ", "demo_2"], "S8"), "filter key mine names 'demo_0 ', which the file does not have"),
    "a demo twice": (np.array(["demo_1", "demo_1"], "S"), "filter key mine names demos twice"),
    "no demos": (np.array([], "S6"), "filter key mine names no demos"),
    "numbers": (np.array([0, 2]), "mask/mine is int64"),
}


@pytest.mark.parametrize("case", MASKS)
def test_a_filter_key_names_demos_of_the_file_each_once(case, dataset):
    content, words = MASKS[case]
    with h5py.File(dataset, "a") as file:
        file["mask/mine"] = content
    with pytest.raises(DatasetError, match=words):
        check_config(config_for(dataset, train__hdf5_filter_key="mine"))


@pytest.mark.parametrize("kind", ["S", h5py.string_dtype()], ids=["bytes", "text"])
def test_a_filter_key_may_be_bytes_or_text(kind, dataset):
    with h5py.File(dataset, "a") as file:
        file["mask/mine"] = np.array(["demo_2", "demo_0"], kind)
    assert check_config(config_for(dataset, train__hdf5_filter_key="mine")) == []


@pytest.mark.parametrize("name", ["demo_07", "traj_12", "abcde5", "demo_-3"])
def test_demos_have_the_names_and_the_order_that_robomimic_takes(name, dataset):
    with h5py.File(dataset, "a") as file:
        file.move("data/demo_1", f"data/{name}")
    config = config_for(dataset)
    assert check_config(config) == []
    assert list(demos_in(dataset)) == TrainUtils.dataset_factory(config, obs_keys=config.all_obs_keys).demos


@pytest.mark.parametrize("name", ["ep_0", "demo0", "0", "demo_1_copy", "metadata"])
def test_a_name_that_robomimic_cannot_sort_is_refused_unless_it_is_left_out(name, dataset):
    with h5py.File(dataset, "a") as file:
        file.move("data/demo_1", f"data/{name}")
        file["mask/good"] = np.array(["demo_0", "demo_2"], "S")
    with pytest.raises(DatasetError, match=f"data/{name} is not called demo_N"):
        check_config(config_for(dataset))
    assert check_config(config_for(dataset, train__hdf5_filter_key="good")) == []


SETTINGS = {
    "goals of a config that loads no next_obs": ({"train__goal_mode": "last"}, "goals are taken from next_obs; set train.hdf5_load_next"),
    "goals of a file without next_obs": ({"train__goal_mode": "last", "train__hdf5_load_next_obs": True}, "no next_obs key .* in demo_0"),
    "goal keys without goals": (GOALS, "observation.modalities.goal has obs keys, and train.goal_mode is null"),
    "an unknown goal": ({"train__goal_mode": "first"}, 'train.goal_mode is "first"; choose "last" or null'),
    "validation without filter keys": ({"experiment__validate": True}, "experiment.validate needs the demos of two filter keys"),
    "a filter key of no validation": ({"train__hdf5_validation_filter_key": "valid"}, "and experiment.validate is false"),
    "validation on what is trained on": (
        {**SPLITS, "train__hdf5_validation_filter_key": "train"}, "filter keys 'train' and 'train' of .* share demo_0"
    ),
    "a batch larger than the demos": ({"train__batch_size": 13}, "batch_size is 13, and the training demos have 12 sequences"),
    "a batch larger than the training demos": ({**SPLITS, "train__batch_size": 9}, "the training demos have 8 sequences"),
    "a batch larger than the validation demos": ({**SPLITS, "train__batch_size": 5}, "the validation demos have 4 sequences"),
    "a batch larger than what is not padded": (
        {"train__pad_seq_length": False, "train__batch_size": 10}, "the training demos have 9 sequences"
    ),
    "sequences longer than a demo": ({"train__pad_seq_length": False, "train__seq_length": 5}, "demo_0 has 4 steps, and training"),
    "no batch size": ({"train__batch_size": None}, "train.batch_size is null; choose"),
    "keys that are no list": ({"train__dataset_keys": None}, "train.dataset_keys is null; give a list of names"),
    "a crop larger than the images": ({f"{CORE}crop_shape": [10, 10]}, r"crop_shape \[10, 10\] is larger than the image \[8, 8\]"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_do_not_suit_the_demos_are_refused_before_training(case, dataset):
    changes, words = SETTINGS[case]
    with pytest.raises((ConfigError, DatasetError), match=words):
        check_config(config_for(dataset, **changes))


@pytest.mark.parametrize("changes", [SPLITS, {"train__batch_size": 12}, {"train__pad_seq_length": False, "train__batch_size": 9}])
def test_one_whole_batch_is_enough(changes, dataset):
    assert check_config(config_for(dataset, **changes)) == []


@pytest.mark.parametrize(
    ("core_kwargs", "words"),
    [
        ({"crop_shape": [5, 5]}, r"shows 39% of an image of \[8, 8\]; set observation.encoder.rgb.core_kwargs.resize_shape to \[6, 6\]"),
        ({"crop_shape": [76, 76], "resize_shape": [480, 640]}, r"shows 2% of an image of \[480, 640\]; .*resize_shape to \[84, 84\]"),
        ({"crop_shape": [3, 8]}, r"shows 38% of an image of \[8, 8\]; .*resize_shape to \[3, 8\]"),
    ],
)
def test_a_crop_far_smaller_than_the_image_is_doubted_and_a_resize_named(core_kwargs, words, dataset):
    (doubt,) = check_config(config_for(dataset, **{f"{CORE}{key}": value for key, value in core_kwargs.items()}))
    assert re.search(words, doubt), doubt
