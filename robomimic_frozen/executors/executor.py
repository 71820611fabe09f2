"""The seam between what is computed and where: tasks with numbers, and workers that may die."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar

from robomimic_frozen.errors import RobomimicFrozenError

Result = TypeVar("Result")
Build = Callable[[], Callable[[int], Result]]
"""Called once in each worker; gives what computes the task of a number. It and the results are picklable, and what is computed does
not depend on which numbers were asked for before."""


class WorkerDiedError(RobomimicFrozenError):
    """A worker ended before its work did."""


class Failure(NamedTuple):
    """What a worker answers in the place of a result.

    Attributes:
        error: what was raised, or WorkerDiedError.
        traceback: where in the worker that was.
    """

    error: Exception
    traceback: str


class Worker(Protocol):
    """A place where a `Build` is called. It answers first when it is ready, and then each time it is asked."""

    def ask(self, index: int) -> None:
        """Begin with the task of this number."""

    def answer(self) -> Any:
        """A result, None for being ready, or a Failure, after which it is of no more use. Waits for it."""


class Executor(Protocol):
    """Starts workers."""

    @property
    def workers(self) -> int:
        """How many at most."""

    @property
    def threads(self) -> int | None:
        """How many each may compute with; None for as many as it likes."""

    def start(self, build: Build) -> Worker:
        """A worker that gets ready, without waiting for it."""

    def wait(self, workers: Collection[Any]) -> Worker:
        """One of these workers, all of which owe an answer, that has it or has died."""

    def end(self, workers: Collection[Any]) -> None:
        """End them, whatever they do."""


class _WorkerTraceback(Exception):
    """Where in a worker an exception arose; its cause as far as the caller is concerned."""


def ordered_map(build: Build[Result], count: int, executor: Executor) -> Generator[Result]:
    """The results of `build()(i)` for i = 0 ... count - 1, in this order; workers end with the iterator.

    Raises:
        WorkerDiedError: one did.
        Exception: whatever `build` or its callable raised in a worker.
    """
    # Closed at once, also if this iterator is: workers end with it.
    with contextlib.closing(surviving_map(build, count, executor, attempts=1)) as results:
        yield from _in_order(_or_raised(results))


def surviving_map(
    build: Build[Result], count: int, executor: Executor, attempts: int = 2, on_start: Callable[[int], None] = lambda index: None
) -> Generator[tuple[int, Result | Exception]]:
    """(i, the result of `build()(i)`) for i = 0 ... count - 1 as they come, whatever happens to the workers that compute them.

    A number whose worker died or raised is tried again by a new one, `attempts` times in all; then the exception takes the place of
    its result. No worker is ahead of the caller by more than one result, and workers end with the iterator.

    Args:
        on_start: called with each number when a worker gets it.

    Raises:
        RobomimicFrozenError: what a worker raised of this class, for which a second attempt is of no use.
    """
    tasks = _Tasks(build, count, executor, attempts, on_start)
    try:
        tasks.hand_out()
        while tasks.unanswered:
            finished = tasks.next_answer()
            tasks.hand_out()  # before the caller does something with this answer
            if finished is not None:
                yield finished
    finally:
        executor.end([*tasks.busy, *tasks.idle])


class _Tasks:
    """Who computes what.

    Attributes:
        busy: workers that owe an answer -> the number of their task; None of those that are getting ready.
        idle: those that owe none.
        unanswered: how many numbers have no result yet.
    """

    def __init__(self, build: Build, count: int, executor: Executor, attempts: int, on_start: Callable[[int], None]) -> None:
        self._build, self._executor, self._attempts, self._on_start = build, executor, attempts, on_start
        self._waiting, self._failures = deque(range(count)), Counter[int]()
        self._deaths_on_the_way = 0  # of workers that were getting ready, one after the other
        self.busy: dict[Any, int | None] = {}
        self.idle: list[Any] = []
        self.unanswered = count

    def hand_out(self) -> None:
        while len(self.busy) + len(self.idle) < min(self._executor.workers, self.unanswered):
            self.busy[self._executor.start(self._build)] = None
        while self.idle and self._waiting:
            worker, index = self.idle.pop(), self._waiting.popleft()
            self.busy[worker] = index
            worker.ask(index)
            self._on_start(index)

    def next_answer(self) -> tuple[int, Any] | None:
        """Wait for an answer; a number with its result or the exception in its place, or None if there is neither."""
        worker = self._executor.wait(self.busy)
        index, answer = self.busy.pop(worker), worker.answer()
        if not isinstance(answer, Failure):
            self._deaths_on_the_way = 0
            self.idle.append(worker)
        else:
            self._executor.end([worker])
            if index is None and isinstance(answer.error, WorkerDiedError) and self._deaths_on_the_way < self._attempts:
                # No task's fault: a cluster may place a worker on a node that is lost before it notices.
                self._deaths_on_the_way += 1
                return None
            if index is None and self._waiting:
                index = self._waiting.popleft()  # which a worker that does not get ready would have had
            if index is not None and self._is_to_be_tried_again(index, answer):
                return None
            answer = answer.error
        if index is None:
            return None
        self.unanswered -= 1
        return index, answer

    def _is_to_be_tried_again(self, index: int, failure: Failure) -> bool:
        failure.error.__cause__ = _WorkerTraceback(failure.traceback)
        if isinstance(failure.error, RobomimicFrozenError) and not isinstance(failure.error, WorkerDiedError):
            raise failure.error
        self._failures[index] += 1
        if self._failures[index] == self._attempts:
            return False
        self._waiting.appendleft(index)
        return True


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


@contextlib.contextmanager
def quiet_worker() -> Iterator[None]:
    """Within it, a worker says nothing: robosuite logs the same advice on every reset, and robomimic prints."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(None):
            yield
    finally:
        logging.disable(logging.NOTSET)
