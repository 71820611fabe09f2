"""What was found, for a person, for a bug report, and for a program."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from robomimic_frozen.doctor.findings import Examination, Severity


def exit_status(examinations: Sequence[Examination]) -> int:
    """0 for nothing but notes, 1 for warnings, 2 for errors."""
    return int(max((finding.severity for each in examinations for finding in each.findings), default=Severity.NOTE))


def as_text(examinations: Sequence[Examination]) -> str:
    """A table of facts and the findings of each examination, in a block that can be pasted into a bug report as it is."""
    lines = [line for each in examinations for line in (*_lines(each), "")]
    counts = ", ".join(f"{severity.name.lower()}s: {_count(examinations, severity)}" for severity in reversed(Severity))
    report = "\n".join(map(_printable, lines)).replace(f"{Path.home()}/", "~/")
    return f"```text\n{report}\n{counts}\n```\nIn a bug report, paste all of the above."


def as_json(examinations: Sequence[Examination]) -> str:
    """The same as an object with 'status' and 'examinations'."""
    content = {
        "status": exit_status(examinations),
        "examinations": [
            {
                "subject": each.subject,
                "facts": each.facts,
                "findings": [{**dataclasses.asdict(finding), "severity": finding.severity.name.lower()} for finding in each.findings],
            }
            for each in examinations
        ],
    }
    return json.dumps(content, indent=2)


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


def _count(examinations: Sequence[Examination], severity: Severity) -> int:
    return sum(finding.severity == severity for each in examinations for finding in each.findings)


def _printable(line: str) -> str:
    """Names in a damaged file may hold what no terminal should be sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
