"""Low-dim observations and actions: on one scale for the networks, in their units for everybody else."""

from __future__ import annotations

import json
import logging
import shutil

import h5py
import numpy as np
import pytest
import robomimic.utils.file_utils as FileUtils
import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.tensor_utils as TensorUtils
import robomimic.utils.train_utils as TrainUtils
import torch
from policies import make_config
from robomimic.algo import RolloutPolicy, algo_factory
from robomimic.config import config_factory
from robomimic_versions import IS_0_5, as_train_data
from scipy.spatial.transform import Rotation
from small_datasets import IMAGE, POSITION, write_dataset
from torch.utils.data import DataLoader

from robomimic_frozen.config import Selection
from robomimic_frozen.errors import ConfigError, DatasetError, ObservationError, TrainingDivergedError
from robomimic_frozen.features.statistics import Statistics, statistics
from robomimic_frozen.policies.normalization import SMALLEST_SHARE, Normalization, make_normalization, offset_and_scale

LOW, HIGH = 200, 800


@pytest.fixture
def dataset(tmp_path):
    """Three demos whose actions are from 200 to 800, and whose positions are in thousandths."""
    path = write_dataset(tmp_path / "demos.hdf5")
    with h5py.File(path, "a") as file:
        for demo in file["data"].values():
            demo["actions"][...] = LOW + (demo["actions"][()] + 1) / 2 * (HIGH - LOW)
            demo[f"obs/{POSITION}"][...] = demo[f"obs/{POSITION}"][()] / 1000 + 5
    return path


def config_of(dataset, algo="fbc_frozen", **train):
    config = make_config()
    if algo != "fbc_frozen":
        config = config_factory(algo)
        config.observation.modalities.obs.low_dim = [POSITION]
    config.observation.modalities.obs.rgb = []
    config.algo.obs_normalization = "gaussian"
    config.train.action_config = {"actions": {"normalization": "min_max"}}
    config.train.data, config.train.cuda = str(dataset), False
    config.train.update(train)
    return config


def make_model(config):
    """As robomimic's train.py, with its dataset."""
    ObsUtils.initialize_obs_utils_with_config(config)
    torch.manual_seed(0)
    model = algo_factory(config.algo_name, config, {POSITION: (3,)}, 7, torch.device("cpu"))
    with config.unlocked():
        config.train.data = as_train_data(config.train.data)
    return model, TrainUtils.dataset_factory(config, [POSITION])


def batch_of(model, dataset):
    raw = next(iter(DataLoader(dataset, batch_size=len(dataset))))
    return model.postprocess_batch_for_training(model.process_batch_for_training(raw), None)


def test_statistics_are_those_of_all_steps_of_the_chosen_demos_and_of_nothing_behind_them(dataset):
    with h5py.File(dataset, "a") as file:
        demos = [file[f"data/demo_{index}"] for index in range(2)]
        demos[0].attrs["num_samples"] = 3
        steps = np.concatenate([demos[0]["actions"][:3], demos[1]["actions"][()]])
    found = statistics([Selection(str(dataset), "train")], ["actions", f"obs/{POSITION}"])["actions"]
    np.testing.assert_allclose(found.mean, steps.mean(axis=0))
    np.testing.assert_allclose(found.std, steps.std(axis=0))
    np.testing.assert_array_equal([found.low, found.high], [steps.min(axis=0), steps.max(axis=0)])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused_with_its_place(value, dataset):
    with h5py.File(dataset, "a") as file:
        file[f"data/demo_1/obs/{POSITION}"][2, 0] = value
    with pytest.raises(DatasetError, match=f"obs/{POSITION} of demo_1 holds NaN or infinite numbers; leave this demo out"):
        make_normalization(config_of(dataset))


def of_range(low, high):
    low, high = np.array(low, float), np.array(high, float)
    return Statistics((low + high) / 2, (high - low) / 4, low, high)


@pytest.mark.parametrize("method", ["min_max", "gaussian"])
def test_a_dimension_that_hardly_moves_is_not_blown_up(method):
    found = of_range([-1, 0.5, -0.0001], [1, 0.5, 0.0001])
    offset, scale = offset_and_scale(found, method)
    assert scale[1] == scale[2] == pytest.approx(SMALLEST_SHARE * scale[0])
    assert (0.5 - offset[1]) / scale[1] == 0


def test_numbers_that_are_all_constant_are_only_shifted():
    offset, scale = offset_and_scale(of_range([3, 4], [3, 4]), "gaussian")
    assert (offset.tolist(), scale.tolist()) == ([3, 4], [1, 1])


