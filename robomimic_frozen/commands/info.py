"""`robomimic-frozen info`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "info", help="what a checkpoint holds", description="Algorithm, dataset, parameters and backbone of a checkpoint."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument("--config", action="store_true", help="print the whole config of its run as JSON instead")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.info import checkpoint_config, describe_checkpoint

    if arguments.config:
        print(checkpoint_config(arguments.checkpoint))
        return
    for name, value in describe_checkpoint(arguments.checkpoint):
        print(f"{name:24}{value}")
