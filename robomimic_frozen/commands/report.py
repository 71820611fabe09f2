"""`robomimic-frozen report`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report", help="write the report of a study again",
        description="Write report.html and the figures of a study, finished or not, from the results in its folder.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="--out of robomimic-frozen study")
    parser.add_argument("--no-films", action="store_true", help="without pictures of episodes, which are rolled out again for them")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.study.report import write_report

    print(write_report(arguments.folder, not arguments.no_films))
