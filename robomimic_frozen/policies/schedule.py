"""Learning-rate schedule."""

from __future__ import annotations

import math


def warmup_cosine(step: int, progress: float, warmup_steps: int) -> float:
    """Factor on the initial learning rate: linear over the first `warmup_steps` steps, then half a cosine to 0.

    Args:
        step: gradient steps taken so far.
        progress: the part of the whole training that is over, in [0, 1].
    """
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    return warmup * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
