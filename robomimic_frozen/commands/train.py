"""`robomimic-frozen train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from robomimic_frozen.commands.arguments import add_config_flags
from robomimic_frozen.errors import ConfigError


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train", allow_abbrev=False, help="robomimic's train.py, with --set and an honest exit status",
        description="Run robomimic's scripts/train.py. Relative paths are relative to the current folder, existing runs "
        "are kept, and the exit status is 1 when the run failed.",
    )
    add_config_flags(parser)
    parser.add_argument("--name", help="name of the experiment")
    parser.add_argument("--debug", action="store_true", help="a few steps only, to see whether it runs")
    parser.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with an interrupted run, after its last epoch")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.launch import train

    if arguments.resume and (arguments.config or arguments.algo or arguments.name or arguments.dataset):
        raise ConfigError("--resume takes its config from the run; leave out --config, --algo, --name and --dataset")
    train(
        arguments.config, arguments.algo, arguments.name, arguments.dataset, arguments.debug, arguments.set, arguments.resume
    )
