"""Policies as graphs of ONNX and of torch.export: what other runtimes make of observations."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from policies import OBS_SHAPES, make_config, make_policy
from test_docs import code_blocks
from test_load_policy import observed
from test_two_stages import save, train

import robomimic_frozen
from robomimic_frozen import cli
from robomimic_frozen.deployment import export

SHAPES = {"all_shapes": OBS_SHAPES, "ac_dim": 7}


@pytest.fixture
def write(tmp_path):
    """Writes the checkpoint of a small policy with these settings of its algo and its encoder."""

    def write(core_kwargs=(), **algo):
        config = make_config(horizon=8, act_steps=4, **algo)
        config.observation.encoder.rgb.core_kwargs.update({"augment": "shift", "crop_shape": None, **dict(core_kwargs)})
        policy = make_policy(config)
        train(policy)
        return save(policy, tmp_path / "small.pth", shape_metadata=SHAPES)

    return write


def run(path, inputs):
    """What the runtime of the file's format gives."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["actions"], inputs)[0]
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    noise = tensors.pop("noise")
    return torch.export.load(path).module()(observation=tensors, noise=noise).numpy()


def description_in(path):
    """What the file says to a runtime."""
    if path.suffix == ".onnx":
        (props,) = onnx.load(path).metadata_props
        return json.loads(props.value)
    files = {"policy.json": ""}
    torch.export.load(path, extra_files=files)
    return json.loads(files["policy.json"])


@pytest.mark.parametrize(
    ("format", "settings"),
    [
        ("torch", {}),
        ("torch", {"obs_steps": 2, "core_kwargs": {"feature_stage": "layer2", "pool": "conv"}}),
        ("onnx", {"obs_steps": 2, "core_kwargs": {"feature_stage": "layer2", "pool": "conv"}}),
        ("onnx", {"network": "chiunet", "flow_steps": 2, "network_kwargs": {"down_dims": [8]}, "core_kwargs": {"pool": "spatial_softmax"}}),
        ("onnx", {"core_kwargs": {"freeze_encoder": "layer2", "feature_stage": ["layer2", "layer4"], "pool": ["grid", "attention"]}}),
    ],
    ids=["average", "frames of maps, in torch", "frames of maps", "unet on keypoints", "half frozen"],
)
def test_any_number_of_observations_gives_what_the_policy_gives_and_the_file_says_how(format, settings, write, tmp_path, capsys):
    checkpoint = write(**settings)
    path = tmp_path / f"small{export.FORMATS[format]}"
    assert cli.main(["export", str(checkpoint), "--format", format, "--out", str(path)]) == 0
    assert "differs from the policy by" in capsys.readouterr().out
    frames, told = settings.get("obs_steps", 1), description_in(path)
    assert told["observations"] == {"robot0_eef_pos": [3], "agentview_image": [32, 32, 3]}
    assert (told["obs_steps"], told["act_steps"], told["noise"], told["rot_6d"]) == (frames, 4, [8, 7], [])
    policy = robomimic_frozen.load_policy(checkpoint, "cpu")
    for count in (1, 3):
        seen = observed(count, count)
        noise = torch.cat([policy.planner.draw_noise(1, torch.Generator().manual_seed(0)) for _ in range(count)])
        # A policy that has seen one frame takes it for those before it, too.
        obs = {key: seen[key] if frames == 1 else np.stack([seen[key]] * frames, axis=1) for key in OBS_SHAPES}
        inputs = {"agentview_image": obs["agentview_image"], "robot0_eef_pos": obs["robot0_eef_pos"].astype(np.float32)}
        chunk = run(path, {**inputs, "noise": noise.numpy()})
        assert chunk.shape == (count, 8, 7)
        policy.reset()
        for step in range(4):
            np.testing.assert_allclose(chunk[:, step], policy.act(seen), atol=1e-4)


def test_the_example_of_the_document_runs_the_file(tmp_path, monkeypatch):
    policy = make_policy(make_config())  # a horizon of 16, as the example has it
    export.export_policy(save(policy, tmp_path / "small.pth", shape_metadata=SHAPES), tmp_path / "policy.onnx", "onnx")
    monkeypatch.chdir(tmp_path)
    seen = observed()
    names = {"image": seen["agentview_image"], "position": seen["robot0_eef_pos"]}
    exec(compile(code_blocks("robot.md")[1], "docs/robot.md", "exec"), names)
    assert names["chunk"].shape == (1, 16, 7)


def test_what_is_not_exported_is_one_line_and_nothing_is_written(write, tmp_path, capsys, monkeypatch):
    checkpoint = write()
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    assert cli.main(["export", str(checkpoint), "--format", "torch", "--out", str(tmp_path / "a.pt2")]) == 1
    assert "the exported graph differs from" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    assert cli.main(["export", str(checkpoint), "--out", str(tmp_path / "a.onnx")]) == 1
    assert "pip install 'robomimic_frozen[export]'" in capsys.readouterr().err.splitlines()[-1]
    config = make_config()
    config.train.hdf5_normalize_obs = True
    normalised = save(make_policy(config), tmp_path / "small.pth", shape_metadata=SHAPES)
    assert cli.main(["export", str(normalised), "--out", str(tmp_path / "a.onnx")]) == 1
    assert "was trained with train.hdf5_normalize_obs, which is not exported" in capsys.readouterr().err.splitlines()[-1]
    (tmp_path / "b.onnx").touch()
    assert cli.main(["export", str(checkpoint), "--out", str(tmp_path / "b.onnx")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"small.pth", "b.onnx"}
