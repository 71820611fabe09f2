"""The choice of an OpenGL backend that renders here, and what lets robomimic start with robosuite without a GPU or mujoco_py."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any, Final

from robomimic_frozen._autoload import watch
from robomimic_frozen.errors import RenderingError

GL_BACKENDS: Final = ("egl", "osmesa")
ADDING_ENVIRONMENTS: Final = ("mimicgen", "robocasa")  # to robosuite, when they are imported
HOW_TO_INSTALL: Final = "on Debian or Ubuntu: apt-get install libegl1 libgl1-mesa-dri or apt-get install libosmesa6"


def select_gl_backend() -> str:
    """Set MUJOCO_GL to a backend that renders here, unless the user has set it, and return its name.

    MuJoCo reads MUJOCO_GL once, when it is imported, so each candidate is tried in a process of its own.

    Raises:
        RenderingError: none works, or the user's choice does not.
    """
    chosen = os.environ.get("MUJOCO_GL")
    for backend in [chosen] if chosen else GL_BACKENDS:
        reason = rendering_failure(backend)
        if reason is None:
            os.environ["MUJOCO_GL"] = backend
            return backend
    if chosen:
        raise RenderingError(f"MUJOCO_GL={chosen} cannot render here ({reason}); unset MUJOCO_GL to choose automatically")
    raise RenderingError(f"no OpenGL backend renders here; {HOW_TO_INSTALL}")


@functools.cache
def rendering_failure(backend: str) -> str | None:
    """Render one frame in a fresh interpreter, and return the reason for its failure, or None. Asked again, return the same answer."""
    script = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"
    environment = {**os.environ, "MUJOCO_GL": backend}
    try:
        result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "it did not answer within 60 s"
    if result.returncode == 0:
        return None
    return (result.stderr.strip() or f"exit status {result.returncode}").splitlines()[-1]


def limit_rendering_threads(count: int = 1) -> None:
    """Let a software renderer have so many threads, unless the user has said how many: one for every core is no faster.

    To be called in a worker before OpenGL is loaded.
    """
    os.environ.setdefault("LP_NUM_THREADS", str(count))


def prepare_robosuite() -> None:
    """Let robomimic 0.3 import its robosuite environments without mujoco_py, with those of other packages, and render where CUDA is hidden.

    `robomimic/envs/env_robosuite.py` imports mujoco_py whatever the robosuite, for one exception class; the stand-in is visible to that
    one module only. In robomimic 0.5 it imports mimicgen and robocasa, too, which add environments to robosuite. robosuite takes the
    number of its EGL device from CUDA_VISIBLE_DEVICES, which Ray and users leave empty for processes without a GPU.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", "0")
    if importlib.util.find_spec("mujoco_py") is None:
        watch("robomimic.envs.env_robosuite", _load_with_stand_in)
    watch("robomimic.envs.env_robosuite", _load_with_other_packages)


def _load_with_other_packages(load: Callable[[], None]) -> None:
    load()
    for name in ADDING_ENVIRONMENTS:
        # What is not installed, or badly: `check_can_be_made` says why to those who ask for its environments.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _load_with_stand_in(load: Callable[[], None]) -> None:
    import mujoco

    stand_in: Any = types.ModuleType("mujoco_py")
    stand_in.builder = types.SimpleNamespace(MujocoException=mujoco.FatalError)
    sys.modules["mujoco_py"] = stand_in
    try:
        load()
    finally:
        del sys.modules["mujoco_py"]
