"""Videos of episodes, decoded and encoded with PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from robomimic_frozen.errors import DatasetError, first_line

# A frame belongs to a time that is no further from it, as a part of the time between two frames.
_NEAR: Final = 0.25
# How far the average rate of a file may be from what it was made with, for files that LeRobot joined.
_RATE_TOLERANCE: Final = 0.01

# On 84x84 images of Lift and Can the mean absolute error is 1.0 levels of 255 at 1.7 kB per frame; what LeRobot records with, libsvtav1
# with crf 30 and yuv420p, has 2.8 at 0.8 kB (scripts/benchmark_codecs.py, docs/datasets.md). Colour in full resolution also takes images
# of odd size, and a key frame at every other one, as LeRobot has them, lets any frame be read fast.
_PIXELS: Final = "yuv444p"
_OPTIONS: Final = {"crf": "10", "g": "2", "bf": "0"}


class VideoError(DatasetError):
    """A video does not show what the metadata of its set say; the message has neither a place nor a remedy."""


def frames_at(path: Path, start: float, times: Iterable[float], fps: float) -> Iterator[np.ndarray]:
    """Yield the frames [H, W, 3] uint8 of a video `times` seconds after `start`, which ascend.

    Raises:
        VideoError: it does not decode, runs at another rate than `fps`, or has no frame at one of the times.
    """
    awaited, near = iter(times), _NEAR / fps
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 0)
            if abs(rate - fps) > _RATE_TOLERANCE * fps:
                raise VideoError(f"runs at {rate:g} frames per second, and its set at {fps:g}")
            container.seek(int(start * av.time_base))
            time = next(awaited, None)
            for frame in container.decode(stream):
                if time is None:
                    return
                if frame.is_corrupt or frame.time is None:
                    raise VideoError(f"is damaged {start + time:.3f} s after its start")
                if frame.time > start + time + near:
                    break
                if frame.time >= start + time - near:
                    yield frame.to_ndarray(format="rgb24")
                    time = next(awaited, None)
    except (av.FFmpegError, IndexError) as error:  # IndexError: no video in it
        raise VideoError(f"does not decode ({first_line(error)})") from error
    if time is not None:
        raise VideoError(f"has no frame {start + time:.3f} s after its start")


def encode(images: np.ndarray, fps: int) -> bytes:
    """Return an mp4 file of images [T, H, W, 3] uint8."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options=_OPTIONS)
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], _PIXELS
        stream.thread_count = 1  # there are other workers
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def description(height: int, width: int, fps: int) -> dict[str, Any]:
    """Return what LeRobot notes in info.json of such videos."""
    return {
        "video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": _PIXELS, "video.is_depth_map": False,
        "video.fps": fps, "video.channels": 3, "has_audio": False,
    }  # fmt: skip
