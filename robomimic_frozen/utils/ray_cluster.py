"""Tasks on a Ray cluster (https://docs.ray.io), one that runs already or one of this machine."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.utils.machine import PACKAGES
from robomimic_frozen.utils.parallel import Call, WorkerDiedError, quiet_worker, worker_state

# Of these, what this process has set is set for workers as well.
_ENVIRONMENT: Final = ("MUJOCO_GL", "LP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "TORCH_HOME")
_GIB: Final = 2**30


class RayCluster:
    """An Executor whose tasks are those of Ray.

    Args:
        workers: how many at once; None for as many as the cluster has room for.
        address: of a running cluster; None for what RAY_ADDRESS says, and to start one of this machine where it says nothing.
        cpus, gpus, memory_gb: what each worker takes of its node.

    Raises:
        ConfigError: Ray is not installed, the cluster does not answer or has another version of Ray or Python, one of its nodes lacks
            a package or has another version, or no node has room for a worker.
    """

    def __init__(
        self, workers: int | None = None, address: str | None = None, cpus: float = 1, gpus: float = 0, memory_gb: float = 0
    ) -> None:
        self._ray = _import_ray()
        self._joined_by_others = self._ray.is_initialized()
        address = address or os.environ.get("RAY_ADDRESS", "local")
        _connect(self._ray, address)
        self._resources = {"num_cpus": cpus, "num_gpus": gpus, "memory": int(memory_gb * _GIB)}
        try:
            nodes = [node for node in self._ray.nodes() if node["Alive"]]
            room = _room(nodes, {"CPU": cpus, "GPU": gpus, "memory": memory_gb * _GIB})
            if address != "local":
                _check_nodes(self._ray, nodes)
        except ConfigError:
            self.close()
            raise
        self.workers, self.threads = min(workers or room, room), max(1, int(cpus))

    @contextlib.contextmanager
    def session(self) -> Iterator[Call]:
        ray = self._ray
        # Not as Ray's runtime_env: no process that it has started beforehand would serve.
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        task = ray.remote(_run).options(**self._resources, max_retries=1)  # which the caller's come on top of
        owed: set[Any] = set()

        def call(function: Callable[[Any], Any], item: Any) -> Any:
            promised = task.remote(ray.cloudpickle.dumps((function, item)), str(Path.cwd()), environment)
            owed.add(promised)
            try:
                return ray.get(promised)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from error
            except ray.exceptions.RayError as error:  # the worker, its node or its answer is gone
                raise WorkerDiedError(f"a worker of the Ray cluster died ({first_line(error)})") from error
            finally:
                owed.discard(promised)

        try:
            yield call
        finally:
            for promised in list(owed):
                ray.cancel(promised, force=True)

    def close(self) -> None:
        """Leave the cluster, unless this process had joined it before; one that was started here ends."""
        if not self._joined_by_others:
            self._ray.shutdown()


def _run(task: bytes, folder: str, environment: Mapping[str, str]) -> Any:
    """Compute a task in a worker. It comes packed, so that nothing is imported before the environment is set."""
    from ray import cloudpickle

    os.environ.update(environment)
    if Path(folder).is_dir():  # where relative paths lead to the same files
        os.chdir(folder)
    with quiet_worker():
        function, item = cloudpickle.loads(task)
        try:
            return function(item)
        except BaseException:
            worker_state.cache_clear()  # whatever state it is in
            raise


def _import_ray() -> Any:
    # For a cluster of this machine; one that runs already has its own settings.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")  # who asked for no GPU sees none
    os.environ.setdefault("RAY_worker_niceness", "0")  # nothing else here is as urgent
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--executor ray needs Ray: pip install 'robomimic_frozen[ray]'") from error
    return ray


def _connect(ray: Any, address: str) -> None:
    try:
        if ":" in address:  # HOST:PORT, at which Ray itself would try for minutes
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, TimeoutError and others
        reason = f"the Ray cluster {address} cannot be used ({first_line(error)})"
        raise ConfigError(f"{reason}; check that it is up and has the same versions of Ray and Python") from error


def _room(nodes: Sequence[Mapping[str, Any]], wanted: Mapping[str, float]) -> int:
    """Return how many workers, each of which takes what is `wanted` of one node, the nodes have room for. Raises ConfigError if none."""
    room = 0
    for node in nodes:
        parts = (node["Resources"].get(name, 0) / amount for name, amount in wanted.items() if amount)
        room += int(min(parts, default=os.cpu_count() or 1))
    if room == 0:
        asked = f"{wanted['CPU']:g} CPUs, {wanted['GPU']:g} GPUs and {wanted['memory'] / _GIB:g} GB"
        raise ConfigError(f"no node of the Ray cluster has {asked} for a worker; ask for less, or add one")
    return room


def _check_nodes(ray: Any, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError unless every node has the packages of this process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Within a function, which travels as code: a node without this package could not import it.
    def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
        import importlib.metadata

        found: dict[str, str | None] = dict.fromkeys(packages)
        for package in packages:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(package)
        if found["robomimic_frozen"] is not None:
            from robomimic_frozen.utils.machine import code_version

            found["robomimic_frozen"] += f" of {code_version()}"
        return found

    ours = versions(PACKAGES)
    ask = ray.remote(num_cpus=0)(versions)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[node["NodeManagerAddress"]] = ask.options(scheduling_strategy=there).remote(PACKAGES)
    for address, answer in asked.items():
        try:
            theirs = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise ConfigError(f"Ray node {address} cannot run a task ({first_line(error)}); remove or repair it") from error
        for package in PACKAGES:
            if theirs[package] != ours[package]:
                has = f"has {package} {theirs[package]}" if theirs[package] else f"lacks {package}"
                raise ConfigError(f"Ray node {address} {has}; install there what is here, {package} {ours[package]}")
