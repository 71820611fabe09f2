"""The parser of the `robomimic-frozen` command, the flags that several of its commands share, and what --executor asks for."""

from __future__ import annotations

import contextlib
import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.utils.machine import usable_cores
from robomimic_frozen.utils.parallel import Executor, Processes, ThisProcess

Flag = tuple[str, dict[str, Any]]
Run = Callable[[Namespace], "int | None"]

_DESCRIPTION: Final = "Behaviour cloning on frozen image encoders, with robomimic."
PARSER: Final = ArgumentParser("robomimic-frozen", description=_DESCRIPTION, allow_abbrev=False)
COMMANDS: Final = PARSER.add_subparsers(dest="command", required=True, metavar="COMMAND")


def command(name: str, help: str, description: str | None, *flags: Flag, among: Any = COMMANDS, **options: Any) -> Callable[[Run], Run]:
    """Make one of the commands `among` of the decorated function; `options` are of its ArgumentParser."""
    parser = among.add_parser(name, help=help, description=description, **options)
    for flag_name, settings in flags:
        parser.add_argument(flag_name, **settings)

    def register(run: Run) -> Run:
        parser.set_defaults(run=run)
        return run

    return register


def flag(name: str, help: str, default: Any = None, **options: Any) -> Flag:
    """Return a flag that takes a value of the type of its default; a switch if that is False."""
    if default is False:
        options["action"] = "store_true"
    elif default is not None:
        options.setdefault("type", type(default))
    return name, {"help": help, "default": default, **options}


_SET_HELP: Final = "change one setting of the config; VALUE is JSON or a plain string; repeatable"
SET: Final[Flag] = "--set", {"help": _SET_HELP, "action": "append", "default": [], "metavar": "KEY.PATH=VALUE"}
CONFIG: Final = (
    flag("--config", "config JSON (the defaults of --algo when omitted)"),
    flag("--algo", "algorithm, when there is no --config (fbc_frozen)"),
    flag("--dataset", "HDF5 dataset"),
    SET,
)
TASK: Final = flag("--task", "lift, can, square, or a task of a plugin (%(default)s)", "lift")
NEXT_OBS: Final = flag("--next-obs", "also store next_obs, which offline RL needs", False)
_OF_RAY_ONLY: Final = (
    flag("--ray-address", "of a running cluster, or 'auto' (a cluster of this machine)", metavar="HOST:PORT"),
    flag("--worker-cpus", "with Ray: CPUs of each worker (%(default)s)", 1.0),
    flag("--worker-gpus", "with Ray: GPUs of each worker (%(default)s)", 0.0),
    flag("--worker-memory", "with Ray: memory reserved for each worker", 0.0, metavar="GB"),
)


def executor_flags(without_workers: str = "one for each core") -> tuple[Flag, ...]:
    """Return the flags that say where tasks are computed, and how many at once."""
    how_many = f"how many at once ({without_workers}; with Ray, as many as there is room for)"
    where = "processes of this machine, or Ray (%(default)s)"
    return flag("--workers", how_many, type=int), flag("--executor", where, "local", choices=("local", "ray")), *_OF_RAY_ONLY


@contextlib.contextmanager
def executor_of(arguments: Namespace, in_this_process: bool = False) -> Iterator[Executor]:
    """Give the executor that `executor_flags` ask for; without --workers that is none for `in_this_process`. Raises ConfigError."""
    require_positive(arguments, "workers")
    if arguments.executor == "ray":
        from robomimic_frozen.utils.ray_cluster import RayCluster

        resources = arguments.worker_cpus, arguments.worker_gpus, arguments.worker_memory
        with ThreadPoolExecutor(1) as meanwhile:
            # A cluster of this machine starts in other processes; every command needs this next, and waits as long for it.
            meanwhile.submit(importlib.import_module, "torchvision")
            cluster = RayCluster(arguments.workers, arguments.ray_address, *resources)
        with contextlib.closing(cluster):
            yield cluster
        return
    for name, settings in _OF_RAY_ONLY:
        if getattr(arguments, name.removeprefix("--").replace("-", "_")) != settings["default"]:
            raise ConfigError(f"{name} is of use with --executor ray only; add that, or leave it out")
    yield ThisProcess() if in_this_process and arguments.workers is None else Processes(arguments.workers or usable_cores())


def require_positive(arguments: Namespace, *names: str) -> None:
    """Raise ConfigError if one of these flags is given and less than 1."""
    for name in names:
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {value}; choose 1 or more")


def refuse(arguments: Namespace, why: str, *names: str) -> None:
    """Raise ConfigError if one of these flags is given, which says why it should not be."""
    for name in names:
        if getattr(arguments, name):
            raise ConfigError(f"--{name.replace('_', '-')} {why}; leave it out")
