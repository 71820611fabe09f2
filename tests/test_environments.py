"""What an environment gives against what a policy was trained on: refused in one line, before an episode and before training."""

import json
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import robomimic.utils.file_utils as FileUtils
from policies import ACTION_DIM, OBS_SHAPES, make_config, make_policy
from small_datasets import IMAGE, write_dataset
from test_two_stages import save

from robomimic_frozen import cli
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation import evaluate as evaluation
from robomimic_frozen.integration import rollouts
from robomimic_frozen.integration.environments import check_cameras, check_observations, check_rollouts

SHAPES = {"agentview_image": (3, 84, 84), "wrist_image": (3, 48, 64), "robot0_eef_pos": (3,)}


def metadata(**env_kwargs):
    cameras = {"camera_names": ["agentview", "wrist"], "camera_heights": [84, 48], "camera_widths": [84, 64]}
    return {"type": 1, "env_name": "Lift", "env_kwargs": {**cameras, **env_kwargs}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"camera_heights": 168}, r"^here: its environment gives agentview_image as \[3, 168, 84\], and the policy takes \[3, 84, 84\]"),
        ({"camera_widths": [84, 48]}, "wrist_image as .3, 48, 48.*; set camera_heights and camera_widths to 48 and 64 in its env_args"),
        ({"camera_names": ["agentview"], "camera_heights": 84, "camera_widths": 84}, "looks at wrist_image, .* among agentview_image"),
        ({"camera_names": [], "camera_heights": 84, "camera_widths": 84}, "choose among nothing, for it has no cameras"),
        ({"camera_names": "agentview"}, "camera_names, .* in its env_args do not go together"),
        ({"camera_names": 5}, "camera_names, .* in its env_args do not go together"),
    ],
)
def test_cameras_that_render_something_else_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        check_cameras("here", metadata(**changes), SHAPES, "its env_args")


def test_an_environment_that_names_no_camera_has_the_one_of_robosuite():
    silent, of_a_file = {**metadata(), "env_kwargs": {}}, {"agentview_image": (3, 84, 84)}
    with pytest.raises(ConfigError, match=r"gives agentview_image as \[3, 256, 256\], and the policy takes \[3, 84, 84\]; set camera_h"):
        check_cameras("here", silent, of_a_file, "its env_args")
    check_cameras("here", silent, {"agentview_image": (3, 256, 256), "robot0_eef_pos": (3,)}, "its env_args")


@pytest.mark.parametrize(
    "given",
    [
        metadata(),
        metadata(camera_names=["all-eye_in_hand"], camera_heights=1, camera_widths=1),
        {**metadata(camera_heights=1), "type": 2},
        [metadata(camera_heights=1)],
    ],
)
def test_cameras_that_fit_or_of_which_nothing_is_known_pass(given):
    check_cameras("here", given, SHAPES, "its env_args")


class Environment:
    """As robomimic wraps robosuite's."""

    def __init__(self, **changes):
        self.shapes = {**SHAPES, **changes}

    def get_observation(self):
        return {key: np.zeros(shape) for key, shape in self.shapes.items() if shape is not None}


def test_an_environment_that_gives_what_a_policy_takes_passes():
    check_observations("here", Environment(), SHAPES, "its env_metadata")
    channels_last = {key: (*shape[1:], 3) for key, shape in SHAPES.items() if key.endswith("_image")}
    stacked = SimpleNamespace(unwrapped=Environment(**channels_last, more=(5,)))
    check_observations("here", stacked, SHAPES, "its env_metadata")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"agentview_image": (3, 168, 168)}, "gives agentview_image as .3, 168, 168.*to 84 and 84 in its env_metadata"),
        ({"robot0_eef_pos": (7,)}, r"gives robot0_eef_pos as \[7\], and the policy takes \[3\]; roll it out in the environment of its"),
        ({"robot0_eef_pos": None, "robot1_eef_pos": (3,)}, "looks at robot0_eef_pos, .*; choose among robot1_eef_pos"),
    ],
)
def test_observations_of_an_environment_that_are_others_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        check_observations("here", Environment(**changes), SHAPES, "its env_metadata")


