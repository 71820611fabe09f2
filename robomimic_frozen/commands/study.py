"""`robomimic-frozen study`."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

from robomimic_frozen.commands.arguments import check_at_least_one
from robomimic_frozen.errors import ConfigError


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "study", help="compare configurations: training, rollouts, report",
        description="Train and roll out every configuration of a study file with every number of demonstrations and every seed, "
        "each within the same budget; then write OUT/report.html. What is done already, with the same code and data, is not done again.",
    )
    parser.add_argument("plan", type=Path, metavar="FILE", help="what to compare, in YAML or JSON (see docs/studies.md)")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder for results (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that roll out (all cores)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.plugins import register
    from robomimic_frozen.preflight import check_output_dir

    register()
    from robomimic_frozen.study.plan import read_plan
    from robomimic_frozen.study.report import write_report
    from robomimic_frozen.study.study import run_study
    from robomimic_frozen.study.training import StudyError

    check_at_least_one(arguments, "workers")
    check_output_dir(arguments.out)
    try:
        run_study(read_plan(arguments.plan), arguments.out, arguments.workers)
    except StudyError:
        with contextlib.suppress(ConfigError):  # none is finished
            print(write_report(arguments.out, with_films=True))
        raise
    print(write_report(arguments.out, with_films=True))
