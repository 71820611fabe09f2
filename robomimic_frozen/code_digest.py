"""Which code this is, whatever its version number says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from robomimic_frozen.files import sha256_of

_REPORTING: Final = ("study/results.py", "study/figures.py", "study/film.py", "study/report.py", "study/progress.py")


def code_digest() -> str:
    """sha256 over the modules of this package, but for those that only tell what came out."""
    package = Path(__file__).parent
    result = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).as_posix() not in _REPORTING:
            result.update(f"{path.relative_to(package)} {sha256_of(path)}".encode())
    return result.hexdigest()
