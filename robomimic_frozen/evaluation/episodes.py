"""One episode at a time: a checkpoint's policy in its environment, from a seed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import robomimic.utils.file_utils as FileUtils
import robomimic.utils.torch_utils as TorchUtils
import torch

from robomimic_frozen.cameras import CameraGate
from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.evaluation.statistics import Episode
from robomimic_frozen.renderer import KeptRenderer

VIDEO_SIZE = 256


class Rollouts:
    """The policy and the environment of a checkpoint.

    Args:
        checkpoint: a robomimic checkpoint.

    Raises:
        ConfigError: its environment cannot be made here, or lacks a camera that the policy needs.
    """

    def __init__(self, checkpoint: Path) -> None:
        device = TorchUtils.get_torch_device(try_to_use_cuda=True)
        self.policy, content = FileUtils.policy_from_checkpoint(ckpt_path=str(checkpoint), device=device)
        try:
            self.env, _ = FileUtils.env_from_checkpoint(ckpt_dict=content)
        except (ImportError, ValueError, TypeError, AttributeError, KeyError) as error:
            name = content["env_metadata"].get("env_name")
            raise ConfigError(
                f"{checkpoint}: its environment {name!r} cannot be made here ({type(error).__name__}: {first_line(error)}); "
                "install what it was trained with"
            ) from error
        self._robosuite = getattr(self.env, "unwrapped", self.env).env
        self._gate, self._renderer = CameraGate(self._robosuite), KeptRenderer()
        self._has_renderer = self._robosuite.has_offscreen_renderer
        self._check_cameras(checkpoint)

    def _check_cameras(self, checkpoint: Path) -> None:
        missing = [key for key in self.policy.policy.obs_shapes if key.endswith("_image") and key not in self._robosuite._observables]
        if missing:
            raise ConfigError(
                f"{checkpoint}: the policy looks at {', '.join(missing)}, which its environment does not give; "
                f"its cameras are {', '.join(self._robosuite.camera_names)}"
            )

    def run(self, seed: int, horizon: int, frames: list[np.ndarray] | None = None) -> Episode:
        """The episode that robomimic's `rollout` gives first in an environment made with this seed.

        Args:
            horizon: the number of steps after which it has failed.
            frames: a list to put an image of each step into, for a video.
        """
        start = time.perf_counter()
        obs = self._start(seed)
        steps, total_reward, success, done = 0, 0.0, False, False
        while steps < horizon and not success and not done:
            action = self.policy(ob=obs)
            self._gate.is_open = getattr(self.policy.policy, "reads_next_observation", True)
            obs, reward, done, _ = self.env.step(action)
            steps, total_reward, success = steps + 1, total_reward + float(reward), bool(self.env.is_success()["task"])
            if frames is not None:
                camera = self._robosuite.camera_names[0]
                frames.append(self.env.render("rgb_array", height=VIDEO_SIZE, width=VIDEO_SIZE, camera_name=camera))
        return Episode(seed, success, steps, total_reward, time.perf_counter() - start)

    def _start(self, seed: int) -> dict[str, Any]:
        """The first observation of an environment that was made with this seed just now."""
        self.policy.start_episode()
        env = self._robosuite
        # robosuite draws from one generator, which its samplers hold, too.
        env.rng.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        with self._gate.closed():
            env.reset()  # draws what the constructor draws
            for name, observable in env._observables.items():
                env.modify_observable(name, "enabled", observable.is_enabled())  # which sets its clock to 0
                observable._sampled = False
            torch.manual_seed(seed)
            np.random.seed(seed)
            self.env.reset()
            state = self.env.get_state()
            with self._only_the_last_observation():
                return self.env.reset_to(state)

    @contextlib.contextmanager
    def _only_the_last_observation(self) -> Iterator[None]:
        """Within it the renderer is made with the last simulation, and cameras render when its state has been set, not before."""
        base, env = getattr(self.env, "unwrapped", self.env), self._robosuite
        get_observation, reset_from_xml_string = base.get_observation, env.reset_from_xml_string

        def gated_observation(di: Any = None) -> dict[str, Any]:
            self._gate.is_open = di is None
            return get_observation(di)

        def reset_with_renderer(xml: str) -> None:
            env.has_offscreen_renderer = self._has_renderer
            with self._renderer.in_use():
                reset_from_xml_string(xml)

        with (
            mock.patch.object(base, "get_observation", gated_observation),
            mock.patch.object(env, "reset_from_xml_string", reset_with_renderer),
        ):
            yield
