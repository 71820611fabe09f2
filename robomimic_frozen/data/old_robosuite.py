"""Environment metadata of older robosuites (to 1.4), as robosuite 1.5 makes the same environment of it.

robomimic's own conversion of its released sets is the model: the controller of the arm becomes one part of a composite one, which
takes actions in the frame of the world, and physics are computed in full at every step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from robomimic_frozen.errors import DatasetError

_ROBOSUITE_ENV: Final = 1  # robomimic's EnvType.ROBOSUITE_TYPE
_ONE_ARMED: Final = ("Panda", "Sawyer", "IIWA", "Jaco", "Kinova3", "UR5e")

# Settings of OSC_POSE that mean in robosuite 1.5 what they meant before.
_SAME: Final = {
    "type", "input_max", "input_min", "output_max", "output_min", "kp", "damping_ratio", "impedance_mode", "kp_limits",
    "damping_ratio_limits", "position_limits", "orientation_limits", "uncouple_pos_ori", "interpolation", "ramp_ratio",
}  # fmt: skip
# Those that robosuite 1.5 takes no notice of.
_IGNORED: Final = {"control_delta", "damping", "damping_limits"}


def for_robosuite_1_5(env_meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata of the same environment, its controllers included, for robosuite 1.5. That of robosuite 1.5 stays as it is.

    Args:
        env_meta: `env_args` of a robomimic dataset.

    Raises:
        DatasetError: with the reason, where no such metadata is known.
    """
    if env_meta.get("type") != _ROBOSUITE_ENV:
        raise _refusal(f"type {env_meta.get('type')!r} is not of robosuite")
    result = deepcopy(dict(env_meta))
    kwargs = result["env_kwargs"]
    controllers = kwargs.get("controller_configs")
    if _is_composite(controllers) or not _is_older(env_meta.get("env_version")):
        _refuse_contradictions(controllers)
        return result
    robots = [kwargs["robots"]] if isinstance(kwargs["robots"], str) else kwargs["robots"]
    of_each = controllers if isinstance(controllers, list) else [controllers] * len(robots)
    if len(of_each) != len(robots):
        raise _refusal(f"it names {len(of_each)} controllers for {len(robots)} robots")
    composites = [_composite(robot, controller) for robot, controller in zip(robots, of_each, strict=True)]
    kwargs["controller_configs"] = composites[0] if len(robots) == 1 else composites
    kwargs.setdefault("lite_physics", False)
    return result


def _is_older(version: Any) -> bool:
    """Return whether it is older than 1.5. robomimic has not always written the version."""
    numbers = re.match(r"(\d+)\.(\d+)", str(version))
    return numbers is None or tuple(map(int, numbers.groups())) < (1, 5)


def _is_composite(controllers: Any) -> bool:
    first = controllers[0] if isinstance(controllers, list) and controllers else controllers
    return isinstance(first, Mapping) and "body_parts" in first


def _refuse_contradictions(controllers: Any) -> None:
    """Raise DatasetError where `control_delta` is false: robosuite 1.5 ignores it, so that it does not tell what the actions mean."""
    for controller in controllers if isinstance(controllers, list) else [controllers]:
        parts = controller.get("body_parts") if isinstance(controller, Mapping) else None
        for name, part in parts.items() if isinstance(parts, Mapping) else ():
            if isinstance(part, Mapping) and part.get("control_delta") is False and "input_type" not in part:
                raise _refusal(f"control_delta of {name} is false, which robosuite 1.5 ignores; say input_type 'absolute' or 'delta'")


def _composite(robot: str, controller: Any) -> dict[str, Any]:
    from robosuite.controllers.composite.composite_controller_factory import refactor_composite_controller_config

    if robot not in _ONE_ARMED:
        raise _refusal(f"how {robot!r} was controlled is not known to be possible there")
    if not isinstance(controller, Mapping):
        raise _refusal(f"its controller is {controller!r}, no settings, and the default is another one there")
    return refactor_composite_controller_config(_part(controller), robot, ["right"])


def _part(old: Mapping[str, Any]) -> dict[str, Any]:
    if old.get("type") != "OSC_POSE":
        raise _refusal(f"controller {old.get('type')!r} moves the arm in another way there; only OSC_POSE does not")
    unknown = sorted(old.keys() - _SAME - _IGNORED)
    if unknown:
        raise _refusal(f"what {', '.join(unknown)} of its controller would be there is not known")
    for key in ("position_limits", "orientation_limits"):
        if old.get(key) is not None:
            raise _refusal(f"{key} are not to be had there")
    # Of robosuite before 1.2; later ones ignored it.
    if old.get("damping", 1) != 1 or ("damping_limits" in old and old.get("impedance_mode", "fixed") != "fixed"):
        raise _refusal("whether its controller heeded damping depends on a version that is not known")
    same = {key: value for key, value in old.items() if key in _SAME}
    input_type = "delta" if old.get("control_delta", True) else "absolute"
    return {**same, "input_type": input_type, "input_ref_frame": "world"}


def _refusal(reason: str) -> DatasetError:
    return DatasetError(
        f"its environment cannot be made with robosuite 1.5 ({reason}); correct env_args, or take a set that robomimic "
        "has converted: robomimic-frozen data lift-mh"
    )
