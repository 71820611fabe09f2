"""Raw files of robomimic and of robosuite's teleoperation: states and actions of demos, no observations, and the environment of both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robomimic_frozen.errors import ConfigError, DatasetError, MalformedError
from robomimic_frozen.simulation.environments import ROBOSUITE_TYPE, check_can_be_made, check_complete, described_environment
from robomimic_frozen.utils import hdf5
from robomimic_frozen.utils.parallel import quiet_worker

if TYPE_CHECKING:
    import h5py

# Before 1.5 robosuite called what a robot stands on mount0, and looks for other names since.
_OLD_SCENE: Final = re.compile(r'name="mount\d+_base"')
_CAMERA: Final = re.compile(r'<camera\b[^>]*?\sname="([^"]+)"')
_ONE_ARMED: Final = ("Panda", "Sawyer", "IIWA", "Jaco", "Kinova3", "UR5e")

# Settings of OSC_POSE that mean in robosuite 1.5 what they meant before, and those that it takes no notice of.
_SAME: Final = {
    "type", "input_max", "input_min", "output_max", "output_min", "kp", "damping_ratio", "impedance_mode", "kp_limits",
    "damping_ratio_limits", "position_limits", "orientation_limits", "uncouple_pos_ori", "interpolation", "ramp_ratio",
}  # fmt: skip
_IGNORED: Final = {"control_delta", "damping", "damping_limits"}


@dataclass(frozen=True)
class RawFile:
    """What the raw file at a path or URL holds."""

    path: str | Path
    env_meta: Mapping[str, Any]  # of its environment, for robosuite 1.5
    steps: Mapping[str, int]  # name of each demo -> its number of steps, in the order of their numbers
    cameras: tuple[str, ...]  # of its scenes

    def check_cameras(self, names: tuple[str, ...]) -> None:
        """Raise ConfigError unless the scenes have these cameras."""
        for name in names:
            if name not in self.cameras:
                raise ConfigError(f"the scenes of {self.path} have no camera {name!r}; choose from {', '.join(self.cameras)}")

    def check_environment(self) -> None:
        """Raise MalformedError if no package here has the environment. It loads robosuite, so choose the OpenGL backend before."""
        with quiet_worker():
            check_can_be_made(str(self.path), "its metadata", self.env_meta, otherwise="")


def read_raw_file(path: str | Path) -> RawFile:
    """Look through a raw file at a path or URL. Raises DatasetError if it is damaged, or of what robosuite 1.5 cannot make."""
    with hdf5.opened(path) as file:
        data = hdf5.group_in(file, "data")
        names = hdf5.members(data)
        # They become names of files, too.
        strange = [name for name in names if not re.fullmatch(r"demo_\d+", name)]
        if strange or not names:
            raise DatasetError(f"dataset {path}: demos are called demo_0, demo_1, ..., not {(strange or ['nothing'])[0]}; rename them")
        names.sort(key=lambda name: int(name.removeprefix("demo_")))
        steps = {name: _checked_steps(data, name) for name in names}
        cameras = tuple(_CAMERA.findall(_scene(data, names[0])))
        env_meta = _env_meta(file)
    try:
        return RawFile(path, for_robosuite_1_5(env_meta), steps, cameras)
    except DatasetError as error:
        raise DatasetError(f"dataset {path}: {error}") from error


def _env_meta(file: h5py.File) -> dict[str, Any]:
    where, meta = described_environment(file)
    check_complete(file.filename, where, meta)
    if not isinstance(meta["env_kwargs"].get("robots"), str | list) or not isinstance(meta["env_name"], str):
        raise MalformedError(file.filename, where, "describes no environment of robosuite: it lacks robots, or a name", "correct it")
    meta["env_kwargs"].pop("render_gpu_device_id", None)  # that of another machine; EnvRobosuite looks it up itself
    return meta


def _checked_steps(data: h5py.Group, name: str) -> int:
    demo = hdf5.group_in(data, name)
    states, actions = hdf5.array_in(demo, "states"), hdf5.array_in(demo, "actions")
    if states.ndim != 2 or actions.ndim != 2 or len(states) != len(actions) or not len(states):
        what = f"has states {list(states.shape)} and actions {list(actions.shape)}, not one of each for every step"
        raise MalformedError(data.file.filename, name, what)
    if _OLD_SCENE.search(_scene(data, name)):
        what = "has a scene of robosuite before 1.5, whose parts have other names since"
        remedy = "take a set that robomimic has converted (robomimic-frozen data lift-mh), or render it with robosuite 1.4"
        raise MalformedError(data.file.filename, name, what, remedy)
    return len(states)


def _scene(data: h5py.Group, name: str) -> str:
    text = hdf5.attribute(hdf5.group_in(data, name), "model_file")
    if not isinstance(text, str):
        raise MalformedError(data.file.filename, f"model_file of {name}", "is missing or no text")
    return text


def for_robosuite_1_5(env_meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `env_args` of a dataset as robosuite 1.5 makes the same environment of them; its own stay as they are.

    robomimic's conversion of its released sets is the model: the controller of the arm becomes one part of a composite one, which
    takes actions in the frame of the world, and physics are computed in full at every step.

    Raises:
        DatasetError: with the reason, where it is not known how.
    """
    if env_meta.get("type") != ROBOSUITE_TYPE:
        raise _refusal(f"type {env_meta.get('type')!r} is not of robosuite")
    result = deepcopy(dict(env_meta))
    kwargs = result["env_kwargs"]
    robots = [kwargs["robots"]] if isinstance(kwargs["robots"], str) else kwargs["robots"]
    controllers = kwargs.get("controller_configs")
    of_each = controllers if isinstance(controllers, list) else [controllers] * len(robots)
    parts = [controller["body_parts"] for controller in of_each if isinstance(controller, Mapping) and "body_parts" in controller]
    if parts or not _is_older(env_meta.get("env_version")):
        # robosuite 1.5 ignores `control_delta`, so that it does not tell what the actions mean.
        for name, part in (item for part_of_each in parts for item in part_of_each.items()):
            if part.get("control_delta") is False and "input_type" not in part:
                raise _refusal(f"control_delta of {name} is false, which robosuite 1.5 ignores; say input_type 'absolute' or 'delta'")
        return result
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


