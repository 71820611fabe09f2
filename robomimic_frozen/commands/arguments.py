"""What the command lines of several commands share."""

from __future__ import annotations

import argparse

from robomimic_frozen.errors import ConfigError

SET_HELP = "change one setting of the config; VALUE is JSON or a plain string; repeatable"


def add_config_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="config JSON (the defaults of --algo when omitted)")
    parser.add_argument("--algo", help="algorithm, when there is no --config (fbc_frozen)")
    parser.add_argument("--dataset", help="HDF5 dataset")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help=SET_HELP)


def check_at_least_one(arguments: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; choose 1 or more")
