"""`robomimic-frozen precompute`."""

from __future__ import annotations

import argparse

from robomimic_frozen.commands.arguments import add_config_flags, add_executor_flags, executor_of


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "precompute", allow_abbrev=False, help="extract the cached features ahead of training",
        description="Extract the features that training with this config would extract first. An interrupted extraction "
        "goes on where it stopped.",
    )
    add_config_flags(parser)
    add_executor_flags(parser, in_this_process=True)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    with executor_of(arguments) as executor:
        from robomimic_frozen.plugins import register

        register()
        from robomimic_frozen.launch import precompute

        precompute(arguments.config, arguments.algo, arguments.dataset, arguments.set, executor)
