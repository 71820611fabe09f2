"""Small datasets in robomimic's format, for tests that damage or render them."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

STEPS = 4
IMAGE, POSITION = "agentview_image", "robot0_eef_pos"


def write_dataset(path: Path, demos: int = 3, size: int = 8) -> Path:
    """Write demos of four steps with one camera of 8x8 pixels, the last of them in `valid`, the others in `train`."""
    rng = np.random.default_rng(0)
    env_kwargs = {"camera_names": ["agentview"], "camera_heights": size, "camera_widths": size}
    env_args = {"env_name": "Lift", "env_version": importlib.metadata.version("robosuite"), "type": 1, "env_kwargs": env_kwargs}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["total"] = demos * STEPS
        for index in range(demos):
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = STEPS
            demo["actions"] = rng.uniform(-1, 1, (STEPS, 7))
            demo["states"] = rng.normal(size=(STEPS, 5))
            demo["rewards"] = np.zeros(STEPS)
            demo["dones"] = np.zeros(STEPS, dtype=int)
            demo[f"obs/{IMAGE}"] = rng.integers(0, 256, (STEPS, size, size, 3), dtype=np.uint8)
            demo[f"obs/{POSITION}"] = rng.normal(size=(STEPS, 3))
        names = np.array([f"demo_{index}" for index in range(demos)], dtype="S")
        file["mask/train"], file["mask/valid"] = names[:-1], names[-1:]
    return path


def write_raw_file(dataset: Path, path: Path, demos: Sequence[str], steps: int) -> None:
    """Write what robomimic calls a raw file: the last steps of demos of a dataset, without their observations."""
    with h5py.File(dataset) as source, h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update(source["data"].attrs)
        for name in demos:
            demo = data.create_group(name)
            demo.attrs["model_file"] = source["data"][name].attrs["model_file"]
            for key in ("actions", "states"):
                demo[key] = source["data"][name][key][-steps:]
