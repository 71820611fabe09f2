"""What the extraction of many frames costs, from what was measured on one machine.

    python scripts/scaling_costs.py --images-per-second-and-core 120 --hash-mb-per-second 900

Prints a table in Markdown. Derived from these two measurements (`scripts/benchmark_executors.py` makes them), sizes that follow from the
shapes, and prices that are assumptions: change them to yours.
"""

from __future__ import annotations

import argparse

SECONDS_PER_HOUR = 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images-per-second-and-core", type=float, required=True, help="measured: of extraction, crops counted")
    parser.add_argument("--hash-mb-per-second", type=float, required=True, help="measured: reading and hashing by the one that asks")
    parser.add_argument("--image-size", type=int, default=84)
    parser.add_argument("--crops", type=int, default=8, help="cached random crops of each frame, besides the central one")
    parser.add_argument("--feature-dim", type=int, default=512)
    parser.add_argument("--cores", type=int, nargs="+", default=[2, 64, 1024])
    parser.add_argument("--frames", type=float, nargs="+", default=[1e6, 1e8, 1e10])
    parser.add_argument("--dollars-per-core-hour", type=float, default=0.04)
    parser.add_argument("--dollars-per-gb-month", type=float, default=0.023)
    arguments = parser.parse_args()

    variants = 1 + arguments.crops
    read = 3 * arguments.image_size**2
    written = variants * arguments.feature_dim * 2
    print(f"A frame is {read:,} bytes to read and {written:,} bytes of features ({variants} crops of {arguments.feature_dim} float16).\n")
    hours = " | ".join(f"hours on {cores} cores" for cores in arguments.cores)
    print(f"| frames | dataset | cache | core hours | dollars | cache, dollars a month | {hours} | hours of hashing |")
    print("|" + "---|" * (7 + len(arguments.cores)))
    for frames in arguments.frames:
        core_hours = frames * variants / arguments.images_per_second_and_core / SECONDS_PER_HOUR
        gigabytes = frames * written / 1e9
        hours = " | ".join(f"{core_hours / cores:,.1f}" for cores in arguments.cores)
        hashing = frames * read / 1e6 / arguments.hash_mb_per_second / SECONDS_PER_HOUR
        dollars = f"{core_hours * arguments.dollars_per_core_hour:,.2f} | {gigabytes * arguments.dollars_per_gb_month:,.2f}"
        sizes = f"{frames * read / 1e9:,.0f} GB | {gigabytes:,.0f} GB"
        print(f"| {frames:.0e} | {sizes} | {core_hours:,.0f} | {dollars} | {hours} | {hashing:,.2f} |")


if __name__ == "__main__":
    main()
