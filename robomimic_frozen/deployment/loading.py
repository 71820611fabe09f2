"""`load_policy`: from a checkpoint to what acts. Neither robosuite nor MuJoCo is imported for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import robomimic.utils.file_utils as FileUtils
import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.torch_utils as TorchUtils
import torch

from robomimic_frozen.deployment.asynchronous import AsynchronousPolicy
from robomimic_frozen.deployment.policy import Policy
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.integration.registration import register
from robomimic_frozen.policies.checkpoints import find_checkpoint, loadable, read_checkpoint

_SETTING: Final = "load_policy"


def load_policy(place: str | Path, device: str | None = None, overlap: str | None = None) -> Policy | AsynchronousPolicy:
    """Load what acts from a checkpoint of robomimic, of this package's algorithms or its own.

    Args:
        place: path or URL of a checkpoint, folder of a run for its newest one, or `hf://OWNER/NAME` for what `robomimic-frozen push`
            has shared on the Hugging Face hub.
        device: of torch, such as 'cuda:1'; None for a GPU where there is one.
        overlap: 'blend' or 'skip' for a policy that computes chunks ahead, and what it does where two of them overlap; None for one that
            computes a chunk when it is needed.

    Raises:
        ConfigError: it is no checkpoint, or of an algorithm that is made of several policies; or with `overlap`, of another than
            `fbc_frozen`, or conditioned on goals.
        RemoteFileError: it cannot be fetched.
        WeightsError: frozen weights that it refers to cannot be had here.
    """
    register()
    checkpoint = loadable(read_checkpoint(find_checkpoint(place, _SETTING), _SETTING), f"checkpoint {place}")
    config, _ = FileUtils.config_from_checkpoint(ckpt_dict=checkpoint)
    if "modalities" not in config.observation:
        parts = ", ".join(config.observation)
        raise ConfigError(f"checkpoint {place} is made of several policies ({parts}); roll it out with robomimic's run_trained_agent.py")
    chosen = TorchUtils.get_torch_device(try_to_use_cuda=True) if device is None else torch.device(device)
    earlier = dict(ObsUtils.OBS_KEYS_TO_MODALITIES or {})  # of policies that were loaded before, which robomimic would forget
    policy = Policy(FileUtils.policy_from_checkpoint(ckpt_dict=checkpoint, device=chosen)[0])
    for key in earlier.keys() - ObsUtils.OBS_KEYS_TO_MODALITIES.keys():
        ObsUtils.OBS_KEYS_TO_MODALITIES[key] = earlier[key]
    return policy if overlap is None else AsynchronousPolicy(policy, overlap)
