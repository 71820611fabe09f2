"""robosuite's Lift task, as robomimic's own EnvRobosuite wraps it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robomimic_frozen.errors import ConfigError

if TYPE_CHECKING:
    from robomimic.envs.env_robosuite import EnvRobosuite

ENV_NAME = "Lift"


def make_physics_env(seed: int) -> EnvRobosuite:
    """An environment without cameras, whose start states follow from the seed alone."""
    return _env_class()(env_name=ENV_NAME, seed=seed, **_base_kwargs())


def make_camera_env(camera_names: Sequence[str], image_size: int) -> EnvRobosuite:
    """An environment that renders `image_size` x `image_size` pixels from each camera at every step.

    Raises:
        ConfigError: the scene has no camera of one of the names.
    """
    known = make_physics_env(seed=0).env.sim.model.camera_names
    for name in camera_names:
        if name not in known:
            raise ConfigError(f"{ENV_NAME} has no camera {name!r}; choose from {', '.join(known)}")
    return _env_class().create_for_data_processing(
        env_name=ENV_NAME,
        camera_names=list(camera_names),
        camera_height=image_size,
        camera_width=image_size,
        reward_shaping=False,
        **_base_kwargs(),
    )


def env_args(env: EnvRobosuite) -> str:
    """The `env_args` attribute of a robomimic dataset: JSON from which robomimic makes this environment again."""
    meta = env.serialize()
    # EnvRobosuite looks the device up itself; the one of the machine that recorded the set means nothing elsewhere.
    meta["env_kwargs"].pop("render_gpu_device_id", None)
    return json.dumps(meta, indent=4)


def portable_model(model_xml: str) -> str:
    """The MJCF text with robosuite's folder cut from its file names; robosuite puts its own back when it loads them."""
    import robosuite

    return model_xml.replace(robosuite.__path__[0], "robosuite")


def _env_class() -> type[EnvRobosuite]:
    from robomimic_frozen.plugins import register

    # robomimic 0.3 cannot import its robosuite wrapper on a current robosuite before this.
    register()
    from robomimic.envs.env_robosuite import EnvRobosuite

    return EnvRobosuite


def _base_kwargs() -> dict[str, Any]:
    from robosuite.controllers import load_composite_controller_config

    # The robot's own default: a BASIC composite of one OSC_POSE arm and its gripper.
    return {
        "robots": ["Panda"],
        "controller_configs": load_composite_controller_config(robot="Panda"),
        "control_freq": 20,
    }