@pytest.fixture
def training(tmp_path):
    """A config of a run with rollouts, and its dataset of 8x8 images, which its env_args say."""
    config = make_config()
    config.observation.encoder.rgb.core_kwargs.crop_shape = None
    config.train.data = str(write_dataset(tmp_path / "small.hdf5"))
    write_env_args(config, json.dumps({"type": 1, "env_name": "Lift", "env_kwargs": cameras(8)}))
    return config


def cameras(size):
    return {"camera_names": ["agentview"], "camera_heights": [size], "camera_widths": [size]}


def write_env_args(config, text):
    with h5py.File(config.train.data, "a") as file:
        file["data"].attrs["env_args"] = text


def test_a_dataset_whose_images_rollouts_would_show_at_another_size_is_refused_unless_there_are_none(training):
    check_rollouts(training)
    write_env_args(training, json.dumps({"type": 1, "env_name": "Lift", "env_kwargs": cameras(84)}))
    remedy = "set camera_heights and camera_widths to 8 and 8 in its env_args, or set experiment.rollout.enabled to false"
    with pytest.raises(ConfigError, match=rf"small.hdf5: its environment gives {IMAGE} as \[3, 84, 84\].* takes \[3, 8, 8\]; {remedy}"):
        check_rollouts(training)
    training.experiment.rollout.enabled = False
    check_rollouts(training)


def test_rollouts_of_a_policy_that_is_conditioned_on_goals_are_refused_before_training(training):
    training.observation.modalities.goal.rgb = [IMAGE]
    with pytest.raises(ConfigError, match=r"conditioned on goals, and robosuite has none.*; set experiment.rollout.enabled to false"):
        check_rollouts(training)
    training.experiment.rollout.enabled = False
    check_rollouts(training)


@pytest.fixture
def make_checkpoint(tmp_path):
    def make_checkpoint(goal_keys=()):
        config = make_config()
        config.observation.modalities.goal.rgb = list(goal_keys)
        config.train.cuda = False
        shapes = {"all_shapes": OBS_SHAPES, "ac_dim": ACTION_DIM, "all_obs_keys": list(OBS_SHAPES), "use_images": True}
        given = {"shape_metadata": shapes, "env_metadata": {"type": 1, "env_name": "Lift", "env_kwargs": {}}}
        return save(make_policy(config), tmp_path / "model.pth", **given)

    return make_checkpoint


def test_eval_refuses_a_policy_that_is_conditioned_on_goals(make_checkpoint):
    from robomimic_frozen.evaluation.episodes import Rollouts

    with pytest.raises(ConfigError, match="model.pth: the policy is conditioned on goals, which rollouts do not have"):
        Rollouts(make_checkpoint([IMAGE]))


@pytest.mark.parametrize(
    ("goal_keys", "words"), [([IMAGE], "is conditioned on goals"), ([], r"gives agentview_image as \[3, 84, 84\], and the policy takes")]
)
def test_robomimics_own_rollouts_are_refused_likewise(goal_keys, words, make_checkpoint, monkeypatch):
    monkeypatch.setattr(rollouts, "select_gl_backend", lambda: None)
    monkeypatch.setattr(FileUtils, "env_from_checkpoint", lambda ckpt_dict, **kwargs: (Environment(), ckpt_dict))
    with pytest.raises(ConfigError, match=words):
        rollouts.roll_out_stock(["--agent", str(make_checkpoint(goal_keys)), "--n_rollouts", "1"], [])


def test_eval_of_which_every_episode_ends_in_an_error_fails_and_says_why(monkeypatch, tmp_path, capfd):
    def episode(error):
        return {"success": error is None, "steps": 1, "total_reward": 0.0, "seconds": 1.0, "error": error}

    good = evaluation.summarize("good.pth", [episode("KeyError: 'y'"), episode(None)])
    bad = evaluation.summarize("bad.pth", [episode("KeyError: 'x'\n  at once"), episode("KeyError: 'z'")])
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: [good, bad])
    assert cli.main(["eval", "any.pth", "--out", str(tmp_path)]) == 1
    out, err = capfd.readouterr()
    assert "| good.pth | 1.00 |" in out and "| bad.pth | - |" in out
    assert "bad.pth: every episode ended in an error, the first in KeyError: 'x' at once; mend that" in err.splitlines()[-1]
    assert good.first_error == "KeyError: 'y'"
