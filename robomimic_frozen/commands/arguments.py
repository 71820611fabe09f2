"""What the command lines of several commands share."""

from __future__ import annotations

import argparse
import contextlib
import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from robomimic_frozen.errors import ConfigError

if TYPE_CHECKING:
    from robomimic_frozen.executors.executor import Executor

# Flags and their defaults.
_OF_RAY_ONLY: Final = {"ray_address": None, "worker_cpus": 1.0, "worker_gpus": 0.0, "worker_memory": 0.0}

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


def add_executor_flags(parser: argparse.ArgumentParser, in_this_process: bool = False) -> None:
    """Args: in_this_process: whether the work is done without workers unless the user says how many."""
    default = "none but this process" if in_this_process else "one for each core"
    parser.add_argument("--workers", type=int, help=f"how many at once ({default}; with Ray, as many as there is room for)")
    parser.add_argument("--executor", choices=("local", "ray"), default="local", help="processes of this machine, or Ray (%(default)s)")
    parser.add_argument("--ray-address", metavar="HOST:PORT", help="of a running cluster, or 'auto' (a cluster of this machine)")
    parser.add_argument("--worker-cpus", type=float, help="with Ray: CPUs of each worker (%(default)s)")
    parser.add_argument("--worker-gpus", type=float, help="with Ray: GPUs of each worker (%(default)s)")
    parser.add_argument("--worker-memory", type=float, metavar="GB", help="with Ray: memory reserved for each worker")
    parser.set_defaults(in_this_process=in_this_process, **_OF_RAY_ONLY)


@contextlib.contextmanager
def executor_of(arguments: argparse.Namespace) -> Iterator[Executor]:
    """The one that the flags of `add_executor_flags` ask for. Raises ConfigError."""
    check_at_least_one(arguments, "workers")
    if arguments.executor == "ray":
        from robomimic_frozen.executors.ray_cluster import RayCluster

        resources = arguments.worker_cpus, arguments.worker_gpus, arguments.worker_memory
        with ThreadPoolExecutor(1) as meanwhile:
            # A cluster of this machine starts in other processes; every command needs this next, and waits as long for it.
            meanwhile.submit(importlib.import_module, "torchvision")
            cluster = RayCluster(arguments.workers, arguments.ray_address, *resources)
        with contextlib.closing(cluster):
            yield cluster
        return
    from robomimic_frozen.executors.processes import Processes, ThisProcess, usable_cores

    for name, default in _OF_RAY_ONLY.items():
        if getattr(arguments, name) != default:
            raise ConfigError(f"--{name.replace('_', '-')} is of use with --executor ray only; add that, or leave it out")
    if arguments.workers is None and arguments.in_this_process:
        yield ThisProcess()
    else:
        yield Processes(arguments.workers or usable_cores())
