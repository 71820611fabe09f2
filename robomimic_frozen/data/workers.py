"""Worker processes that outlive neither their parent nor an error, and whose results come in order."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import NamedTuple, TypeVar

from robomimic_frozen.errors import RobomimicFrozenError

Result = TypeVar("Result")


class _WorkerTraceback(Exception):
    """Where in a worker an exception arose; its cause as far as the parent is concerned."""


class _Failure(NamedTuple):
    error: Exception
    traceback: str


def ordered_map(build: Callable[[], Callable[[int], Result]], count: int, workers: int) -> Iterator[Result]:
    """The results of `build()(i)` for i = 0 ... count - 1, in this order, computed by several processes.

    Args:
        build: called once in each worker; it and the results must be picklable. Its callable must not depend on which
            numbers it was given before.
        count: how many results.
        workers: how many processes; they end when the iterator is exhausted, closed or fails.

    Raises:
        RobomimicFrozenError: a worker died.
        Exception: whatever `build` or its callable raised in a worker.
    """
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(workers, count)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, build), daemon=True)
            process.start()
            theirs.close()
            processes[ours] = process
        yield from _in_order(_results(processes, count))
    finally:
        for connection, process in processes.items():
            process.terminate()
            connection.close()
        for process in processes.values():
            process.join()


def _serve(connection: Connection, build: Callable[[], Callable[[int], Result]]) -> None:
    """A worker's life: answer each number with its result, or with the exception that it met."""
    # Ctrl-C reaches the whole process group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # robosuite logs the same advice on every reset, and robomimic prints.
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(None):
        try:
            compute = build()
            while True:
                index = connection.recv()
                connection.send((index, compute(index)))
        except (EOFError, BrokenPipeError):
            # The parent is gone, however it went.
            return
        except Exception as error:
            connection.send(_Failure(error, traceback.format_exc()))


def _results(processes: Mapping[Connection, BaseProcess], count: int) -> Iterator[tuple[int, Result]]:
    """Hand out the numbers, one at a time to each worker, and yield what comes back as it comes."""
    waiting = iter(range(count))
    for connection in processes:
        _hand_out(connection, waiting)
    for _ in range(count):
        connection = wait(list(processes))[0]
        try:
            answer = connection.recv()
        except (EOFError, ConnectionResetError):
            process = processes[connection]
            process.join()
            raise RobomimicFrozenError(
                f"a worker process died (exit code {process.exitcode}; -9 is mostly lack of memory); try fewer workers"
            ) from None
        if isinstance(answer, _Failure):
            raise answer.error from _WorkerTraceback(answer.traceback)
        _hand_out(connection, waiting)
        yield answer


def _hand_out(connection: Connection, waiting: Iterator[int]) -> None:
    index = next(waiting, None)
    if index is None:
        return
    # A worker that has died is noticed when its answer is read.
    with contextlib.suppress(BrokenPipeError):
        connection.send(index)


def _in_order(results: Iterator[tuple[int, Result]]) -> Iterator[Result]:
    early: dict[int, Result] = {}
    expected = 0
    for index, result in results:
        early[index] = result
        while expected in early:
            yield early.pop(expected)
            expected += 1
