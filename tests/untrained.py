"""Untrained policies to roll out: what they do is as reproducible as what trained ones do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import robomimic.utils.file_utils as FileUtils
import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.train_utils as TrainUtils
import torch
from robomimic.algo import algo_factory
from robomimic.config import config_factory
from robomimic_versions import shape_metadata

import robomimic_frozen
from robomimic_frozen.simulation.gl import select_gl_backend

HORIZON = 10  # more than the 8 steps of a chunk


def write_untrained_checkpoint(dataset: Path, path: Path, obs_steps: int = 1, **env_kwargs: Any) -> Path:
    """In robomimic's format, for the environment of a dataset but for these `env_kwargs`."""
    robomimic_frozen.register()
    select_gl_backend()
    config = config_factory("fbc_frozen")
    config.train.cuda = False
    config.train.data = str(dataset)
    config.observation.encoder.rgb.core_kwargs.rgb_model_name = "efficientnet_lite0"
    config.algo.obs_steps = config.train.frame_stack = obs_steps
    ObsUtils.initialize_obs_utils_with_config(config)
    shape_meta = shape_metadata(dataset, config)
    env_meta = FileUtils.get_env_metadata_from_dataset(str(dataset))
    env_meta["env_kwargs"].update(env_kwargs)
    torch.manual_seed(0)
    model = algo_factory("fbc_frozen", config, shape_meta["all_shapes"], shape_meta["ac_dim"], torch.device("cpu"))
    TrainUtils.save_model(model, config, env_meta, shape_meta, str(path))
    return path


def without_times(folder: Path) -> dict[Path, Any]:
    """The episodes that an evaluation has written there, but for how long they took."""
    results = {}
    for file in folder.rglob("seed_*.json"):
        episode = json.loads(file.read_text())
        assert episode.pop("seconds") > 0
        results[file.relative_to(folder)] = episode
    return results
