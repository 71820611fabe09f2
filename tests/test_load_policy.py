"""A policy in a loop of one's own: as robomimic's rollouts, in as many environments as there are, and without robosuite."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from policies import OBS_SHAPES, make_config, make_policy
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from test_two_stages import save
from untrained import HORIZON, write_untrained_checkpoint

import robomimic_frozen
from robomimic_frozen.deployment.asynchronous import AsynchronousPolicy
from robomimic_frozen.deployment.policy import Policy
from robomimic_frozen.errors import ConfigError, ObservationError

# Acts on recorded observations in an interpreter that has neither robosuite nor MuJoCo.
ACT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("robosuite", "mujoco"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import numpy as np, robomimic_frozen
policy = robomimic_frozen.load_policy(sys.argv[1], "cpu")
recorded = np.load(sys.argv[2])
actions = [policy.act({key: recorded[key][step] for key in policy.observations}) for step in range(len(recorded["actions"]))]
assert not {"robosuite", "mujoco"} & set(sys.modules)
np.save(sys.argv[3], np.stack(actions))
"""


@pytest.fixture
def small():
    """A small untrained policy of two frames, whose chunks have 6 actions, of which 3 are executed."""
    torch.manual_seed(0)
    return loaded(make_policy(make_config(horizon=6, act_steps=3, obs_steps=2)))


def loaded(algo) -> Policy:
    from robomimic.algo import RolloutPolicy

    algo.set_eval()
    return Policy(RolloutPolicy(algo))


