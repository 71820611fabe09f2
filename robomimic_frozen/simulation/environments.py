"""What a file says of its environment, and whether robomimic can make that here."""

from __future__ import annotations

import importlib
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
_CONVERT: Final = "convert the file with robomimic's scripts/conversion/convert_robosuite.py, or the script for where it is from"
_WITHOUT: Final = "train without rollouts (experiment.rollout.enabled=false)"


def environment_of(file: h5py.File) -> dict[str, Any]:
    """Return the metadata of the environment that a dataset is of. Raises MalformedError if it is missing or no JSON object."""
    text = hdf5.attribute(hdf5.group_in(file, "data"), "env_args")
    if text is None:
        raise MalformedError(file.filename, "env_args", "is missing", _CONVERT)
    try:
        metadata = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedError(file.filename, "env_args", f"is not JSON ({first_line(error)})", _CONVERT) from error
    if not isinstance(metadata, dict):
        raise MalformedError(file.filename, "env_args", "is not a JSON object", _CONVERT)
    return metadata


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


def check_can_be_made(path: str, where: str, metadata: Mapping[str, Any]) -> None:
    """Raise MalformedError if robomimic makes no such environment with what is installed.

    Args:
        path, where, metadata: as `check_complete` takes them, which they have passed.
    """
    if not can_be_rolled_out(metadata):
        raise MalformedError(path, where, f"is of type {metadata['type']!r}, which robomimic makes no environment of", _WITHOUT)
    try:
        known = _is_known(metadata)
    except Exception as error:  # a package that is installed badly raises almost anything
        what = f"is of type {metadata['type']}, whose package cannot be imported here ({first_line(error)})"
        raise MalformedError(path, where, what, f"install it (robomimic-frozen doctor says more), or {_WITHOUT}") from error
    if not known:
        what = f"names the environment {metadata['env_name']!r}, which no package here has"
        raise MalformedError(path, where, what, f"{_where_to_find(metadata['env_name'])}; or {_WITHOUT}")
    if metadata["type"] == ROBOSUITE_TYPE:
        _check_controllers(path, where, metadata["env_kwargs"])


def _is_known(metadata: Mapping[str, Any]) -> bool:
    """Return whether the package of an environment has it; only robosuite's say so before one is made."""
    prepare_robosuite()
    if metadata["type"] != ROBOSUITE_TYPE:
        import robomimic.utils.env_utils as EnvUtils

        EnvUtils.get_env_class(env_type=metadata["type"])
        return True
    import robosuite

    if metadata["env_name"] not in list(robosuite.ALL_ENVIRONMENTS):
        importlib.import_module("robomimic.envs.env_robosuite")  # which, of robomimic 0.5, imports packages that add some
    return metadata["env_name"] in list(robosuite.ALL_ENVIRONMENTS)


def _where_to_find(name: Any) -> str:
    from robosuite import ALL_ENVIRONMENTS

    install = "install {}, which a plugin's robomimic_components should import"
    if re.search(r"_D\d$", str(name)):
        return install.format("mimicgen")
    return did_you_mean(name, ALL_ENVIRONMENTS, install.format("what has it"))


def _check_controllers(path: str, where: str, kwargs: Mapping[str, Any]) -> None:
    from robosuite.controllers.composite.composite_controller_factory import is_part_controller_config

    controllers = kwargs.get("controller_configs")
    for controller in controllers if isinstance(controllers, list) else [controllers]:
        if isinstance(controller, dict) and is_part_controller_config(controller):
            what = f"has a controller {controller['type']} as robosuite had it before 1.5"
            raise MalformedError(path, where, what, f"convert it with robomimic-frozen data, or {_WITHOUT}")
