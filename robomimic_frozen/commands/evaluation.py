"""`robomimic-frozen eval`, and what it is with --agent: robomimic's own script."""

from __future__ import annotations

import argparse
from pathlib import Path

from robomimic_frozen.commands.arguments import SET_HELP, add_executor_flags, check_at_least_one, executor_of


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "eval", allow_abbrev=False, help="parallel rollouts of checkpoints, all from the same seeds",
        description="Roll out checkpoints from the same seeds, in parallel, rendering only what the policies look at. An "
        "interrupted evaluation goes on where it stopped. With --agent CKPT it is robomimic's scripts/run_trained_agent.py, and "
        "every flag of that works (--n_rollouts N, --horizon H, --video_path FILE, ...), besides --set KEY.PATH=VALUE.",
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CKPT", help="a checkpoint, also by URL, or the folder of a run for all of its")
    parser.add_argument("--episodes", type=int, default=50, help="of each checkpoint (%(default)s)")
    parser.add_argument("--horizon", type=int, help="steps of an episode (as the checkpoint's config says)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; the next has the next (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/eval"), help="folder for results (%(default)s)")
    parser.add_argument("--videos", type=int, default=0, help="how many episodes of each to record (%(default)s)")
    add_executor_flags(parser)
    parser.set_defaults(run=_run)


def add_stock(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("eval", allow_abbrev=False, add_help=False)
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help=SET_HELP)
    parser.set_defaults(run=_run_stock)


def _run(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.executors.staging import StagingFirst
    from robomimic_frozen.preflight import check_output_dir
    from robomimic_frozen.storage import local_path

    check_at_least_one(arguments, "episodes")
    check_output_dir(arguments.out)
    checkpoints = [local_path(checkpoint) for checkpoint in arguments.checkpoints]
    with executor_of(arguments) as executor:
        from robomimic_frozen.evaluation.evaluate import evaluate
        from robomimic_frozen.evaluation.statistics import as_table

        executor = StagingFirst(executor, arguments.checkpoints)
        summaries = evaluate(checkpoints, arguments.episodes, arguments.horizon, executor, arguments.seed, arguments.out, arguments.videos)
    print(as_table(summaries))


def _run_stock(arguments: argparse.Namespace, rest: list[str]) -> None:
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.launch import evaluate

    evaluate(rest, arguments.set)
