"""`robomimic-frozen plot`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "plot", help="loss and success curves of training runs", description="Draw the loss and the success rate of any robomimic "
        "runs, of its own algorithms, too, from their TensorBoard logs.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of several")
    parser.add_argument("--out", type=Path, default=Path("runs/curves.png"), help="picture to write: .png, .svg or .pdf (%(default)s)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.evaluation.curves import plot_histories
    from robomimic_frozen.evaluation.history import read_histories
    from robomimic_frozen.preflight import check_output_dir

    check_output_dir(arguments.out.parent)
    plot_histories(read_histories(arguments.runs), arguments.out)
    print(arguments.out)
