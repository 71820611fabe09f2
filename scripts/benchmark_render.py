"""Seconds that `robomimic-frozen data` and robomimic's own scripts take to render the same raw file.

The commands are timed whole, starting up included, one after the other on an idle machine; then every array and attribute of our file and
of that of dataset_states_to_obs.py is compared. Where robomimic has a script for several processes (on its master branch), it is timed with
as many as ours, and observations are compared. Without a raw file, one is made of scripted Lift demonstrations.

    python scripts/benchmark_render.py --demos 20
"""

from __future__ import annotations

import argparse
import importlib.util
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
PARALLEL = "robomimic.scripts.dataset_states_to_obs_mp"
# At revision d309eae it calls functions that its repository does not have, and `extract_trajectory` in a way that this is not written for.
RUN_PARALLEL = f"""
import runpy
import robomimic.macros as macros, robomimic.scripts.dataset_states_to_obs as serial, robomimic.utils.env_utils as env_utils
for name in ("is_simpler_env", "is_simpler_ov_env", "is_factory_env", "is_furniture_sim_env"):
    vars(env_utils).setdefault(name, lambda env_meta: False)
vars(macros).setdefault("SLACK_TOKEN", None)
extract = serial.extract_trajectory
def extract_trajectory(use_actions, actions_abs, **arguments):
    trajectory, cameras = extract(actions_abs=actions_abs, **arguments)
    return {{"actions_abs": actions_abs, **trajectory}}, True, cameras
serial.extract_trajectory = extract_trajectory
runpy.run_module("{PARALLEL}", run_name="__main__", alter_sys=True)
"""


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
        # They write beside the raw file, wherever that is.
        def arguments_of(out: str) -> tuple[object, ...]:
            return ("--dataset", raw, "--output_name", os.path.relpath(folder / out, raw.parent), "--done_mode", "2", "--exclude-next-obs",
                    "--camera_names", *CAMERAS, "--camera_height", size, "--camera_width", size)  # fmt: skip

        stock = timed(sys.executable, "-m", "robomimic.scripts.dataset_states_to_obs", *arguments_of("stock.hdf5"))
        print(f"robomimic's dataset_states_to_obs.py {stock:7.1f} s  {images / stock:6.1f} images/s")
        print(f"robomimic-frozen data                {ours:7.1f} s  {images / ours:6.1f} images/s")
        print(f"ratio                                {stock / ours:7.2f}")
        compare(contents(folder / "stock.hdf5"), contents(folder / "ours.hdf5"))
        if importlib.util.find_spec(PARALLEL) is not None:
            several = ("--num_procs", arguments.workers)
            parallel = timed(sys.executable, "-c", RUN_PARALLEL, *arguments_of("parallel.hdf5"), *several)
            print(f"dataset_states_to_obs_mp.py, {arguments.workers} processes {parallel:5.1f} s  {images / parallel:6.1f} images/s")
            print(f"ratio                                {parallel / ours:7.2f}")
            compare(observations(folder / "parallel.hdf5"), observations(folder / "ours.hdf5"))


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
            copy["actions_abs"] = demo["actions"][()]  # which robomimic's script for several processes cannot do without
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


def observations(path: Path) -> dict[str, Any]:
    """Return every observation of an HDF5 file, by its path."""
    return {name: value for name, value in contents(path).items() if "/obs/" in name}


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
