"""Workers that are processes of this machine, and outlive neither their parent nor an error."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Collection
from multiprocessing.connection import Connection, wait
from typing import Any

from robomimic_frozen.executors.executor import Build, Failure, WorkerDiedError, quiet_worker


class Processes:
    """An Executor of this machine.

    Args:
        workers: how many processes.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.threads = max(1, usable_cores() // workers)

    def start(self, build: Build) -> _Process:
        return _Process(build)

    def wait(self, workers: Collection[_Process]) -> _Process:
        by_connection = {worker.connection: worker for worker in workers}
        return by_connection[wait(list(by_connection))[0]]  # type: ignore[index]

    def end(self, workers: Collection[_Process]) -> None:
        for worker in workers:
            worker.process.terminate()
            worker.connection.close()
        for worker in workers:
            worker.process.join()


class _Process:
    def __init__(self, build: Build) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, build), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, index: int) -> None:
        # That it has died is noticed when its answer is read.
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(index)

    def answer(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            reason = f"a worker process died (exit code {code}; -9 is mostly lack of memory); try fewer workers"
            return Failure(WorkerDiedError(reason), "")


def _serve(connection: Connection, build: Build) -> None:
    """A worker's life."""
    # Ctrl-C reaches the whole process group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with quiet_worker():
        try:
            compute = build()
            connection.send(None)
            while True:
                connection.send(compute(connection.recv()))
        except (EOFError, BrokenPipeError):
            # The parent is gone, however it went.
            return
        except Exception as error:
            connection.send(Failure(error, traceback.format_exc()))


class ThisProcess:
    """An Executor without workers: tasks are computed here, when they are waited for. Whatever they raise is raised."""

    workers = 1
    threads = None

    def start(self, build: Build) -> _Here:
        return _Here(build)

    def wait(self, workers: Collection[_Here]) -> _Here:
        return next(iter(workers))

    def end(self, workers: Collection[_Here]) -> None:
        pass


class _Here:
    def __init__(self, build: Build) -> None:
        self._next: Any = lambda: None
        self._compute = build()

    def ask(self, index: int) -> None:
        self._next = lambda: self._compute(index)

    def answer(self) -> Any:
        return self._next()


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
