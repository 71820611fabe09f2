"""Small fbc_frozen policies and batches for the tests."""

from __future__ import annotations

from typing import Any

import robomimic.utils.obs_utils as ObsUtils
import torch
from robomimic.algo import algo_factory
from robomimic.config import config_factory

import robomimic_frozen

OBS_SHAPES = {"agentview_image": (3, 32, 32), "robot0_eef_pos": (3,)}
ACTION_DIM = 7


def make_config(**algo: Any):
    """A config for OBS_SHAPES on a small random encoder; `algo` changes keys of its algo section."""
    robomimic_frozen.register()
    config = config_factory("fbc_frozen")
    config.observation.modalities.obs.low_dim = ["robot0_eef_pos"]
    config.observation.modalities.obs.rgb = ["agentview_image"]
    config.observation.encoder.rgb.core_kwargs.update(
        {"rgb_model_name": "resnet18", "pretrained_encoder": False, "emb_dim": 8, "crop_shape": [28, 28]}
    )
    config.algo.network_kwargs.hidden_dims = [32]
    config.algo.update(algo)
    config.train.seq_length = config.algo.horizon
    config.train.frame_stack = config.algo.obs_steps
    return config


def make_policy(config=None, shapes=OBS_SHAPES):
    """The algo robomimic builds for `config`, on the CPU."""
    config = config or make_config()
    ObsUtils.initialize_obs_utils_with_config(config)
    return algo_factory("fbc_frozen", config, dict(shapes), ACTION_DIM, torch.device("cpu"))


def make_batch(policy, size: int = 4) -> dict[str, Any]:
    """A batch as the algo's train_on_batch takes it, of random content."""
    frames = policy.algo_config.obs_steps - 1 + policy.algo_config.horizon
    raw = {
        "obs": {
            "agentview_image": torch.randint(0, 255, (size, frames, 32, 32, 3), dtype=torch.uint8),
            "robot0_eef_pos": torch.randn(size, frames, 3),
        },
        "actions": torch.rand(size, frames, ACTION_DIM) * 2 - 1,
    }
    return policy.postprocess_batch_for_training(policy.process_batch_for_training(raw), None)


def make_obs(policy, size: int = 1) -> dict[str, torch.Tensor]:
    """What a rollout hands to get_action."""
    steps = policy.algo_config.obs_steps
    lead = (size,) if steps == 1 else (size, steps)
    return {key: torch.rand(*lead, *shape) for key, shape in OBS_SHAPES.items()}
