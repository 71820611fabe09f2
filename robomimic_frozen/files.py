"""Files that are there as a whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


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
