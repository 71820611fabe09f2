"""One episode at a time: a checkpoint's policy in its environment, from a seed, and a video of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import imageio
import numpy as np
import robomimic.utils.file_utils as FileUtils
import robomimic.utils.torch_utils as TorchUtils

from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.integration.environments import check_can_be_rolled_out, check_observations
from robomimic_frozen.integration.rollouts import with_overrides
from robomimic_frozen.policies.checkpoints import loadable, read_checkpoint
from robomimic_frozen.simulation.cameras import SeededResets

VIDEO_SIZE: Final = 256
FRAMES_PER_SECOND: Final = 20
_CAPTION_HEIGHT: Final = 24


@dataclass(frozen=True)
class Episode:
    """How an episode went."""

    seed: int  # of the environment and of the policy's random numbers
    success: bool
    steps: int
    total_reward: float
    seconds: float  # of the reset, too


class Rollouts:
    """The policy and the environment of a checkpoint, with 'KEY.PATH=VALUE' applied to its config.

    Raises:
        ConfigError: such a setting does not fit, or its environment cannot be made here, or gives the policy something else than it was
            trained on.
    """

    def __init__(self, checkpoint: Path, overrides: Sequence[str] = ()) -> None:
        device = TorchUtils.get_torch_device(try_to_use_cuda=True)
        content = with_overrides(loadable(read_checkpoint(checkpoint, "CKPT"), f"checkpoint {checkpoint}"), overrides)
        self.policy, _ = FileUtils.policy_from_checkpoint(ckpt_dict=content, device=device)
        check_can_be_rolled_out(str(checkpoint), content)
        try:
            self.env, _ = FileUtils.env_from_checkpoint(ckpt_dict=content)
        except (ImportError, ValueError, TypeError, AttributeError, KeyError) as error:
            name = content["env_metadata"].get("env_name")
            raise ConfigError(
                f"{checkpoint}: its environment {name!r} cannot be made here ({type(error).__name__}: {first_line(error)}); "
                "install what it was trained with"
            ) from error
        self._robosuite = getattr(self.env, "unwrapped", self.env).env
        check_observations(str(checkpoint), self.env, content["shape_metadata"]["all_shapes"], "its env_metadata")
        self._resets = SeededResets(self.env)

    def run(self, seed: int, horizon: int, frames: list[np.ndarray] | None = None) -> Episode:
        """Return the episode that robomimic's `rollout` gives first in an environment made with this seed.

        Args:
            horizon: the number of steps after which it has failed.
            frames: a list to put an image of each step into, for a video.
        """
        start = time.perf_counter()
        self.policy.start_episode()
        obs = self._resets.start(seed)
        steps, total_reward, success, done = 0, 0.0, False, False
        while steps < horizon and not success and not done:
            action = self.policy(ob=obs)
            self._resets.gate.is_open = getattr(self.policy.policy, "reads_next_observation", True)
            obs, reward, done, _ = self.env.step(action)
            steps, total_reward, success = steps + 1, total_reward + float(reward), bool(self.env.is_success()["task"])
            if frames is not None:
                camera = self._robosuite.camera_names[0]
                frames.append(self.env.render("rgb_array", height=VIDEO_SIZE, width=VIDEO_SIZE, camera_name=camera))
        return Episode(seed, success, steps, total_reward, time.perf_counter() - start)


def encode_video(frames: Sequence[np.ndarray], caption: str) -> bytes:
    """Return the content of an mp4 file that shows these frames [H, W, 3] uint8 above a line of text."""
    line = np.zeros((_CAPTION_HEIGHT, frames[0].shape[1], 3), np.uint8)
    cv2.putText(line, caption, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    captioned = [np.concatenate([frame, line]) for frame in frames]
    # What imageio says of its types leaves out that a format may be a name.
    return imageio.mimwrite("<bytes>", captioned, format="mp4", fps=FRAMES_PER_SECOND, macro_block_size=8)  # type: ignore[call-overload]