def observed(seed: int = 0, *batch: int) -> dict[str, np.ndarray]:
    """What a camera and a robot give."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*batch, 32, 32, 3), dtype=np.uint8)
    return {"agentview_image": image, "robot0_eef_pos": rng.normal(size=(*batch, 3)), "unused": "text"}


@pytest.mark.sim
@pytest.mark.parametrize("obs_steps", [1, 2])
def test_it_acts_as_a_rollout_does_bit_for_bit_where_there_is_no_robosuite(obs_steps, lift_dataset, tmp_path):
    from robomimic_frozen.evaluation.episodes import Rollouts

    checkpoint = write_untrained_checkpoint(lift_dataset, tmp_path / "lift.pth", obs_steps)
    rollouts = Rollouts(checkpoint)
    steps, step = [], rollouts.env.step

    def recorded(action):
        simulated = rollouts._robosuite._get_observations()  # by which robosuite itself shows what the policy has seen
        raw = {key: simulated[key][::-1] if key.endswith("_image") else simulated[key] for key in rollouts.policy.policy.obs_shapes}
        steps.append({**raw, "actions": action})
        return step(action)

    rollouts.env.step = recorded
    rollouts.run(seed=3, horizon=HORIZON)
    np.savez(tmp_path / "recorded.npz", **{key: np.stack([each[key] for each in steps]) for key in steps[0]})

    arguments = [str(checkpoint), str(tmp_path / "recorded.npz"), str(tmp_path / "actions.npy")]
    subprocess.run([sys.executable, "-c", ACT, *arguments], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "actions.npy"), np.stack([each["actions"] for each in steps]))


def test_sixteen_environments_are_given_what_sixteen_policies_give(small):
    singles = [loaded(small.planner) for _ in range(16)]
    begun = [0] * 16
    for step in range(8):
        seen = [observed(100 * number + step) for number in range(16)]
        if step == 4:  # these begin again in the middle of a chunk of the others
            begun[3] = begun[11] = step
            small.reset([3, 11])
            singles[3].reset()
            singles[11].reset()
        together = small.act({key: np.stack([each[key] for each in seen]) for key in OBS_SHAPES})
        alone = np.stack([single.act(each) for single, each in zip(singles, seen, strict=True)])
        assert together.shape == (16, 7)
        np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(np.diff(together, axis=0)).max() > 1e-3


def test_what_a_recurrent_policy_of_robomimic_remembers_is_that_of_each_environment():
    config = config_factory("bc_frozen")
    config.update({key: make_config()[key] for key in ("observation",)})
    config.algo.rnn.enabled = True
    config.algo.rnn.hidden_dim = 8
    config.algo.obs_normalization = None
    config.algo.actor_layer_dims = ()
    config.train.cuda = False
    from robomimic.utils import obs_utils

    obs_utils.initialize_obs_utils_with_config(config)
    torch.manual_seed(0)
    algo = algo_factory("bc_frozen", config, OBS_SHAPES, 7, torch.device("cpu"))
    together, alone = loaded(algo), loaded(algo)
    for step in range(3):
        actions = together.act(observed(step, 2))
        single = alone.act({key: value[1] for key, value in observed(step, 2).items() if key in OBS_SHAPES})
        np.testing.assert_allclose(actions[1], single, atol=1e-6)
    with pytest.raises(ConfigError, match="is of bc_frozen, and not of fbc_frozen without goals; act with load_policy, without overlap"):
        AsynchronousPolicy(alone)


def test_a_policy_conditioned_on_goals_takes_one():
    config = make_config(act_steps=1)
    config.observation.modalities.goal.low_dim = ["robot0_eef_pos"]
    config.train.goal_mode = "last"
    config.train.hdf5_load_next_obs = True
    policy = loaded(make_policy(config))
    near, far = (policy.act(observed(), goal={"robot0_eef_pos": place}) for place in ([0.0, 0, 0], [5.0, 0, 0]))
    policy.reset()
    assert np.abs(near - policy.act(observed(), goal={"robot0_eef_pos": [5.0, 0, 0]})).max() > 0
    assert far.shape == near.shape == (7,)
    with pytest.raises(ObservationError, match="conditioned on goals, and none is given"):
        policy.act(observed())
    with pytest.raises(ConfigError, match="is conditioned on goals, and not of"):
        AsynchronousPolicy(policy)


def test_goals_and_images_are_taken_as_they_come_where_robomimic_normalises_observations():
    config = make_config(act_steps=1)
    config.observation.modalities.goal.rgb = ["agentview_image"]
    config.train.goal_mode, config.train.hdf5_load_next_obs = "last", True
    policy = loaded(make_policy(config))
    policy._policy.obs_normalization_stats = {
        "robot0_eef_pos": {name: np.full((1, 3), value) for name, value in (("mean", 1.0), ("std", 2.0), ("offset", 1.0), ("scale", 2.0))}
    }
    flipped = observed()["agentview_image"][::-1]
    assert policy.act({**observed(), "agentview_image": flipped}, goal={"agentview_image": flipped}).shape == (7,)


def test_a_policy_that_is_loaded_later_leaves_the_first_one_as_it_was(tmp_path):
    first = make_config(act_steps=1)
    path = save(make_policy(first), tmp_path / "first.pth", shape_metadata={"all_shapes": OBS_SHAPES, "ac_dim": 7})
    second = make_config()
    second.observation.modalities.obs.rgb = ["other_image"]
    shapes = {"other_image": (3, 32, 32), "robot0_eef_pos": (3,)}
    other = save(make_policy(second, shapes), tmp_path / "other.pth", shape_metadata={"all_shapes": shapes, "ac_dim": 7})
    one = robomimic_frozen.load_policy(path, "cpu")
    expected = one.act(observed())
    robomimic_frozen.load_policy(other, "cpu")
    one.reset()
    np.testing.assert_array_equal(one.act(observed()), expected)


def test_frames_are_remembered_though_a_camera_writes_to_the_same_memory(small):
    once, again = observed(1), observed(2)
    memory = {key: value.copy() for key, value in once.items() if key in OBS_SHAPES}
    expected = [small.act(each) for each in (once, again, again, again)]
    small.reset()
    actions = [small.act(memory)]
    for key, value in memory.items():
        value[...] = again[key]
    actions += [small.act(memory) for _ in range(3)]
    np.testing.assert_array_equal(np.stack(actions), np.stack(expected))


def with_image(change):
    return lambda obs: {**obs, "agentview_image": change(obs["agentview_image"])}


def with_position(value):
    return lambda obs: {**obs, "robot0_eef_pos": value}


BAD_OBSERVATIONS = {
    "without a key": (lambda obs: {"agentview_image": obs["agentview_image"]}, "lacks 'robot0_eef_pos', .* has agentview_image; add it"),
    "a small image": (with_image(lambda image: image[:16]), r"is \[16, 32, 3\], and .* on \[32, 32, 3\].*resize"),
    "channels first": (with_image(lambda image: image.transpose(2, 0, 1)), r"is \[3, 32, 32\]"),
    "scaled images": (with_image(lambda image: image / 255), "is float64, and images are uint8.*do not scale"),
    "no numbers": (with_position(["a", "b", "c"]), "'robot0_eef_pos' is <U1; give real numbers"),
    "a longer vector": (with_position(np.zeros(4)), r"is \[4\], and the policy was trained on \[3\].*give what was recorded"),
    "NaN": (with_position([0.0, np.nan, 0.0]), "'robot0_eef_pos' holds NaN or infinity; look after the sensor"),
    "one key of a batch": (with_position(np.zeros((2, 3))), r"is \[2, 3\], and 'agentview_image' is \[32, 32, 3\]"),
    "no environment": (lambda obs: observed(0, 0), r"is \[0, 32, 32, 3\]"),
}


@pytest.mark.parametrize("case", BAD_OBSERVATIONS)
def test_an_observation_that_does_not_fit_is_one_line_and_forgotten(case, small):
    spoil, words = BAD_OBSERVATIONS[case]
    expected = [small.act(observed(step)) for step in range(5)]
    small.reset()
    actions = []
    for step in range(5):
        with pytest.raises(ObservationError, match=words) as caught:
            small.act(spoil(observed(step)))
        assert "\n" not in str(caught.value)
        actions.append(small.act(observed(step)))
    np.testing.assert_array_equal(np.stack(actions), np.stack(expected))


def test_another_number_of_environments_needs_a_reset(small):
    small.act(observed(0, 2))
    with pytest.raises(ObservationError, match=r"of 3 environments.*began with 2; call reset\(\)"):
        small.act(observed(0, 3))
    with pytest.raises(ObservationError, match="reset names environment 5, and they are 0 to 1"):
        small.reset([5])
    small.reset()
    assert small.act(observed(0, 3)).shape == (3, 7)


def test_a_checkpoint_that_is_none_and_one_of_several_policies_are_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"absent.pth does not exist; give the path of a .pth file with load_policy"):
        robomimic_frozen.load_policy(tmp_path / "absent.pth")
    config = config_factory("hbc")
    torch.save({"model": {}, "algo_name": "hbc", "config": config.dump(), "env_metadata": {}}, tmp_path / "hbc.pth")
    with pytest.raises(ConfigError, match=r"made of several policies \(.*planner.*\); roll it out with"):
        robomimic_frozen.load_policy(tmp_path / "hbc.pth")
