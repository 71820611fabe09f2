"""Evaluation without worker processes, each of which takes longer to start than a short episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from robomimic_frozen.evaluation import evaluate


def evaluating_in_this_process() -> Any:
    """A context, or a decorator, in which `evaluate` has no workers."""
    return mock.patch.object(evaluate, "surviving_map", _serial_map)


def _serial_map(build: Callable[[], Callable[[int], Any]], count: int, workers: int) -> Iterator[tuple[int, Any]]:
    compute = build()
    return ((index, compute(index)) for index in range(count))
