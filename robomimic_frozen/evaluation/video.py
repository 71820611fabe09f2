"""Videos of episodes, with a caption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import imageio
import numpy as np

from robomimic_frozen.files import complete_or_absent

FRAMES_PER_SECOND = 20
_CAPTION_HEIGHT = 24


def write_video(path: Path, frames: Sequence[np.ndarray], caption: str) -> None:
    """Frames [H, W, 3] uint8, above a line of text, as an mp4 file that appears when it is complete."""
    line = np.zeros((_CAPTION_HEIGHT, frames[0].shape[1], 3), np.uint8)
    cv2.putText(line, caption, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    with complete_or_absent(path) as beside:
        imageio.mimwrite(beside, [np.concatenate([frame, line]) for frame in frames], fps=FRAMES_PER_SECOND, macro_block_size=8)
