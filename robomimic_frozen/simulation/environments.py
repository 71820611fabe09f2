"""What a file says of its environment, and whether robomimic can make that here."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from robomimic_frozen.errors import MalformedError, did_you_mean, first_line
from robomimic_frozen.simulation.gl import prepare_robosuite
from robomimic_frozen.utils import hdf5

if TYPE_CHECKING:
    import h5py

ROBOSUITE_TYPE: Final = 1  # of robomimic's EnvType
NO_ENVIRONMENT: Final = -1  # none of its types: of what was recorded where there is nothing to roll out in
_CONVERT: Final = "convert the file with robomimic's scripts/conversion/convert_robosuite.py, or the script for where it is from"
_RECORD: Final = "write it as robosuite's scripts/collect_human_demonstrations.py does"
_WITHOUT: Final = ", or train without rollouts (experiment.rollout.enabled=false)"
RECORDING: Final = "is a recording of robosuite's teleoperation, without observations", "robomimic-frozen data FILE renders them"
"""What such a file is, and what to do."""
# Settings that only environments of robocasa have.
_OF_ROBOCASA: Final = {"layout_ids", "style_ids", "layout_and_style_ids", "obj_instance_split"}


def environment_of(file: h5py.File) -> dict[str, Any]:
    """Return the metadata of the environment that a dataset is of. Raises MalformedError if it is missing or no JSON object."""
    return _json_object(file, "env_args", _CONVERT)


def is_recording(data: h5py.Group) -> bool:
    """Return whether the group 'data' is as robosuite's own teleoperation writes it (its scripts/collect_human_demonstrations.py)."""
    return [hdf5.attribute(data, name) is not None for name in ("env_args", "env", "env_info")] == [False, True, True]


def environment_of_recording(file: h5py.File) -> dict[str, Any]:
    """Return what robomimic's convert_robosuite.py would write to `env_args` of a recording.

    Raises:
        MalformedError: its `env_info` is no JSON object.
    """
    env_name, version = (hdf5.attribute(file["data"], name) for name in ("env", "repository_version"))
    kwargs = _json_object(file, "env_info", _RECORD)
    return {"type": ROBOSUITE_TYPE, "env_name": env_name, "env_version": version, "env_kwargs": kwargs}


def described_environment(file: h5py.File) -> tuple[str, dict[str, Any]]:
    """Return the attribute in which a dataset or a recording tells of its environment, and that in the form of `env_args`.

    Raises:
        MalformedError: it is missing, or no JSON object.
    """
    if is_recording(file["data"]):
        return "env_info", environment_of_recording(file)
    return "env_args", environment_of(file)


def _json_object(file: h5py.File, name: str, remedy: str) -> dict[str, Any]:
    text = hdf5.attribute(hdf5.group_in(file, "data"), name)
    if text is None:
        raise MalformedError(file.filename, name, "is missing", remedy)
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedError(file.filename, name, f"is not JSON ({first_line(error)})", remedy) from error
    if not isinstance(found, dict):
        raise MalformedError(file.filename, name, "is not a JSON object", remedy)
    return found


def check_complete(path: str, where: str, metadata: Any) -> None:
    """Raise MalformedError if metadata lacks what every environment is made from; `where` names its place in the file at `path`."""
    if missing := [key for key in ("env_name", "type", "env_kwargs") if not isinstance(metadata, dict) or key not in metadata]:
        raise MalformedError(path, where, f"lacks {', '.join(missing)}, without which robomimic makes no environment", _CONVERT)
    if not isinstance(metadata["env_kwargs"], dict):
        raise MalformedError(path, where, "has env_kwargs that are no JSON object", _CONVERT)


def can_be_rolled_out(metadata: Mapping[str, Any]) -> bool:
    """Return whether these metadata are of a kind of environment that robomimic can make; demonstrations of a real robot have none."""
    import robomimic.envs.env_base as EnvBase

    return metadata.get("type") in [value for name, value in vars(EnvBase.EnvType).items() if name.endswith("_TYPE")]


def check_can_be_made(path: str, where: str, metadata: Mapping[str, Any], otherwise: str = _WITHOUT) -> None:
    """Raise MalformedError if robomimic makes no such environment with what is installed.

    Args:
        path, where, metadata: as `check_complete` takes them, which they have passed.
        otherwise: ends each remedy with what can be done without the environment; "" where nothing can.
    """
    if metadata["type"] == NO_ENVIRONMENT:
        raise MalformedError(path, where, "says that there is no environment to roll out in", otherwise.removeprefix(", or "))
    if not can_be_rolled_out(metadata):
        what = f"is of type {metadata['type']!r}, which robomimic makes no environment of"
        raise MalformedError(path, where, what, otherwise.removeprefix(", or "))
    try:
        known = _is_known(metadata)
    except Exception as error:  # a package that is installed badly raises almost anything
        what = f"is of type {metadata['type']}, whose package cannot be imported here ({first_line(error)})"
        raise MalformedError(path, where, what, f"install it (robomimic-frozen doctor says more){otherwise}") from error
    if not known:
        what = f"names the environment {metadata['env_name']!r}, which no package here has"
        raise MalformedError(path, where, what, f"{_where_to_find(metadata)}{otherwise}")
    if metadata["type"] == ROBOSUITE_TYPE:
        _check_controllers(path, where, metadata["env_kwargs"], otherwise)


def _is_known(metadata: Mapping[str, Any]) -> bool:
    """Return whether the package of an environment has it; only robosuite's say so before one is made."""
    prepare_robosuite()
    if metadata["type"] != ROBOSUITE_TYPE:
        import robomimic.utils.env_utils as EnvUtils

        EnvUtils.get_env_class(env_type=metadata["type"])
        return True
    import robosuite

    name, package = metadata["env_name"], _package_of(metadata)
    if name not in list(robosuite.ALL_ENVIRONMENTS):
        importlib.import_module("robomimic.envs.env_robosuite")  # with which come the packages that add some
    if name not in list(robosuite.ALL_ENVIRONMENTS) and package is not None and importlib.util.find_spec(package):
        importlib.import_module(package)  # which has failed before, and fails again, with the reason
    return name in list(robosuite.ALL_ENVIRONMENTS)


def _package_of(metadata: Mapping[str, Any]) -> str | None:
    """Return the package that adds an environment to robosuite; None where it is not known."""
    if re.search(r"_D\d$", str(metadata["env_name"])):
        return "mimicgen"
    return "robocasa" if _OF_ROBOCASA & metadata["env_kwargs"].keys() else None


def _where_to_find(metadata: Mapping[str, Any]) -> str:
    from robosuite import ALL_ENVIRONMENTS

    if package := _package_of(metadata):
        return f"install {package}, in a version that has it"
    otherwise = "install what has it, which a plugin's robomimic_components should import"
    return did_you_mean(metadata["env_name"], ALL_ENVIRONMENTS, otherwise)


def _check_controllers(path: str, where: str, kwargs: Mapping[str, Any], otherwise: str) -> None:
    from robosuite.controllers.composite.composite_controller_factory import is_part_controller_config

    controllers = kwargs.get("controller_configs")
    for controller in controllers if isinstance(controllers, list) else [controllers]:
        if isinstance(controller, dict) and is_part_controller_config(controller):
            what = f"has a controller {controller['type']} as robosuite had it before 1.5"
            raise MalformedError(path, where, what, f"convert it with robomimic-frozen data{otherwise}")
