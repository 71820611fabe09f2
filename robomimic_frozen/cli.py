"""The `robomimic-frozen` command. Only the chosen subcommand loads torch or robomimic, and no `--help` does."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from robomimic_frozen.errors import ConfigError, RobomimicFrozenError

_SET_HELP = "change one setting of the config; VALUE is JSON or a plain string; repeatable"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; 0 on success, 1 after an error, which is printed as one line."""
    words = sys.argv[1:] if argv is None else list(argv)
    # With robomimic's own --agent, `eval` has robomimic's own flags.
    stock_eval = any(word.partition("=")[0] == "--agent" for word in words)
    parser = _parser(stock_eval)
    arguments, rest = parser.parse_known_args(words)
    if rest and not stock_eval:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        arguments.run(arguments, rest)
    except RobomimicFrozenError as error:
        print(f"robomimic-frozen {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"robomimic-frozen {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser(stock_eval: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robomimic-frozen", description="Behaviour cloning on frozen image encoders, with robomimic.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_quickstart(commands)
    _add_demos(commands)
    _add_train(commands)
    (_add_stock_eval if stock_eval else _add_eval)(commands)
    _add_plot(commands)
    _add_study(commands)
    _add_report(commands)
    _add_precompute(commands)
    _add_cache(commands)
    _add_info(commands)
    return parser


def _add_quickstart(commands: argparse._SubParsersAction) -> None:
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
    parser.set_defaults(run=_quickstart)


def _add_demos(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demos", help="scripted Lift demonstrations as a robomimic dataset",
        description="Make a robomimic HDF5 file of successful Lift demonstrations by scripted operators of different skill.",
    )
    parser.add_argument("--out", type=Path, default=Path("lift_demos.hdf5"), help="file to write (%(default)s)")
    parser.add_argument("--num", type=int, default=60, help="demonstrations (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same file (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="parallel processes (all cores)")
    parser.add_argument("--image-size", type=int, default=84, help="height and width of images in pixels (%(default)s)")
    parser.add_argument("--next-obs", action="store_true", help="also store next_obs, which offline RL needs")
    parser.set_defaults(run=_demos)


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train", allow_abbrev=False, help="robomimic's train.py, with --set and an honest exit status",
        description="Run robomimic's scripts/train.py. Relative paths are relative to the current folder, existing runs "
        "are kept, and the exit status is 1 when the run failed.",
    )
    _add_config_flags(parser)
    parser.add_argument("--name", help="name of the experiment")
    parser.add_argument("--debug", action="store_true", help="a few steps only, to see whether it runs")
    parser.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with an interrupted run, after its last epoch")
    parser.set_defaults(run=_train)


def _add_config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="config JSON (the defaults of --algo when omitted)")
    parser.add_argument("--algo", help="algorithm, when there is no --config (fbc_frozen)")
    parser.add_argument("--dataset", help="HDF5 dataset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help=_SET_HELP)


def _add_eval(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "eval", allow_abbrev=False, help="parallel rollouts of checkpoints, all from the same seeds",
        description="Roll out checkpoints from the same seeds, in parallel, rendering only what the policies look at. An "
        "interrupted evaluation goes on where it stopped. With --agent CKPT it is robomimic's scripts/run_trained_agent.py, and "
        "every flag of that works (--n_rollouts N, --horizon H, --video_path FILE, ...), besides --set KEY.PATH=VALUE.",
    )
    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CKPT", help="a checkpoint, or the folder of a run for all of its")
    parser.add_argument("--episodes", type=int, default=50, help="of each checkpoint (%(default)s)")
    parser.add_argument("--horizon", type=int, help="steps of an episode (as the checkpoint's config says)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="parallel processes (all cores)")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode; the next has the next (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/eval"), help="folder for results (%(default)s)")
    parser.add_argument("--videos", type=int, default=0, help="how many episodes of each to record (%(default)s)")
    parser.set_defaults(run=_eval)


def _add_stock_eval(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("eval", allow_abbrev=False, add_help=False)
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help=_SET_HELP)
    parser.set_defaults(run=_stock_eval)


def _add_plot(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "plot", help="loss and success curves of training runs", description="Draw the loss and the success rate of any robomimic "
        "runs, of its own algorithms, too, from their TensorBoard logs.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or of several")
    parser.add_argument("--out", type=Path, default=Path("runs/curves.png"), help="picture to write: .png, .svg or .pdf (%(default)s)")
    parser.set_defaults(run=_plot)


def _add_study(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "study", help="compare configurations: training, rollouts, report",
        description="Train and roll out every configuration of a study file with every number of demonstrations and every seed, "
        "each within the same budget; then write OUT/report.html. What is done already, with the same code and data, is not done again.",
    )
    parser.add_argument("plan", type=Path, metavar="FILE", help="what to compare, in YAML or JSON (see docs/studies.md)")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder for results (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that roll out (all cores)")
    parser.set_defaults(run=_study)


def _add_report(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "report", help="write the report of a study again",
        description="Write report.html and the figures of a study, finished or not, from the results in its folder.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="--out of robomimic-frozen study")
    parser.add_argument("--no-films", action="store_true", help="without pictures of episodes, which are rolled out again for them")
    parser.set_defaults(run=_report)


def _add_precompute(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "precompute", allow_abbrev=False, help="extract the cached features ahead of training",
        description="Extract the features that training with this config would extract first. An interrupted extraction "
        "goes on where it stopped.",
    )
    _add_config_flags(parser)
    parser.set_defaults(run=_precompute)


def _add_cache(commands: argparse._SubParsersAction) -> None:
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
        action.add_argument("--dir", type=Path, help="folder of the caches (~/.cache/robomimic_frozen)")
        action.set_defaults(run=_cache)


def _add_info(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "info", help="what a checkpoint holds", description="Algorithm, dataset, parameters and backbone of a checkpoint."
    )
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument("--config", action="store_true", help="print the whole config of its run as JSON instead")
    parser.set_defaults(run=_info)


def _quickstart(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.quickstart import quickstart

    quickstart(arguments.out, arguments.demos, arguments.rollouts, arguments.seed, arguments.workers)


def _demos(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen import compat
    from robomimic_frozen.data import generate_demos

    compat.select_gl_backend()
    summary = generate_demos(
        arguments.out, num_demos=arguments.num, seed=arguments.seed, workers=arguments.workers,
        image_size=arguments.image_size, next_obs=arguments.next_obs,
    )
    print(f"{summary.path}: {summary.num_demos} demonstrations, {summary.num_frames} frames")


def _train(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.launch import train

    if arguments.resume and (arguments.config or arguments.algo or arguments.name or arguments.dataset):
        raise ConfigError("--resume takes its config from the run; leave out --config, --algo, --name and --dataset")
    train(
        arguments.config, arguments.algo, arguments.name, arguments.dataset, arguments.debug, arguments.set, arguments.resume
    )


def _precompute(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.launch import precompute

    precompute(arguments.config, arguments.algo, arguments.dataset, arguments.set)


def _cache(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.features import inventory

    if arguments.action == "list":
        inventory.print_entries(arguments.dir)
    elif arguments.action == "verify":
        inventory.print_verification(arguments.dir, arguments.dataset)
    else:
        inventory.print_pruned(arguments.dir, arguments.unused_days, arguments.dry_run)


def _info(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.info import checkpoint_config, describe_checkpoint

    if arguments.config:
        print(checkpoint_config(arguments.checkpoint))
        return
    for name, value in describe_checkpoint(arguments.checkpoint):
        print(f"{name:24}{value}")


def _plot(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.evaluation.curves import plot_histories
    from robomimic_frozen.evaluation.history import read_histories
    from robomimic_frozen.preflight import check_output_dir

    check_output_dir(arguments.out.parent)
    plot_histories(read_histories(arguments.runs), arguments.out)
    print(arguments.out)


def _study(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.plugins import register
    from robomimic_frozen.preflight import check_output_dir

    register()
    from robomimic_frozen.study.plan import read_plan
    from robomimic_frozen.study.report import write_report
    from robomimic_frozen.study.study import run_study
    from robomimic_frozen.study.training import StudyError

    _check_at_least_one(arguments, "workers")
    check_output_dir(arguments.out)
    try:
        run_study(read_plan(arguments.plan), arguments.out, arguments.workers)
    except StudyError:
        with contextlib.suppress(ConfigError):  # none is finished
            print(write_report(arguments.out, with_films=True))
        raise
    print(write_report(arguments.out, with_films=True))


def _report(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.study.report import write_report

    print(write_report(arguments.folder, not arguments.no_films))


def _check_at_least_one(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} is {getattr(arguments, name)}; choose 1 or more")


def _eval(arguments: argparse.Namespace, _: list[str]) -> None:
    from robomimic_frozen.evaluation.evaluate import evaluate
    from robomimic_frozen.evaluation.statistics import as_table
    from robomimic_frozen.preflight import check_output_dir

    _check_at_least_one(arguments, "episodes", "workers")
    check_output_dir(arguments.out)
    summaries = evaluate(
        arguments.checkpoints, arguments.episodes, arguments.horizon, arguments.workers, arguments.seed, arguments.out,
        arguments.videos,
    )
    print(as_table(summaries))


def _stock_eval(arguments: argparse.Namespace, rest: list[str]) -> None:
    from robomimic_frozen.plugins import register

    register()
    from robomimic_frozen.launch import evaluate

    evaluate(rest, arguments.set)


if __name__ == "__main__":
    sys.exit(main())
