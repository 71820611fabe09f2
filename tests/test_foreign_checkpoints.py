"""Checkpoints of robomimic's own algorithms, given to `info` and `doctor`."""

import importlib.metadata
import json

import pytest
import robomimic.utils.obs_utils as ObsUtils
import torch
from robomimic.algo import algo_factory
from robomimic.config import config_factory

from robomimic_frozen import cli
from robomimic_frozen.doctor.examine import examine_file
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies.checkpoints import read_checkpoint

SHAPES = {"robot0_eef_pos": (3,), "robot0_eef_quat": (4,), "robot0_gripper_qpos": (2,), "object": (10,), "flat": (5,)}
ENVIRONMENT = {"env_name": "Lift", "env_version": importlib.metadata.version("robosuite"), "type": 1, "env_kwargs": {}}
PARTS = {"hbc": ["planner", "actor"], "iris": ["value_planner.planner", "value_planner.value", "actor"]}


def save_untrained(algo, path, **changes):
    """As robomimic's train.py saves one."""
    config = config_factory(algo)
    ObsUtils.initialize_obs_utils_with_config(config)
    model = algo_factory(algo, config, SHAPES, 7, torch.device("cpu"))
    shapes = {"all_shapes": SHAPES, "ac_dim": 7, "all_obs_keys": list(SHAPES), "use_images": False}
    content = {"model": model.serialize(), "config": config.dump(), "algo_name": algo}
    torch.save({**content, "env_metadata": ENVIRONMENT, "shape_metadata": shapes, **changes}, path)
    return path


@pytest.mark.parametrize("algo", ["bc", "bcq", "cql", "gl", "hbc", "iris", "td3_bc"])
def test_what_is_known_of_an_algorithm_of_any_shape_is_told(algo, tmp_path, capfd):
    path = save_untrained(algo, tmp_path / "model.pth")
    examination = examine_file(path)
    assert examination.findings == []
    assert int(examination.facts["parameters"].replace(",", "")) > 200_000
    encoders = [f"encoder of {part}" for part in PARTS[algo]] if algo in PARTS else ["encoder"]
    assert [name for name in examination.facts if name.startswith("encoder")] == encoders
    assert cli.main(["info", str(path)]) == 0
    told = capfd.readouterr().out
    assert all(name in told and value in told for name, value in examination.facts.items())


def test_weights_of_a_part_that_are_not_finite_are_found(tmp_path):
    path = save_untrained("hbc", tmp_path / "model.pth")
    checkpoint = torch.load(path)
    actor = checkpoint["model"]["actor"]
    name, weights = next(iter(actor.get("nets", actor).items()))  # robomimic 0.5 saves optimizers beside them
    weights.fill_(torch.nan)
    torch.save(checkpoint, path)
    (finding,) = examine_file(path).findings
    assert finding.where.startswith(f"actor.{name}") and "have NaN" in finding.what


@pytest.mark.parametrize("changes", [{"model": []}, {"config": "[]"}, {"config": '{"observation": {"a": 1}}'}, {"env_metadata": 3}])
def test_what_lacks_a_part_of_a_checkpoint_is_refused_in_one_line(changes, tmp_path, capfd):
    path = tmp_path / "model.pth"
    torch.save({"model": {}, "config": "{}", "algo_name": "bc", "env_metadata": {}, **changes}, path)
    assert cli.main(["info", str(path)]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "is not a robomimic checkpoint" in line or "lacks what robomimic saves with a policy" in line


def test_a_part_that_robomimic_would_evaluate_is_refused(tmp_path):
    config = json.loads(config_factory("hbc").dump())
    config["observation"]["planner"]["encoder"]["rgb"]["core_kwargs"] = {"backbone_class": "__import__('os').abort"}
    path = save_untrained("hbc", tmp_path / "model.pth", config=json.dumps(config))
    with pytest.raises(ConfigError, match="observation.planner.encoder.rgb.core_kwargs.backbone_class is .*would evaluate as Python"):
        read_checkpoint(path, "CKPT")
