"""What is wrong, where and what to do, and how a person, a bug report and a program are told."""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robomimic_frozen.errors import MalformedError, RobomimicFrozenError


class Severity(enum.IntEnum):
    """How bad a finding is; that of the worst one is the exit status."""

    NOTE = 0
    WARNING = 1
    ERROR = 2


NOTE, WARNING, ERROR = Severity


@dataclass(frozen=True)
class Finding:
    """One thing that is the matter."""

    severity: Severity
    where: str  # names the part that has it; "" for the whole
    what: str
    remedy: str
    detail: str = ""  # numbers of this one case, which do not make it another finding than that of the next demo


@dataclass(frozen=True)
class Examination:
    """What there is to know of a file, or of the installation, and what is wrong with it."""

    subject: str
    facts: dict[str, str]
    findings: list[Finding]


def from_error(error: RobomimicFrozenError, where: str = "") -> Finding:
    """Return what an error of this package says; its message ends in what to do."""
    if isinstance(error, MalformedError):
        return Finding(Severity.ERROR, where or error.where, error.what, error.remedy)
    what, _, remedy = str(error).partition("; ")
    return Finding(Severity.ERROR, where, what, remedy)


def grouped(findings: Iterable[tuple[str, Finding]]) -> list[Finding]:
    """Return one finding for all demos that it was made in. Each comes with its demo; `where` is a key of that, or "" for itself."""
    groups: dict[Finding, tuple[Finding, list[str]]] = {}
    for demo, finding in findings:
        groups.setdefault(replace(finding, detail=""), (finding, []))[1].append(demo)
    return [
        replace(first, where=f"{first.where} of {some_of(demos)}" if first.where else some_of(demos)) for first, demos in groups.values()
    ]


def some_of(names: Sequence[str]) -> str:
    """Return 'demo_3', or 'demo_3 and 4 others'."""
    others = len(names) - 1
    return f"{names[0]} and {others} other{'s' if others > 1 else ''}" if others else names[0]


def exit_status(examinations: Sequence[Examination]) -> int:
    """Return 0 for nothing but notes, 1 for warnings, 2 for errors."""
    return int(max((finding.severity for each in examinations for finding in each.findings), default=Severity.NOTE))


def as_text(examinations: Sequence[Examination]) -> str:
    """Return the facts and findings of each examination, in a block that can be pasted into a bug report as it is."""
    lines = [line for each in examinations for line in (*_lines(each), "")]
    severities = [finding.severity for each in examinations for finding in each.findings]
    counts = ", ".join(f"{severity.name.lower()}s: {severities.count(severity)}" for severity in reversed(Severity))
    report = "\n".join(map(_printable, lines)).replace(f"{Path.home()}/", "~/")
    return f"```text\n{report}\n{counts}\n```\nIn a bug report, paste all of the above."


def as_json(examinations: Sequence[Examination]) -> str:
    """Return the same as a JSON object with 'status' and 'examinations'."""
    content = [dataclasses.asdict(each) for each in examinations]
    for each in content:
        for finding in each["findings"]:
            finding["severity"] = finding["severity"].name.lower()
    return json.dumps({"status": exit_status(examinations), "examinations": content}, indent=2)


def _lines(examination: Examination) -> Iterator[str]:
    yield examination.subject
    width = max(map(len, examination.facts), default=0)
    for name, value in examination.facts.items():
        yield f"  {name:{width}}  {value}"
    for finding in sorted(examination.findings, key=lambda finding: -finding.severity):
        where = f"{finding.where}: " if finding.where else ""
        detail = f" ({finding.detail})" if finding.detail else ""
        yield f"  {finding.severity.name:7}  {where}{finding.what}{detail}"
        if finding.remedy:
            yield f"  {'':7}  -> {finding.remedy}"


def _printable(line: str) -> str:
    """Escape what no terminal should be sent; names in a damaged file may hold it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
