"""A raw file of robomimic: states and actions of demos, and the scene of each, without observations."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from robomimic_frozen.data.old_robosuite import for_robosuite_1_5
from robomimic_frozen.errors import ConfigError, DatasetError, MalformedError
from robomimic_frozen.utils import hdf5

if TYPE_CHECKING:
    import h5py

# Before 1.5 robosuite called what a robot stands on mount0, and looks for other names since.
_OLD_SCENE: Final = re.compile(r'name="mount\d+_base"')
_CAMERA: Final = re.compile(r'<camera\b[^>]*?\sname="([^"]+)"')


@dataclass(frozen=True)
class RawFile:
    """What a raw file holds.

    Attributes:
        path: the HDF5 file, or its URL.
        env_meta: description of its environment, for robosuite 1.5.
        steps: name of each demo -> its number of steps, in the order of their numbers.
        cameras: of its scenes.
    """

    path: str | Path
    env_meta: Mapping[str, Any]
    steps: Mapping[str, int]
    cameras: tuple[str, ...]

    def check_cameras(self, names: tuple[str, ...]) -> None:
        """Raise ConfigError unless the scenes have these cameras."""
        for name in names:
            if name not in self.cameras:
                raise ConfigError(f"the scenes of {self.path} have no camera {name!r}; choose from {', '.join(self.cameras)}")


def read_raw_file(path: str | Path) -> RawFile:
    """Look through a raw file, or one at a URL.

    Raises:
        DatasetError: it is damaged, lacks something, or is of an environment or a scene that robosuite 1.5 cannot make.
    """
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
        env_meta = _env_meta(data)
    try:
        return RawFile(path, for_robosuite_1_5(env_meta), steps, cameras)
    except DatasetError as error:
        raise DatasetError(f"dataset {path}: {error}") from error


def _env_meta(data: h5py.Group) -> dict[str, Any]:
    text = hdf5.attribute(data, "env_args")
    try:
        meta = json.loads(text)
        if isinstance(meta["env_kwargs"]["robots"], str | list) and isinstance(meta["env_name"], str):
            # EnvRobosuite looks the device up itself; that of the machine that recorded the file means nothing here.
            meta["env_kwargs"].pop("render_gpu_device_id", None)
            return meta
    except (TypeError, ValueError, KeyError):
        pass
    remedy = "convert it with robomimic's scripts/conversion/convert_robosuite.py"
    raise MalformedError(data.file.filename, "env_args", "is missing or describes no environment of robosuite", remedy)


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
