"""`robomimic-frozen quickstart`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "quickstart", help="demonstrations -> training -> rollouts on Lift, in minutes",
        description="Make scripted Lift demonstrations, train a policy on frozen ImageNet features with robomimic's own "
        "train.py, roll it out with robomimic's own run_trained_agent.py, and sum up in OUT/summary.json.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), help="folder for all results (%(default)s)")
    parser.add_argument("--demos", type=int, default=24, help="demonstrations to train on (%(default)s)")
    parser.add_argument("--rollouts", type=int, default=10, help="rollouts to judge the policy by (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of demonstrations and training (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that make demonstrations")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.quickstart import quickstart

    quickstart(arguments.out, arguments.demos, arguments.rollouts, arguments.seed, arguments.workers)
