"""`robomimic-frozen study`."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from robomimic_frozen.commands.arguments import add_executor_flags, executor_of
from robomimic_frozen.errors import ConfigError


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "study", help="compare configurations: training, rollouts, report",
        description="Train and roll out every configuration of a study file with every number of demonstrations and every seed, "
        "each within the same budget; then write OUT/report.html. What is done already, with the same code and data, is not done again.",
    )
    parser.add_argument("plan", type=Path, metavar="FILE", help="what to compare, in YAML or JSON (see docs/studies.md)")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder for results (%(default)s)")
    add_executor_flags(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.executors.processes import ThisProcess
    from robomimic_frozen.plugins import register
    from robomimic_frozen.preflight import check_output_dir

    register()
    from robomimic_frozen.study.plan import read_plan
    from robomimic_frozen.study.report import write_report
    from robomimic_frozen.study.study import run_study
    from robomimic_frozen.study.training import StudyError

    check_output_dir(arguments.out)
    try:
        with executor_of(arguments) as executor:
            if arguments.executor == "local":
                # One run at a time, so that each has the machine for itself.
                run_study(read_plan(arguments.plan), arguments.out, ThisProcess(), executor.workers)
            else:
                run_study(read_plan(arguments.plan), arguments.out, executor, executor.threads or 1)
    except StudyError:
        with contextlib.suppress(ConfigError):  # none is finished
            print(write_report(arguments.out, with_films=True))
        raise
    print(write_report(arguments.out, with_films=True))
