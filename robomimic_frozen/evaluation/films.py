"""An episode as a picture: some of its frames side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import imageio.v3 as iio
import numpy as np

from robomimic_frozen.evaluation.evaluate import evaluate, recorded_episode
from robomimic_frozen.utils.files import atomic_write
from robomimic_frozen.utils.parallel import Processes

_FRAMES: Final = 6
_HEIGHT: Final = 128  # of a frame, at least


def film_strip(checkpoint: Path, episode: Mapping[str, Any], out: Path) -> Path:
    """Return a JPEG of frames of an episode, as `finished_episodes` gives it; where `out` has no video of it, it is rolled out for one."""
    evaluate([checkpoint], 1, episode["horizon"], Processes(1), episode["seed"], out, num_videos=1)
    video = recorded_episode(checkpoint, episode["horizon"], episode["seed"], out)
    strip = video.with_suffix(".jpg")
    if not strip.exists():
        frames = iio.imread(video)
        chosen = frames[np.linspace(0, len(frames) - 1, _FRAMES).round().astype(int)]
        smaller = max(1, round(chosen.shape[1] / _HEIGHT))
        with atomic_write(strip) as beside:
            iio.imwrite(beside, np.concatenate(list(chosen), axis=1)[::smaller, ::smaller])
    return strip
