"""Workers that are actors of a Ray cluster (https://docs.ray.io), one that runs already or one of this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from robomimic_frozen.errors import ConfigError, first_line
from robomimic_frozen.executors.executor import Build, Failure, WorkerDiedError, quiet_worker

# Of these, what this process has set is set for workers as well.
_ENVIRONMENT: Final = ("MUJOCO_GL", "LP_NUM_THREADS", "HF_HOME", "HF_HUB_OFFLINE", "TORCH_HOME")
# Workers compute what this process would, if these and the code of this package are the same.
_PACKAGES: Final = ("robomimic_frozen", "robomimic", "robosuite", "mujoco", "torch", "torchvision", "numpy", "h5py")
_GIB: Final = 2**30


class RayCluster:
    """An Executor on Ray. What builds a worker lies in the object store once for each node.

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
            room = _room(self._ray.nodes(), {"CPU": cpus, "GPU": gpus, "memory": memory_gb * _GIB})
            if address != "local":
                _check_nodes(self._ray)
        except ConfigError:
            self.close()
            raise
        self.workers = min(workers or room, room)
        self.threads = max(1, int(cpus))
        self._build: tuple[Build | None, Any] = None, None
        self._actor = self._ray.remote(_Actor)

    def start(self, build: Build) -> _Remote:
        if self._build[0] is not build:
            self._build = build, self._ray.put(build)
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        # Not as Ray's runtime_env: no process that it has started beforehand would serve. In a list Ray leaves the build alone.
        return _Remote(self._ray, self._actor.options(**self._resources).remote([self._build[1]], str(Path.cwd()), environment))

    def wait(self, workers: Collection[_Remote]) -> _Remote:
        by_answer = {worker.promised: worker for worker in workers}
        (answered,), _ = self._ray.wait(list(by_answer), num_returns=1)
        return by_answer[answered]

    def end(self, workers: Collection[_Remote]) -> None:
        for worker in workers:
            self._ray.kill(worker.actor)

    def close(self) -> None:
        """Leave the cluster, unless this process had joined it before; one that was started here ends."""
        if not self._joined_by_others:
            self._ray.shutdown()


class _Remote:
    """An actor as its caller sees it.

    Attributes:
        promised: Ray's reference to the answer that it owes.
    """

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self.actor = ray, actor
        self.promised = actor.get_ready.remote()

    def ask(self, index: int) -> None:
        self.promised = self.actor.compute.remote(index)

    def answer(self) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(self.promised)
        except errors.RayTaskError as error:
            return Failure(error.cause if isinstance(error.cause, Exception) else error, str(error))
        except errors.RayError as error:  # the actor, its node or its answer is gone
            return Failure(WorkerDiedError(f"a worker of the Ray cluster died ({first_line(error)})"), "")


class _Actor:
    def __init__(self, build: list, folder: str, environment: Mapping[str, str]) -> None:
        os.environ.update(environment)  # before anything is imported that looks at it
        self._build = build
        if Path(folder).is_dir():  # where relative paths lead to the same files
            os.chdir(folder)

    def get_ready(self) -> None:
        import ray

        # Not in the constructor, of whose exceptions Ray keeps the text alone.
        with quiet_worker():
            self._compute = ray.get(self._build[0])()

    def compute(self, index: int) -> Any:
        with quiet_worker():
            return self._compute(index)


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
        if ":" in address:
            _check_answers(address)
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError, TimeoutError and others
        reason = f"the Ray cluster {address} cannot be used ({first_line(error)})"
        raise ConfigError(f"{reason}; check that it is up and has the same versions of Ray and Python") from error


def _check_answers(address: str) -> None:
    """Raise OSError or ValueError unless something answers at HOST:PORT. Ray itself would try for minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


def _room(nodes: Collection[Mapping[str, Any]], wanted: Mapping[str, float]) -> int:
    """How many workers, each of which takes what is `wanted` of one node, the nodes have room for. Raises ConfigError if none."""
    room = 0
    for node in nodes:
        if node["Alive"]:
            has = node["Resources"]
            room += int(min((has.get(name, 0) / amount for name, amount in wanted.items() if amount), default=os.cpu_count() or 1))
    if room == 0:
        asked = f"{wanted['CPU']:g} CPUs, {wanted['GPU']:g} GPUs and {wanted['memory'] / _GIB:g} GB"
        raise ConfigError(f"no node of the Ray cluster has {asked} for a worker; ask for less, or add one")
    return room


def _check_nodes(ray: Any) -> None:
    """Raise ConfigError unless every node has the packages of this process."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Within a function, which travels as code: a node without this package could not import it.
    def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
        import importlib.metadata

        def version(package: str) -> str | None:
            try:
                return importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                return None

        found = {package: version(package) for package in packages}
        if found["robomimic_frozen"] is not None:
            from robomimic_frozen.code_digest import code_digest

            found["robomimic_frozen"] += f" with code {code_digest()[:12]}"
        return found

    ours = versions(_PACKAGES)
    ask = ray.remote(num_cpus=0)(versions)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = ask.options(scheduling_strategy=there).remote(_PACKAGES)
    for address, answer in asked.items():
        try:
            theirs = ray.get(answer)
        except ray.exceptions.RayError as error:
            raise ConfigError(f"Ray node {address} cannot run a task ({first_line(error)}); remove or repair it") from error
        for package in _PACKAGES:
            if theirs[package] != ours[package]:
                has = f"has {package} {theirs[package]}" if theirs[package] else f"lacks {package}"
                raise ConfigError(f"Ray node {address} {has}; install there what is here, {package} {ours[package]}")
