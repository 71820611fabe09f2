"""The `robomimic-frozen` command. Only the chosen subcommand loads torch or robomimic, and no `--help` does."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from robomimic_frozen.commands import cache, data, demos, doctor, evaluation, info, plot, precompute, quickstart, report, study, train
from robomimic_frozen.errors import RobomimicFrozenError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; 0 or what it returns on success, 1 after an error, which is printed as one line."""
    words = sys.argv[1:] if argv is None else list(argv)
    # With robomimic's own --agent, `eval` has robomimic's own flags.
    stock_eval = any(word.partition("=")[0] == "--agent" for word in words)
    parser = _parser(stock_eval)
    arguments, rest = parser.parse_known_args(words)
    if rest and not stock_eval:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        return arguments.run(arguments, rest) or 0
    except RobomimicFrozenError as error:
        print(f"robomimic-frozen {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"robomimic-frozen {arguments.command}: interrupted", file=sys.stderr)
        return 130


def _parser(stock_eval: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robomimic-frozen", description="Behaviour cloning on frozen image encoders, with robomimic.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    quickstart.add(commands)
    demos.add(commands)
    data.add(commands)
    train.add(commands)
    (evaluation.add_stock if stock_eval else evaluation.add)(commands)
    plot.add(commands)
    study.add(commands)
    report.add(commands)
    precompute.add(commands)
    cache.add(commands)
    info.add(commands)
    doctor.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
