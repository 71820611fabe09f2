"""`robomimic-frozen demos`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demos", help="scripted Lift demonstrations as a robomimic dataset",
        description="Make a robomimic HDF5 file of successful Lift demonstrations by scripted operators of different skill.",
    )
    parser.add_argument("--out", type=Path, default=Path("lift_demos.hdf5"), help="file to write (%(default)s)")
    parser.add_argument("--num", type=int, default=60, help="demonstrations (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same file (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="parallel processes (all cores)")
    parser.add_argument("--image-size", type=int, default=84, help="height and width of images in pixels (%(default)s)")
    parser.add_argument("--next-obs", action="store_true", help="also store next_obs, which offline RL needs")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen import compat
    from robomimic_frozen.data import generate_demos
    from robomimic_frozen.preflight import check_output_dir

    check_output_dir(arguments.out.parent)
    compat.select_gl_backend()
    summary = generate_demos(
        arguments.out, num_demos=arguments.num, seed=arguments.seed, workers=arguments.workers,
        image_size=arguments.image_size, next_obs=arguments.next_obs,
    )
    print(f"{summary.path}: {summary.num_demos} demonstrations, {summary.num_frames} frames")
