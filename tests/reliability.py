"""What tests marked `fault` tried and how it ended, as a table: `pytest -m fault --kills 20 --reliability docs/reliability.md`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

HEAD = """# Reliability

What was done to the package on purpose, how often, and what happened. The tests marked `fault` did it; they write this page, and
run once each with all others in CI:

```bash
bash scripts/test.sh -m fault --kills 20 --reliability docs/reliability.md
```

| what was done | times | as promised | what is promised |
|---|---|---|---|
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reliability")
    group.addoption("--kills", type=int, default=1, help="how often each command is killed, each time at another moment")
    group.addoption("--reliability", type=Path, metavar="FILE", help="write a table of the faults that were tried")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "moment" in metafunc.fixturenames:
        kills = metafunc.config.getoption("kills")
        # Spread evenly; where in its share a test kills, it draws itself.
        metafunc.parametrize("moment", [(number / kills, (number + 1) / kills) for number in range(kills)], ids=str)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    report = yield
    marker = item.get_closest_marker("fault")
    if marker is not None and (call.when == "call" or report.failed):
        what, promise = marker.args
        # Travels with the report from the process that ran the test.
        report.user_properties.append(("fault", (what, promise, marker.kwargs.get("times", 1))))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    path = terminalreporter.config.getoption("reliability")
    if path is None:
        return
    tried: Counter[tuple[str, str]] = Counter()
    kept: Counter[tuple[str, str]] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            for what, promise, times in (value for name, value in report.user_properties if name == "fault"):
                tried[what, promise] += times
                kept[what, promise] += times if outcome == "passed" else 0
    rows = [f"| {what} | {tried[what, promise]} | {kept[what, promise]} | {promise} |" for what, promise in sorted(tried)]
    path.write_text(HEAD + "\n".join(rows) + "\n")
