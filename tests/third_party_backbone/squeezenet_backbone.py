"""A backbone of your own: this module, and the entry point in pyproject.toml."""

from pathlib import Path

import torch
import torchvision.models

from robomimic_frozen.encoders import Backbone
from robomimic_frozen.plugins import hookimpl


def build():
    return torchvision.models.squeezenet1_1().features


def fetch_weights():
    return Path(torch.hub.get_dir(), "checkpoints", "squeezenet_features.pth")  # of build().state_dict()


@hookimpl
def frozen_backbones():
    stages = {"fire4": slice(0, 6), "fire8": slice(6, 12), "fire9": slice(12, None)}
    return [Backbone("squeezenet", build, fetch_weights, tuple(stages), lambda network: [network[s] for s in stages.values()])]
