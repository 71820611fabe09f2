"""Evaluation and rendering without worker processes, each of which takes longer to start than what tests let it do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any
from unittest import mock

from robomimic_frozen.evaluation import evaluate


def evaluating_in_this_process() -> Any:
    """A context, or a decorator, in which `evaluate` has no workers."""
    return mock.patch.object(evaluate, "surviving_map", _serial_map)


@contextlib.contextmanager
def rendering_in_this_process() -> Iterator[None]:
    """Within it `render_dataset` and `check_images` have no workers."""
    from robomimic_frozen.data import checking, rendering

    with mock.patch.object(rendering, "surviving_map", _serial_map), mock.patch.object(checking, "ordered_map", _serial_results):
        yield


def _serial_results(build: Callable[[], Callable[[int], Any]], count: int, workers: int) -> Generator[Any]:
    yield from (result for _, result in _serial_map(build, count, workers))


def _serial_map(build: Callable[[], Callable[[int], Any]], count: int, workers: int) -> Generator[tuple[int, Any]]:
    compute = build()
    for index in range(count):
        yield index, compute(index)
