"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def complete_or_absent(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its name, and the place of an older one, unless the block fails.

    Its suffix is that of `path`. For one writer at a time: what a killed one left behind is what the next one writes to.
    """
    partial = path.with_name(f".{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` to a file that is there as a whole or not at all, in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with complete_or_absent(path) as beside:
        beside.write_text(json.dumps(content, indent=2) + "\n")
