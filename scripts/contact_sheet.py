"""A picture of demonstrations, and how long they are: the first, middle and last frame of one of each file, by all its cameras.

    python scripts/contact_sheet.py lift.hdf5 can.hdf5 square.hdf5 --out docs/images/demos.png
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import h5py
import imageio.v3 as imageio
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", help="HDF5 files of robomimic-frozen demos, with images of one size")
    parser.add_argument("--demo", default="demo_0", help="which to show (%(default)s)")
    parser.add_argument("--out", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    rows = []
    for path in arguments.files:
        with h5py.File(path) as file:
            rows.append(row_of(file["data"][arguments.demo]))
            print(f"\n{path}: demonstrations, steps of each (mean, range) by operator")
            for operator, steps in sorted(steps_by_operator(file["data"]).items()):
                print(f"{operator:12}{len(steps):4}  {np.mean(steps):6.1f}  {min(steps)}-{max(steps)}")
    if arguments.out:
        imageio.imwrite(arguments.out, np.concatenate(rows))


def row_of(demo: h5py.Group) -> np.ndarray:
    """[H, W, 3]: camera after camera, and of each the first, the middle and the last frame."""
    images = [demo["obs"][key] for key in sorted(demo["obs"]) if key.endswith("_image")]
    return np.concatenate([camera[step] for camera in images for step in (0, len(camera) // 2, len(camera) - 1)], axis=1)


def steps_by_operator(data: h5py.Group) -> dict[str, list[int]]:
    steps = defaultdict(list)
    for demo in data.values():
        for name in (demo.attrs["operator"], "all"):
            steps[name].append(int(demo.attrs["num_samples"]))
    return steps


if __name__ == "__main__":
    main()
