"""The built-in tasks, and the scripted operators who show them."""

from __future__ import annotations

from robomimic_frozen.data.operators.can import CAN
from robomimic_frozen.data.operators.lift import LIFT
from robomimic_frozen.data.operators.square import SQUARE
from robomimic_frozen.plugins import hookimpl
from robomimic_frozen.simulation.tasks import Task


@hookimpl
def tasks() -> list[Task]:
    """Return the built-in tasks."""
    return [LIFT, CAN, SQUARE]
