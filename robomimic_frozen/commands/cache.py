"""`robomimic-frozen cache`."""

from __future__ import annotations

import argparse
from pathlib import Path

from robomimic_frozen.errors import ConfigError


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "cache", help="list, verify or prune the cached features", description="What lies in the feature cache."
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="size, age and purpose of each cache")
    verification = actions.add_parser("verify", help="check the checksums, extract a sample again and compare")
    verification.add_argument("--dataset", type=Path, help="the HDF5 file, if it was moved since")
    pruning = actions.add_parser("prune", help="remove what is unfinished or damaged")
    pruning.add_argument("--unused-days", type=float, metavar="DAYS", help="also what was not used for so long; 0 for all")
    pruning.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    for action in (listing, verification, pruning):
        action.add_argument("--dir", help="folder of the caches, or for list their URL (~/.cache/robomimic_frozen)")
        action.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.features import inventory
    from robomimic_frozen.storage import is_url

    if arguments.action != "list" and arguments.dir is not None and is_url(arguments.dir):
        raise ConfigError(f"{arguments.dir} is a URL, of which caches are only listed; {arguments.action} a folder that has copies of them")
    if arguments.action == "list":
        inventory.print_entries(arguments.dir)
    elif arguments.action == "verify":
        inventory.print_verification(arguments.dir, arguments.dataset)
    else:
        inventory.print_pruned(arguments.dir, arguments.unused_days, arguments.dry_run)