@pytest.mark.parametrize("algo", ["fbc_frozen", "bc_frozen"])
def test_training_sees_both_on_one_scale(algo, dataset):
    batch = batch_of(*make_model(config_of(dataset, algo)))
    assert batch["actions"].min() == pytest.approx(-1)
    assert batch["actions"].max() == pytest.approx(1)
    positions = batch["obs"][POSITION].reshape(-1, 3) if algo == "bc_frozen" else batch["obs"][POSITION][:, 0]
    torch.testing.assert_close(positions.mean(dim=0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(positions.std(dim=0, correction=0), torch.ones(3), atol=1e-2, rtol=0)


def test_null_leaves_both_as_they_are(dataset):
    config = config_of(dataset, action_config={"actions": {"normalization": None}})
    config.algo.obs_normalization = None
    batch = batch_of(*make_model(config))
    assert batch["actions"].max() > 100
    assert batch["obs"][POSITION].mean() == pytest.approx(5, abs=0.01)


def test_robomimic_s_own_normalisation_takes_the_place_of_ours(dataset):
    model, demos = make_model(config_of(dataset, hdf5_normalize_obs=True))
    raw = next(iter(DataLoader(demos, batch_size=len(demos))))
    batch = model.postprocess_batch_for_training(model.process_batch_for_training(raw), demos.get_obs_normalization_stats())
    # Its floor is 1e-3, which is as much as these positions vary; ours would make it 1.
    assert batch["obs"][POSITION].std(correction=0) == pytest.approx(0.5, abs=0.1)


def trained_to_repeat(config, steps=400):
    model, demos = make_model(config)
    # Every sequence 16 times in a batch, each with noise of its own.
    batch = {key: value for key, value in batch_of(model, demos).items() if key != "goal_obs"}
    batch = {"goal_obs": None, **TensorUtils.map_tensor(batch, lambda value: value.repeat(16, *[1] * (value.ndim - 1)))}
    model.set_train()
    for _ in range(steps):
        model.train_on_batch(batch, epoch=1)
    return model, demos


def saved(model, demos, path):
    """What robomimic's train.py writes, and what its own version has for the rollouts of training."""
    stats = {"action_normalization_stats": demos.get_action_normalization_stats()} if IS_0_5 else {}
    shape_meta = {"ac_dim": 7, "all_shapes": {POSITION: (3,)}, "all_obs_keys": [POSITION], "use_images": False}
    TrainUtils.save_model(model, model.global_config, {"env_name": "Lift", "type": 1, "env_kwargs": {}}, shape_meta, str(path), **stats)
    return RolloutPolicy(model, **stats)


def test_actions_of_a_memorised_demonstration_are_in_its_units_in_training_and_from_a_checkpoint(dataset, tmp_path):
    with h5py.File(dataset, "a") as file:
        for name in ("demo_1", "demo_2"):
            del file["data"][name]
        expert, first = file["data/demo_0/actions"][()], file[f"data/demo_0/obs/{POSITION}"][0]
    config = config_of(dataset)
    config.algo.horizon = config.train.seq_length = 4
    config.algo.act_steps, config.algo.network_kwargs.hidden_dims = 4, [256, 256]
    config.algo.optim_params.policy.learning_rate.initial = 3e-3
    model, demos = trained_to_repeat(config)
    in_training = saved(model, demos, tmp_path / "model.pth")
    from_checkpoint, _ = FileUtils.policy_from_checkpoint(ckpt_path=str(tmp_path / "model.pth"), device=torch.device("cpu"))
    for policy in (in_training, from_checkpoint):
        policy.start_episode()
        actions = np.stack([policy(ob={POSITION: first}) for _ in range(4)])
        assert np.abs(actions - expert).mean() < 0.1 * (HIGH - LOW)
    assert torch.equal(in_training.policy._normalization.state_dict()["actions/actions/scale"],
                       from_checkpoint.policy._normalization.state_dict()["actions/actions/scale"])  # fmt: skip


def test_stage_two_keeps_the_numbers_of_stage_one_and_says_so(dataset, tmp_path, caplog):
    first, demos = make_model(config_of(dataset))
    saved(first, demos, tmp_path / "stage1.pth")
    other = shutil.copy(dataset, tmp_path / "other.hdf5")
    with h5py.File(other, "a") as file:
        file["data/demo_0/actions"][0] = 5000
    config = config_of(other)
    config.algo.init_from = str(tmp_path / "stage1.pth")
    with caplog.at_level(logging.INFO):
        second, _ = make_model(config)
    assert "normalised as in" in caplog.text and "not by the present dataset" in caplog.text
    assert not second._normalization.differs_from(first._normalization.state_dict())


def test_numbers_of_a_loaded_state_take_the_place_of_the_dataset_s(dataset):
    resumed, _ = make_model(config_of(dataset))
    state = {name: value + 1 if name.startswith("normalization.") else value for name, value in resumed.nets.state_dict().items()}
    resumed.nets.load_state_dict(state)
    numbers = resumed._normalization.state_dict()
    assert all(torch.equal(value, state[f"normalization.{name}"]) for name, value in numbers.items())


PARTS = {"action_dict/abs_pos": 3, "action_dict/abs_rot_6d": 6, "action_dict/gripper": 1}
OF_PARTS = {"action_dict/abs_pos": {"normalization": "min_max"}, "action_dict/abs_rot_6d": {"format": "rot_6d"},
            "action_dict/gripper": {"normalization": "min_max"}}  # fmt: skip


@pytest.fixture
def parts(dataset):
    """The dataset with what robomimic's extract_action_dict.py adds."""
    rng = np.random.default_rng(0)
    with h5py.File(dataset, "a") as file:
        for demo in file["data"].values():
            rotations = Rotation.from_rotvec(rng.normal(size=(4, 3)))
            demo["action_dict/abs_pos"], demo["action_dict/gripper"] = rng.normal(size=(4, 3)), rng.normal(size=(4, 1))
            demo["action_dict/abs_rot_6d"] = rotations.as_matrix()[:, :2].reshape(4, 6).astype(np.float32)
            demo["action_dict/abs_rot_axis_angle"] = rotations.as_rotvec()
    return dataset


@pytest.mark.parametrize(("way", "written"), [("rot_axis_angle", Rotation.as_rotvec), ("rot_euler", lambda r: r.as_euler("XYZ"))])
def test_several_action_keys_are_learnt_in_order_and_leave_as_the_environment_takes_them(way, written, parts):
    settings = {**OF_PARTS, "action_dict/abs_rot_6d": {"format": "rot_6d", "convert_at_runtime": way}}
    model, demos = make_model(config_of(parts, action_keys=list(PARTS), action_config=settings))
    assert model.ac_dim == 10
    stored = torch.stack([demos[index]["actions"][0] if torch.is_tensor(demos[index]["actions"]) else torch.from_numpy(
        demos[index]["actions"][0]) for index in range(len(demos))])  # fmt: skip
    with h5py.File(parts) as file:
        demos_of_file = [file[f"data/demo_{index}"] for index in range(3)]
        columns = [np.concatenate([demo[key][()] for demo in demos_of_file]) for key in PARTS]
        vectors = np.concatenate([demo["action_dict/abs_rot_axis_angle"][()] for demo in demos_of_file])
    np.testing.assert_allclose(stored, np.concatenate(columns, axis=1), atol=1e-6)
    normalized = model._normalization.actions(stored)
    assert normalized[:, :3].abs().max() == pytest.approx(1) and torch.equal(normalized[:, 3:9], stored[:, 3:9])
    expected = np.concatenate([columns[0], written(Rotation.from_rotvec(vectors)), columns[2]], axis=1)
    np.testing.assert_allclose(model._normalization.executable(normalized), expected, atol=1e-5)


def test_a_rot_6d_that_is_no_rotation_is_refused(parts):
    with h5py.File(parts, "a") as file:
        file["data/demo_2/action_dict/abs_rot_6d"][1] = 1
    with pytest.raises(DatasetError, match="abs_rot_6d of demo_2 has format rot_6d in train.action_config, and is not two rows"):
        make_normalization(config_of(parts, action_keys=list(PARTS), action_config=OF_PARTS))


def test_a_policy_of_before_normalisation_passes_everything_unchanged():
    old = Normalization(["actions"], {"actions": {"normalization": "min_max"}}, {"actions/actions": (np.ones(7), np.ones(7))})
    old.load_state_dict({})
    values = torch.rand(2, 7)
    assert old.action_width is None
    assert torch.equal(old.actions(values), values) and torch.equal(old.executable(values), values)
    assert torch.equal(old.observations({"key": values})["key"], values)


WRONG = {
    "no dataset": ({"data": None}, "train.data is not set, whose statistics normalise"),
    "an action key that action_config lacks": ({"action_keys": ["actions_abs"]}, "train.action_config lacks 'actions_abs'"),
    "one that is not among action_keys": ({"action_config": {"actions": {}, "actions_abs": {}}},
                                          "train.action_config has 'actions_abs', which is not among train.action_keys"),
    "minmax": ({"action_config": {"actions": {"normalization": "minmax"}}}, "normalization is 'minmax'; did you mean 'min_max'"),
    "a format": ({"action_config": {"actions": {"format": "quaternion"}}}, "format is 'quaternion'; choose null or 'rot_6d'"),
    "a conversion": ({"action_config": {"actions": {"convert_at_runtime": "matrix"}}}, "convert_at_runtime is 'matrix'; choose"),
    "an unknown setting": ({"action_config": {"actions": {"scale": 2}}}, "has scale; choose from normalization, format"),
    "no sections": ({"action_config": None}, "train.action_config is null; give a section for each key"),
    "no section of a key": ({"action_config": {"actions": None}}, 'train.action_config is {"actions": null}; give a section for each key'),
    "a method that is no name": ({"action_config": {"actions": {"normalization": ["min_max"]}}}, r"\['min_max'\]; did you mean"),
    "one key without a list": ({"action_keys": "actions"}, 'train.action_keys is "actions"; give the names'),
    "keys that are no names": ({"action_keys": [{}]}, r"train.action_keys is \[{}\]; give the names"),
    "no keys": ({"action_keys": []}, r"train.action_keys is \[\]; give the names"),
    "both kinds": ({"action_keys": ["actions", "actions_abs"], "action_config": {"actions": {}, "actions_abs": {}}}, "choose one kind"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(name, dataset):
    changes, message = WRONG[name]
    with pytest.raises(ConfigError, match=message):
        make_normalization(config_of(dataset, **changes))


def policy_on(shapes):
    config = make_config()
    ObsUtils.initialize_obs_utils_with_config(config)
    policy = RolloutPolicy(algo_factory("fbc_frozen", config, shapes, 7, torch.device("cpu")))
    policy.start_episode()
    return policy.policy


IMAGES, VECTORS = {IMAGE: torch.rand(1, 3, 32, 32)}, {POSITION: torch.zeros(1, 3)}


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({**IMAGES}, f"lacks '{POSITION}', which the policy looks at"),
        ({**IMAGES, POSITION: torch.zeros(1, 4)}, r"is \[4\], and the policy was trained on \[3\]; give what was recorded"),
        ({**VECTORS, IMAGE: torch.rand(1, 3, 64, 64)}, r"is \[3, 64, 64\], and the policy was trained on \[3, 32, 32\]"),
        ({**VECTORS, IMAGE: torch.rand(1, 32, 32, 3)}, r"is \[32, 32, 3\].*give what robomimic.utils.obs_utils.process_obs makes of it"),
        ({**VECTORS, IMAGE: 255 * torch.rand(1, 3, 32, 32)}, "has values up to 25., and images are in .0, 1.; divide by 255|up to 25"),
    ],
    ids=["missing", "width", "size", "layout", "range"],
)
def test_observations_that_differ_from_those_of_training_are_refused(obs, message):
    with pytest.raises(ObservationError, match=message):
        policy_on({IMAGE: (3, 32, 32), POSITION: (3,)}).get_action(obs)


def test_another_number_of_environments_gets_a_chunk_of_its_own():
    policy = policy_on({IMAGE: (3, 32, 32), POSITION: (3,)})
    shapes = [policy.get_action({IMAGE: torch.rand(size, 3, 32, 32), POSITION: torch.zeros(size, 3)}).shape for size in (4, 1, 6)]
    assert shapes == [(4, 7), (1, 7), (6, 7)]


@pytest.mark.parametrize("algo", ["fbc_frozen", "bc_frozen"])
def test_a_loss_that_is_not_finite_ends_the_run(algo, dataset):
    model, demos = make_model(config_of(dataset, algo))
    with torch.no_grad():
        next(model.nets["policy"].parameters()).fill_(float("nan"))
    with pytest.raises(TrainingDivergedError, match="the loss is nan in epoch 1, and no longer finite; look for extreme numbers"):
        TrainUtils.run_epoch(model, DataLoader(demos, batch_size=4), epoch=1, num_steps=1)


def test_the_config_of_a_checkpoint_tells_how_it_was_made(dataset, tmp_path):
    model, demos = make_model(config_of(dataset))
    saved(model, demos, tmp_path / "model.pth")
    config = json.loads(torch.load(tmp_path / "model.pth", weights_only=False)["config"])
    assert config["algo"]["obs_normalization"] == "gaussian"
    assert config["train"]["action_config"]["actions"]["normalization"] == "min_max"
