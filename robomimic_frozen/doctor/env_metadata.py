"""The environment that a dataset or a checkpoint says it is of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from robomimic_frozen.doctor.findings import Finding, Severity
from robomimic_frozen.doctor.versions import installed_version

_NEEDED = ("env_name", "type", "env_kwargs")
_ROBOSUITE: Final = 1  # EnvType.ROBOSUITE_TYPE of robomimic
_CONVERT: Final = "convert the file with robomimic's scripts/conversion/convert_robosuite.py, or the script for where it is from"


def parsed(where: str, text: Any) -> tuple[dict[str, Any], list[Finding]]:
    """Metadata from its JSON, {} where it is none, and what is wrong with it.

    Args:
        where: names the attribute.
        text: its value; None where there is none.
    """
    if text is None:
        return {}, [Finding(Severity.ERROR, where, "is missing", _CONVERT)]
    try:
        metadata = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        return {}, [Finding(Severity.ERROR, where, f"is not JSON ({error})", _CONVERT)]
    return (metadata if isinstance(metadata, dict) else {}), list(judge(where, metadata))


def judge(where: str, metadata: Any) -> Iterator[Finding]:
    """What is wrong with the metadata of an environment."""
    missing = [key for key in _NEEDED if not isinstance(metadata, dict) or key not in metadata]
    if missing:
        what = f"lacks {', '.join(missing)}, without which robomimic makes no environment"
        yield Finding(Severity.ERROR, where, what, _CONVERT)
        return
    made_with, here = metadata.get("env_version"), installed_version("robosuite")
    if metadata["type"] == _ROBOSUITE and here is not None and _minor(made_with) != _minor(here):
        what = f"is of robosuite {made_with or 'of unknown version'}, and {here} is installed: its physics, cameras or controllers differ"
        remedy = "convert it with robomimic-frozen data, or expect lower success rates"
        yield Finding(Severity.WARNING, where, what, remedy)


def _minor(version: Any) -> list[str]:
    return str(version).split(".")[:2]
