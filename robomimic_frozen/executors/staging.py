"""Workers that have copies of remote files before they begin, wherever they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from robomimic_frozen.executors.executor import Build, Executor, Result, Worker
from robomimic_frozen.storage import LOCAL, is_url, staged


class StagingFirst:
    """An Executor whose workers fetch files first, to where `staged` has put them here.

    Args:
        executor: starts the workers.
        places: URLs of the files; paths among them are left alone.
        folder: as of `staged`.
    """

    def __init__(self, executor: Executor, places: Iterable[str], folder: Path = LOCAL) -> None:
        self._executor, self._urls, self._folder = executor, tuple(filter(is_url, places)), folder.expanduser()
        self.workers, self.threads = executor.workers, executor.threads
        self._wrapped = functools.lru_cache(maxsize=1)(self._staging_first)  # an executor knows a build again by identity

    def start(self, build: Build) -> Worker:
        return self._executor.start(self._wrapped(build))

    def wait(self, workers: Collection[Any]) -> Worker:
        return self._executor.wait(workers)

    def end(self, workers: Collection[Any]) -> None:
        self._executor.end(workers)

    def _staging_first(self, build: Build) -> Build:
        return functools.partial(_stage_and_build, self._urls, self._folder, build)


def _stage_and_build(urls: Sequence[str], folder: Path, build: Build[Result]) -> Callable[[int], Result]:
    for url in urls:
        staged(url, folder)
    return build()
