"""Small fbc_frozen policies and batches for the tests."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Mapping
from typing import Any

import robomimic.utils.obs_utils as ObsUtils
import torch
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from torch import nn

import robomimic_frozen
from robomimic_frozen import plugins
from robomimic_frozen.encoders import Backbone

OBS_SHAPES = {"agentview_image": (3, 32, 32), "robot0_eef_pos": (3,)}
CAMERAS = {"camera_names": ["agentview"], "camera_heights": 32, "camera_widths": 32}
ACTION_DIM = 7
STAGES = ("layer1", "layer2", "layer3", "layer4")


def _small_network() -> nn.Sequential:
    """Stages named as a ResNet's, with BatchNorm in each, and a thousandth of the parameters."""
    widths = (3, 8, 16, 16, 24)
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            for before, after in itertools.pairwise(widths)
        )
    )


class SmallBackbone:
    """A plugin with the backbone 'small': what these tests are about does not depend on the size of a network."""

    backbone = Backbone("small", _small_network, fetch_weights=None, stages=STAGES, split=list)

    @plugins.hookimpl
    def frozen_backbones(self):
        return [self.backbone]


def make_config(**algo: Any):
    """A config for OBS_SHAPES on a small random encoder; `algo` changes keys of its algo section."""
    robomimic_frozen.register()
    if not plugins.plugin_manager().has_plugin("small"):
        plugins.plugin_manager().register(SmallBackbone(), name="small")
    config = config_factory("fbc_frozen")
    config.observation.modalities.obs.low_dim = ["robot0_eef_pos"]
    config.observation.modalities.obs.rgb = ["agentview_image"]
    config.observation.encoder.rgb.core_kwargs.update(
        {"rgb_model_name": "small", "pretrained_encoder": False, "emb_dim": 8, "augment": "crops", "crop_shape": [28, 28]}
    )
    config.algo.network_kwargs.hidden_dims = [32]
    # There is no dataset to take statistics of.
    config.algo.obs_normalization = config.train.action_config["actions"]["normalization"] = None
    config.algo.update(algo)
    config.train.seq_length = config.algo.horizon
    config.train.frame_stack = config.algo.obs_steps
    return config


def change_settings(config, changes: Mapping[str, Any]) -> None:
    """Set what these paths with two underlines, as 'train__batch_size', stand for."""
    for path, value in changes.items():
        change_setting(config, path, value, "__")


def change_setting(config, path: str, value: Any, between: str = ".") -> None:
    """Set what a path such as 'train.batch_size' stands for."""
    *parents, key = path.split(between)
    functools.reduce(operator.getitem, parents, config)[key] = value


def make_policy(config=None, shapes=OBS_SHAPES, device="cpu"):
    """The algo robomimic builds for `config`."""
    config = config or make_config()
    ObsUtils.initialize_obs_utils_with_config(config)
    return algo_factory("fbc_frozen", config, dict(shapes), ACTION_DIM, torch.device(device))


def make_batch(policy, size: int = 4, features: bool = False) -> dict[str, Any]:
    """A batch as the algo's train_on_batch takes it, of random content: of images, or of what is cached of them."""
    frames = policy.algo_config.obs_steps - 1 + policy.algo_config.horizon
    if features:
        images = torch.rand(size, frames, policy._backbones[0].frozen_dim, 1, 1).half()
    else:
        images = torch.randint(0, 255, (size, frames, 32, 32, 3), dtype=torch.uint8)
    raw = {
        "obs": {
            "agentview_image": images,
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
