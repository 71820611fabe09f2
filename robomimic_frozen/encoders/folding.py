"""Folds the BatchNorm of frozen stages into the convolutions before it: the same function in less time."""

from __future__ import annotations

import logging
import weakref

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

from robomimic_frozen.errors import first_line

logger = logging.getLogger(__name__)

# Of each frozen stage in use, what is computed in its place; None for a stage that is left as it is.
_folded: weakref.WeakKeyDictionary[nn.Module, nn.Module | None] = weakref.WeakKeyDictionary()


def folded(stage: nn.Module) -> nn.Module:
    """Return a stage that gives the same maps sooner, made once, or `stage` itself where it has no BatchNorm.

    The stage must be in eval mode, and nobody may write to it from here on. Where torch.fx cannot follow its code, it is used as it is.
    """
    if stage not in _folded:
        _folded[stage] = _fold(stage)
    made = _folded[stage]
    return stage if made is None else made


def _fold(stage: nn.Module) -> nn.Module | None:
    if not any(type(module) is nn.BatchNorm2d for module in stage.modules()):
        return None
    try:
        return fuse(stage).to(memory_format=torch.channels_last)  # the order in which convolutions are fastest
    except Exception as error:  # what its code raises when it is given no tensor
        logger.info("a stage is used with its BatchNorm, for it cannot be folded (%s)", first_line(error))
        return None
