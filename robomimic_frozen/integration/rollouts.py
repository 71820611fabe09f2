"""Runs robomimic's own run_trained_agent.py in this process."""

from __future__ import annotations

import argparse
import contextlib
import json
import runpy
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import robomimic.utils.file_utils as FileUtils
from robomimic.config import config_factory

from robomimic_frozen.integration.environments import check_can_be_rolled_out, check_observations
from robomimic_frozen.integration.settings import apply_overrides
from robomimic_frozen.policies.checkpoints import loadable, read_checkpoint
from robomimic_frozen.simulation.environments import ROBOSUITE_TYPE
from robomimic_frozen.simulation.gl import select_gl_backend
from robomimic_frozen.simulation.tasks import seeded_robosuite


def with_overrides(checkpoint: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return the content of a checkpoint with 'KEY.PATH=VALUE' applied to its config. Raises ConfigError if one does not fit."""
    if not overrides:
        return checkpoint
    config = config_factory(checkpoint["algo_name"], dic=json.loads(checkpoint["config"]))
    apply_overrides(config, overrides)
    return {**checkpoint, "config": config.dump()}


def roll_out_stock(arguments: list[str], overrides: list[str]) -> None:
    """Roll out a checkpoint with robomimic's `scripts/run_trained_agent.py`, given its command line.

    Raises:
        ConfigError: the checkpoint is missing or unreadable, an override does not fit its config, or its environment gives the policy
            something else than it was trained on.
        RenderingError: no working OpenGL.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--seed", type=int)
    known, _ = parser.parse_known_args(arguments)
    checkpoint = loadable(read_checkpoint(known.agent, "--agent"), f"checkpoint {known.agent}")
    select_gl_backend()
    make_env = FileUtils.env_from_checkpoint

    def load_and_override(ckpt_path: str) -> dict[str, Any]:
        changed = with_overrides(checkpoint, overrides)
        check_can_be_rolled_out(known.agent, changed)
        return changed

    def make_fitting_env(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        env, content = make_env(*args, **kwargs)
        if content["env_metadata"]["type"] == ROBOSUITE_TYPE:
            check_observations(known.agent, env, content["shape_metadata"]["all_shapes"], "its env_metadata")
        return env, content

    with (
        mock.patch.object(FileUtils, "load_dict_from_checkpoint", load_and_override),
        mock.patch.object(FileUtils, "env_from_checkpoint", make_fitting_env),
        seeded_robosuite(known.seed) if known.seed is not None else contextlib.nullcontext(),
        mock.patch.object(sys, "argv", ["run_trained_agent.py", *arguments]),
    ):
        runpy.run_module("robomimic.scripts.run_trained_agent", run_name="__main__")
