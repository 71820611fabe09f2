"""The tasks that can be shown, and robosuite's environments of them, as robomimic's own EnvRobosuite wraps them."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from robomimic_frozen.errors import ConfigError, did_you_mean
from robomimic_frozen.plugins import provided
from robomimic_frozen.simulation.gl import prepare_robosuite

if TYPE_CHECKING:
    import numpy as np
    from robomimic.envs.env_robosuite import EnvRobosuite

    Policy = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Operator:
    """Somebody who shows a task; a subclass adds how well.

    Attributes:
        name: unique among the operators of a task.
        group: those of like proficiency; also the filter key that their demonstrations are listed under.
    """

    name: str
    group: str


@dataclass(frozen=True)
class Task:
    """A task of one robot arm, and those who show it. Worker processes get it, so that all of it is hashable and picklable.

    Attributes:
        name: what users call it.
        env_name: what robosuite calls it.
        cameras: those that are recorded unless the user names others.
        image_size: height and width of their images in pixels, unless the user wants another one.
        horizon: steps after which an episode of a policy has failed.
        operators: demonstration i is shown by operator i modulo their number.
        make_policy: makes what acts for an operator in one episode, observation -> action, with this source of random numbers.
        demo_horizon: steps after which an attempt of an operator has failed; None for `horizon`.
        hold_steps: steps that a demonstration goes on after its first success, so that a policy also sees what comes then.
        quickstart_demos: demonstrations that `quickstart` trains on, unless the user says how many.
    """

    name: str
    env_name: str
    cameras: tuple[str, ...]
    image_size: int
    horizon: int
    operators: tuple[Operator, ...]
    make_policy: Callable[[Any, np.random.Generator], Policy]
    demo_horizon: int | None = None
    hold_steps: int = 8
    quickstart_demos: int = 30


def get_task(name: str) -> Task:
    """Return the task of this name, by whatever plugin. Raises ConfigError, which names those that there are."""
    known = {task.name: task for task in provided("tasks")}
    if name not in known:
        tasks = f"the tasks are {', '.join(known)}"
        raise ConfigError(f"there is no task {name!r}; {did_you_mean(name, known, tasks)}")
    return known[name]


def make_physics_env(env_name: str, seed: int) -> EnvRobosuite:
    """Return an environment without cameras, whose start states follow from the seed alone."""
    return _env_class()(env_name=env_name, seed=seed, **_base_kwargs())


def make_camera_env(env_name: str, camera_names: Sequence[str], image_size: int) -> EnvRobosuite:
    """Return an environment that renders these cameras at every step. Raises ConfigError if the scene lacks one of them."""
    known = make_physics_env(env_name, seed=0).env.sim.model.camera_names
    for name in camera_names:
        if name not in known:
            raise ConfigError(f"{env_name} has no camera {name!r}; choose from {', '.join(known)}")
    view = {"camera_names": list(camera_names), "camera_height": image_size, "camera_width": image_size}
    return _env_class().create_for_data_processing(env_name=env_name, reward_shaping=False, **view, **_base_kwargs())


def _env_class() -> type[EnvRobosuite]:
    prepare_robosuite()
    from robomimic.envs.env_robosuite import EnvRobosuite

    return EnvRobosuite


def _base_kwargs() -> dict[str, Any]:
    from robosuite.controllers import load_composite_controller_config

    # The robot's own default: a BASIC composite of one OSC_POSE arm and its gripper.
    controller = load_composite_controller_config(robot="Panda")
    return {"robots": ["Panda"], "controller_configs": controller, "control_freq": 20}


def env_args(env: EnvRobosuite) -> str:
    """Return the `env_args` attribute of a robomimic dataset: JSON from which robomimic makes this environment again."""
    meta = env.serialize()
    meta["env_kwargs"].pop("render_gpu_device_id", None)  # that of this machine; EnvRobosuite looks it up itself
    return json.dumps(meta, indent=4)


def portable_model(model_xml: str) -> str:
    """Return MJCF text with robosuite's folder cut from its file names; robosuite puts its own back when it loads them."""
    import robosuite

    return model_xml.replace(robosuite.__path__[0], "robosuite")


@contextlib.contextmanager
def seeded_robosuite(seed: int) -> Iterator[None]:
    """Make new robosuite environments repeat the same start states while the block runs.

    robosuite 1.5 draws from a generator of its own, which numpy's global seed, that of robomimic's `--seed`, does not reach.
    """
    import robosuite

    with mock.patch.object(robosuite, "make", functools.partial(robosuite.make, seed=seed)):
        yield
