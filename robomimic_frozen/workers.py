"""Worker processes that outlive neither their parent nor an error, and whose results come in order."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar, cast

from robomimic_frozen.errors import RobomimicFrozenError

Result = TypeVar("Result")


class WorkerDiedError(RobomimicFrozenError):
    """A worker process ended before its work did."""


class _WorkerTraceback(Exception):
    """Where in a worker an exception arose; its cause as far as the parent is concerned."""


class _Failure(NamedTuple):
    error: Exception
    traceback: str


def ordered_map(build: Callable[[], Callable[[int], Result]], count: int, workers: int) -> Generator[Result]:
    """The results of `build()(i)` for i = 0 ... count - 1, in this order, computed by several processes.

    Args:
        build: called once in each worker; it and the results must be picklable. Its callable must not depend on which
            numbers it was given before.
        count: how many results.
        workers: how many processes; they end when the iterator is exhausted, closed or fails.

    Raises:
        WorkerDiedError: one did.
        Exception: whatever `build` or its callable raised in a worker.
    """
    # Closed at once, also if this iterator is: processes end with it.
    with contextlib.closing(surviving_map(build, count, workers, attempts=1)) as results:
        yield from _in_order(_or_raised(results))


def surviving_map(
    build: Callable[[], Callable[[int], Result]], count: int, workers: int, attempts: int = 2
) -> Generator[tuple[int, Result | Exception]]:
    """(i, the result of `build()(i)`) for i = 0 ... count - 1 as they come, whatever happens to the processes that compute them.

    A number whose process died or raised is tried again in a new process, `attempts` times in all; then the exception takes the
    place of its result. Arguments otherwise as of `ordered_map`.

    Raises:
        RobomimicFrozenError: what a worker raised of this class, for which a second attempt is of no use.
    """
    processes: dict[Connection, BaseProcess] = {}
    assigned: dict[Connection, int] = {}
    failures = [0] * count
    waiting = deque(range(count))

    def hand_out() -> None:
        while len(processes) < min(workers, len(waiting) + len(assigned)):
            _start(build, processes)
        for connection in processes.keys() - assigned.keys():
            if waiting:
                assigned[connection] = waiting.popleft()
                # A worker that has died is noticed when its answer is read.
                with contextlib.suppress(BrokenPipeError):
                    connection.send(assigned[connection])

    try:
        hand_out()
        while assigned:
            connection = cast(Connection, wait(list(assigned))[0])
            index, answer = assigned.pop(connection), _answer(connection, processes)
            if isinstance(answer, _Failure):
                _end({connection: processes.pop(connection)})
                answer.error.__cause__ = _WorkerTraceback(answer.traceback)
                if isinstance(answer.error, RobomimicFrozenError) and not isinstance(answer.error, WorkerDiedError):
                    raise answer.error
                failures[index] += 1
                if failures[index] < attempts:
                    waiting.appendleft(index)
                    hand_out()
                    continue
                answer = index, answer.error
            hand_out()  # before the caller does something with this answer
            yield answer
    finally:
        _end(processes)


def _start(build: Callable[[], Callable[[int], Result]], processes: dict[Connection, BaseProcess]) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, build), daemon=True)
    process.start()
    theirs.close()
    processes[ours] = process


def _end(processes: Mapping[Connection, BaseProcess]) -> None:
    for connection, process in processes.items():
        process.terminate()
        connection.close()
    for process in processes.values():
        process.join()


def _answer(connection: Connection, processes: Mapping[Connection, BaseProcess]) -> Any:
    """What a worker answered: (number, its result) or a _Failure, also if it died."""
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        process = processes[connection]
        process.join()
        reason = f"a worker process died (exit code {process.exitcode}; -9 is mostly lack of memory); try fewer workers"
        return _Failure(WorkerDiedError(reason), "")


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


def _or_raised(results: Iterator[tuple[int, Result | Exception]]) -> Iterator[tuple[int, Result]]:
    for index, result in results:
        if isinstance(result, Exception):
            raise result
        yield index, result


def _in_order(results: Iterator[tuple[int, Result]]) -> Iterator[Result]:
    early: dict[int, Result] = {}
    expected = 0
    for index, result in results:
        early[index] = result
        while expected in early:
            yield early.pop(expected)
            expected += 1
