"""Videos of episodes, with a caption."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import imageio
import numpy as np

FRAMES_PER_SECOND = 20
_CAPTION_HEIGHT = 24


def encode_video(frames: Sequence[np.ndarray], caption: str) -> bytes:
    """Frames [H, W, 3] uint8, above a line of text, as the content of an mp4 file."""
    line = np.zeros((_CAPTION_HEIGHT, frames[0].shape[1], 3), np.uint8)
    cv2.putText(line, caption, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    captioned = [np.concatenate([frame, line]) for frame in frames]
    # What imageio says of its types leaves out that a format may be a name.
    return imageio.mimwrite("<bytes>", captioned, format="mp4", fps=FRAMES_PER_SECOND, macro_block_size=8)  # type: ignore[call-overload]