def _composite(robot: str, controller: Any) -> dict[str, Any]:
    from robosuite.controllers.composite.composite_controller_factory import refactor_composite_controller_config

    if robot not in _ONE_ARMED:
        raise _refusal(f"how {robot!r} was controlled is not known to be possible there")
    if not isinstance(controller, Mapping):
        raise _refusal(f"its controller is {controller!r}, no settings, and the default is another one there")
    if controller.get("type") != "OSC_POSE":
        raise _refusal(f"controller {controller.get('type')!r} moves the arm in another way there; only OSC_POSE does not")
    if unknown := sorted(controller.keys() - _SAME - _IGNORED):
        raise _refusal(f"what {', '.join(unknown)} of its controller would be there is not known")
    for key in ("position_limits", "orientation_limits"):
        if controller.get(key) is not None:
            raise _refusal(f"{key} are not to be had there")
    # Of robosuite before 1.2; later ones ignored it.
    if controller.get("damping", 1) != 1 or ("damping_limits" in controller and controller.get("impedance_mode", "fixed") != "fixed"):
        raise _refusal("whether its controller heeded damping depends on a version that is not known")
    part = {key: value for key, value in controller.items() if key in _SAME}
    part |= {"input_type": "delta" if controller.get("control_delta", True) else "absolute", "input_ref_frame": "world"}
    return refactor_composite_controller_config(part, robot, ["right"])


def _refusal(reason: str) -> DatasetError:
    remedy = "correct env_args, or take a set that robomimic has converted: robomimic-frozen data lift-mh"
    return DatasetError(f"its environment cannot be made with robosuite 1.5 ({reason}); {remedy}")
