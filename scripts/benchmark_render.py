"""Seconds that `robomimic-frozen data` and robomimic's own dataset_states_to_obs.py take to render the same raw file.

Both commands are timed whole, starting up included, one after the other on an idle machine; then every array and attribute of the two
files is compared. Without a raw file, one is made of scripted Lift demonstrations.

    python scripts/benchmark_render.py --demos 20
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

CAMERAS = ("agentview", "robot0_eye_in_hand")
COMMAND = (sys.executable, "-m", "robomimic_frozen.cli")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, nargs="?", help="raw HDF5 file of one-armed demonstrations")
    parser.add_argument("--demos", type=int, default=20, help="demonstrations of the raw file that is made (%(default)s)")
    parser.add_argument("--image-size", type=int, default=84)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    from robomimic_frozen.simulation.gl import select_gl_backend

    select_gl_backend()  # for robomimic's script, too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = (arguments.raw or make_raw_file(folder, arguments.demos)).absolute()
        with h5py.File(raw) as file:
            images = len(CAMERAS) * sum(len(demo["states"]) for demo in file["data"].values())
        size = str(arguments.image_size)
        ours = timed(*COMMAND, "data", raw, "--out", folder / "ours.hdf5", "--cameras", *CAMERAS, "--image-size", size,
                     "--workers", arguments.workers)
        # It writes beside the raw file, wherever that is.
        stock = timed(sys.executable, "-m", "robomimic.scripts.dataset_states_to_obs", "--dataset", raw, "--output_name",
                      os.path.relpath(folder / "stock.hdf5", raw.parent), "--done_mode", "2", "--exclude-next-obs",
                      "--camera_names", *CAMERAS, "--camera_height", size, "--camera_width", size)  # fmt: skip
        print(f"robomimic's dataset_states_to_obs.py {stock:7.1f} s  {images / stock:6.1f} images/s")
        print(f"robomimic-frozen data                {ours:7.1f} s  {images / ours:6.1f} images/s")
        print(f"ratio                                {stock / ours:7.2f}")
        compare(contents(folder / "stock.hdf5"), contents(folder / "ours.hdf5"))


def make_raw_file(folder: Path, demos: int) -> Path:
    """Make scripted demonstrations, and a copy without their observations."""
    made, raw = folder / "made.hdf5", folder / "raw.hdf5"
    timed(*COMMAND, "demos", "--out", made, "--num", demos, "--image-size", "8")
    with h5py.File(made) as source, h5py.File(raw, "w") as file:
        file.create_group("data").attrs.update(source["data"].attrs)
        for name, demo in source["data"].items():
            copy = file["data"].create_group(name)
            copy.attrs.update(demo.attrs)
            copy["states"], copy["actions"] = demo["states"][()], demo["actions"][()]
        source.copy("mask", file)
    return raw


def timed(*command: object) -> float:
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return time.perf_counter() - start


def contents(path: Path) -> dict[str, Any]:
    """Return every array and attribute of an HDF5 file, by its path, but for the device that rendered, which `data` does not write."""
    found: dict[str, Any] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        found.update({f"{name}@{key}": value for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    found["data@env_args"] = json.loads(found["data@env_args"])
    found["data@env_args"]["env_kwargs"].pop("render_gpu_device_id", None)
    return found


def compare(stock: dict[str, Any], ours: dict[str, Any]) -> None:
    """Exit with 1 unless they are the same bit for bit."""
    different = sorted(stock.keys() ^ ours.keys())
    different += [name for name in stock.keys() & ours.keys() if not np.array_equal(stock[name], ours[name])]
    images = sum(len(values) for name, values in stock.items() if name.endswith("_image"))
    print(f"equal bit for bit                    {len(stock) - len(different)} of {len(stock)} arrays and attributes, {images} images")
    if different:
        sys.exit(f"not equal: {', '.join(different[:5])}")


if __name__ == "__main__":
    main()
