"""A table of the runs of a study that changes while they run: what waits, runs, is done and has failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from robomimic_frozen.study.plan import Run

_WAITING, _RUNNING, _DONE, _FAILED = "waiting", "running", "done", "failed"
_COLOURS = {_WAITING: "dim", _RUNNING: "yellow", _DONE: "green", _FAILED: "red"}


class ProgressTable:
    """On stderr; where that is no terminal, one line for each run that ends. To be used as a context.

    Args:
        title: above the table.
        runs: in the order of its rows.
    """

    def __init__(self, title: str, runs: Sequence[Run]) -> None:
        self._title, self._runs = title, runs
        self._states = [_WAITING] * len(runs)
        self._notes = [""] * len(runs)
        self._starts: dict[int, float] = {}
        self._console = Console(stderr=True)
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=1, transient=True)

    def __enter__(self) -> ProgressTable:
        self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def started(self, number: int) -> None:
        """A worker has begun with the run of this number."""
        self._states[number], self._starts[number] = _RUNNING, time.monotonic()

    def ended(self, number: int, failure: str | None) -> None:
        """It is done, or has failed."""
        self._states[number] = _DONE if failure is None else _FAILED
        self._notes[number] = failure or f"{time.monotonic() - self._starts[number]:.0f} s"
        count = Counter(self._states)
        line = f"{self._runs[number].label}: {self._states[number]} ({self._notes[number]})"
        self._console.print(f"[{count[_DONE]} of {len(self._runs)}] {line}", markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        count = Counter(self._states)
        table = Table(title=escape(self._title), caption=", ".join(f"{count[state]} {state}" for state in _COLOURS))
        for heading in ("configuration", "demonstrations", "seed", "", ""):
            table.add_column(heading)
        for number, run in enumerate(self._runs):
            state, note = self._states[number], self._notes[number]
            if state == _RUNNING:
                note = f"{time.monotonic() - self._starts[number]:.0f} s"
            # Of many, those that run or went wrong are worth the screen.
            if len(self._runs) <= self._console.height - 8 or state in (_RUNNING, _FAILED):
                table.add_row(escape(run.configuration.name), str(run.demos), str(run.seed), f"[{_COLOURS[state]}]{state}", escape(note))
        return table
