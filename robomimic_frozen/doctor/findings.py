"""What a check finds, and how findings that say the same of several demos become one."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from robomimic_frozen.errors import MalformedError, RobomimicFrozenError


class Severity(enum.IntEnum):
    """How bad it is; that of the worst finding is the exit status."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """What is the matter, where, and what to do.

    Attributes:
        detail: numbers of this one case, which do not make it another finding than that of the next demo.
    """

    severity: Severity
    where: str
    what: str
    remedy: str
    detail: str = ""


@dataclass(frozen=True)
class Examination:
    """What there is to know of a file, or of the installation, and what is wrong with it."""

    subject: str
    facts: dict[str, str]
    findings: list[Finding]


def from_error(error: RobomimicFrozenError, where: str = "") -> Finding:
    """An error of this package, whose message ends in what to do."""
    if isinstance(error, MalformedError):
        return Finding(Severity.ERROR, where or error.where, error.what, error.remedy)
    what, _, remedy = str(error).partition("; ")
    return Finding(Severity.ERROR, where, what, remedy)


def grouped(findings: Iterable[tuple[str, Finding]]) -> list[Finding]:
    """One finding for all demos that it was made in.

    Args:
        findings: (demo, finding in it); `where` is a key of the demo, or "" for the demo itself.
    """
    first: dict[Finding, Finding] = {}
    demos: dict[Finding, list[str]] = {}
    for demo, finding in findings:
        same = replace(finding, detail="")
        first.setdefault(same, finding)
        demos.setdefault(same, []).append(demo)
    return [
        replace(finding, where=f"{finding.where} of {some_of(demos[same])}" if finding.where else some_of(demos[same]))
        for same, finding in first.items()
    ]


def some_of(names: Sequence[str]) -> str:
    """'demo_3', or 'demo_3 and 4 others'."""
    others = len(names) - 1
    return f"{names[0]} and {others} other{'s' if others > 1 else ''}" if others else names[0]
