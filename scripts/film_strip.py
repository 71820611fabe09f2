"""Frames of a rollout video side by side: python scripts/film_strip.py runs/quickstart/rollouts.mp4 docs/images/rollout.png"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio.v3 as iio
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--frames", type=int, nargs="+", default=[0, 2, 4, 6, 7], help="numbers of the frames shown")
    arguments = parser.parse_args()
    video = iio.imread(arguments.video)
    strip = np.concatenate([np.concatenate(np.split(video[frame], 2, axis=1)) for frame in arguments.frames], axis=1)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(arguments.picture, strip[::3, ::3])


if __name__ == "__main__":
    main()
