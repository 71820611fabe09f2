"""A map over tasks whose workers may die: in this process, in processes of this machine, or on a cluster (`ray_cluster`)."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.pool import ExceptionWithTraceback  # type: ignore[attr-defined]  # undocumented: what a Pool does
from typing import Any, Protocol, TypeVar

from robomimic_frozen.errors import RobomimicFrozenError
from robomimic_frozen.utils.machine import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")
Call = Callable[[Callable[[Any], Any], Any], Any]
"""(function, item) -> the result that a worker computes, waited for; raises what the function raised, or WorkerDiedError."""


class WorkerDiedError(RobomimicFrozenError):
    """A worker ended before its task did."""


class Executor(Protocol):
    """Where tasks are computed."""

    @property
    def workers(self) -> int:
        """Return how many tasks are computed at once."""

    @property
    def threads(self) -> int | None:
        """Return how many threads each worker may compute with; None for as many as it likes."""

    def session(self) -> contextlib.AbstractContextManager[Call]:
        """Give what computes one task in a worker, for as many threads as there are workers; in the end all workers are gone."""


@dataclass(frozen=True)
class ThisProcess:
    """An Executor without workers: tasks are computed here, and what they raise is raised at once."""

    workers = 1
    threads = None

    @contextlib.contextmanager
    def session(self) -> Iterator[Call]:
        try:
            yield lambda function, item: function(item)
        finally:
            worker_state.cache_clear()


def retrying_map(
    function: Callable[[Item], Result], items: Sequence[Item], executor: Executor | None = None, retries: int = 1,
    on_start: Callable[[int], object] = lambda index: None,
) -> Generator[tuple[int, Result | Exception]]:  # fmt: skip
    """Yield (i, function(items[i])) for all items as they come, whatever happens to the workers that compute them.

    A task that raised, or whose worker died, is tried again in a new worker. After `retries` of the one, or three times as many of the
    other, the exception takes the place of its result. No worker is ahead of the caller by more than one result; all end with the iterator.

    Args:
        function: picklable, as are items and results; what it computes must not depend on earlier items.
        executor: None for this process, where nothing is tried again.
        on_start: called with the number of each task when it is handed to a worker.

    Raises:
        RobomimicFrozenError: what a task raised of this class, for which a second attempt is of no use.
    """
    executor = executor or ThisProcess()
    if isinstance(executor, ThisProcess):
        with executor.session() as call:
            for index, item in enumerate(items):
                on_start(index)
                yield index, call(function, item)
        return
    waiting, running = iter(enumerate(items)), dict[Future, int]()
    with ThreadPoolExecutor(executor.workers) as threads, executor.session() as call:

        def hand_out() -> None:
            while len(running) < executor.workers and (task := next(waiting, None)) is not None:
                on_start(task[0])
                running[threads.submit(_attempts, call, function, task[1], retries)] = task[0]

        hand_out()
        while running:
            future = next(iter(wait(running, return_when=FIRST_COMPLETED).done))
            index, result = running.pop(future), future.result()
            hand_out()  # before the caller does something with this result
            yield index, result


def ordered_map(function: Callable[[Item], Result], items: Sequence[Item], executor: Executor | None = None) -> Generator[Result]:
    """Yield function(item) for all items in their order; workers end with the iterator. Raises what a task raised, or WorkerDiedError."""
    early: dict[int, Result] = {}
    expected = 0
    # Closed at once, also if this iterator is: workers end with it.
    with contextlib.closing(retrying_map(function, items, executor, retries=0)) as results:
        for index, result in results:
            if isinstance(result, Exception):
                raise result
            early[index] = result
            while expected in early:
                yield early.pop(expected)
                expected += 1


def _attempts(call: Call, function: Callable[[Item], Result], item: Item, retries: int) -> Result | Exception:
    failures = Counter[bool]()
    while True:
        try:
            return call(function, item)
        except Exception as error:
            died = isinstance(error, WorkerDiedError)
            if isinstance(error, RobomimicFrozenError) and not died:
                raise
            failures[died] += 1
            if failures[died] > retries * (3 if died else 1):  # a worker may have died before it began the task
                return error


@functools.lru_cache(maxsize=1)
def worker_state(build: Callable[..., Result], *arguments: Any) -> Result:
    """Return build(*arguments), which each worker makes once and keeps for its next tasks. All arguments are hashable."""
    return build(*arguments)


@contextlib.contextmanager
def quiet_worker() -> Iterator[None]:
    """Keep a worker silent while the block runs: robosuite logs the same advice on every reset, and robomimic prints."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        logging.disable(logging.NOTSET)


@dataclass(frozen=True)
class Processes:
    """An Executor of so many processes of this machine, which outlive neither this process nor an error."""

    workers: int

    @property
    def threads(self) -> int:
        """Return each worker's share of the cores."""
        return max(1, usable_cores() // self.workers)

    @contextlib.contextmanager
    def session(self) -> Iterator[Call]:
        started: list[_Process] = []
        mine, lock, closed = threading.local(), threading.Lock(), threading.Event()

        def call(function: Callable[[Any], Any], item: Any) -> Any:
            if getattr(mine, "process", None) is None:
                with lock:
                    if closed.is_set():
                        raise WorkerDiedError("the work has ended")
                    mine.process = _Process()
                    started.append(mine.process)
            try:
                return mine.process.call(function, item)
            except Exception:  # whatever state it left behind
                mine.process.end()
                mine.process = None
                raise

        try:
            yield call
        finally:
            with lock:
                closed.set()
                for process in started:
                    process.end()


class _Process:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, function: Callable[[Any], Any], item: Any) -> Any:
        try:
            with contextlib.suppress(BrokenPipeError):  # that it has died is noticed when its answer is read
                self._connection.send((function, item))
            result, error = self._connection.recv()
        except (EOFError, OSError) as ended:
            self._process.join()
            reason = f"exit code {self._process.exitcode}; -9 is mostly lack of memory"
            raise WorkerDiedError(f"a worker process died ({reason}); try fewer workers") from ended
        if error is not None:
            raise error
        return result

    def end(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve(connection: Any) -> None:
    # Ctrl-C reaches the whole process group; the parent ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with quiet_worker(), contextlib.suppress(EOFError, BrokenPipeError):  # the parent is gone, however it went
        while True:
            task = connection.recv_bytes()
            try:
                function, item = pickle.loads(task)
                connection.send((function(item), None))
            except Exception as error:
                connection.send((None, ExceptionWithTraceback(error, error.__traceback__)))
