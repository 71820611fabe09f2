"""Every bridge to a particular robomimic, robosuite or torch, one named function each, with its reason."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import inspect
import logging
import os
import subprocess
import sys
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from robomimic_frozen._autoload import watch
from robomimic_frozen.errors import CacheUnavailableError, ConfigError, RenderingError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from robomimic.config.config import Config
    from robomimic.envs.env_robosuite import EnvRobosuite
    from robomimic.utils.dataset import SequenceDataset

logger = logging.getLogger(__name__)

GL_BACKENDS = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
"""MUJOCO_GL -> the Debian packages that provide it."""


@functools.lru_cache(maxsize=1)
def provide_mujoco_py() -> None:
    """Let robomimic 0.3 import its robosuite environments without mujoco_py.

    `robomimic/envs/env_robosuite.py` imports mujoco_py whatever the robosuite, for one exception class. robosuite 1.5
    uses DeepMind's bindings instead. The stand-in is visible to that one module only.
    """
    if importlib.util.find_spec("mujoco_py") is None:
        watch("robomimic.envs.env_robosuite", _load_with_stand_in)


def _load_with_stand_in(load: Callable[[], None]) -> None:
    import mujoco

    stand_in = types.ModuleType("mujoco_py")
    stand_in.builder = types.SimpleNamespace(MujocoException=mujoco.FatalError)  # type: ignore[attr-defined]
    sys.modules["mujoco_py"] = stand_in
    try:
        load()
    finally:
        del sys.modules["mujoco_py"]


def render_where_cuda_is_hidden() -> None:
    """Let robosuite 1.5 render where CUDA_VISIBLE_DEVICES is empty, as Ray and users set it for processes without a GPU.

    It takes the number of its EGL device from there, and an empty text is no number.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        os.environ.setdefault("MUJOCO_EGL_DEVICE_ID", "0")


def build_restored_policies_without_weights_files() -> None:
    """Let `policy_from_checkpoint` work where the ImageNet weights are not at hand, and refuse damaged checkpoints.

    robomimic builds the network first and copies the checkpoint into it afterwards, so the encoder cannot know that
    its pretrained weights are about to be replaced. torch does not look at the checksums it writes.
    """
    import robomimic.utils.file_utils as FileUtils

    original = getattr(FileUtils, "policy_from_checkpoint", None)
    if original is None or hasattr(original, "__wrapped__"):
        return  # file_utils is importing robomimic.algo just now; _autoload calls again when it is done

    @functools.wraps(original)
    def policy_from_checkpoint(*args, **kwargs):
        from robomimic_frozen.encoders.weights import restoring_checkpoint

        path = inspect.signature(original).bind(*args, **kwargs).arguments.get("ckpt_path")
        if path is not None:
            _refuse_damage(Path(path).expanduser())
        with restoring_checkpoint():
            return original(*args, **kwargs)

    FileUtils.policy_from_checkpoint = policy_from_checkpoint


def _refuse_damage(checkpoint: Path) -> None:
    from robomimic_frozen.checkpoints import check_sums

    if zipfile.is_zipfile(checkpoint):
        try:
            check_sums(checkpoint)
        except ValueError as error:
            raise ConfigError(f"checkpoint {checkpoint} is {error}; use another one") from error


def serve_cached_features() -> None:
    """Let `TrainUtils.dataset_factory` make a dataset of cached features for the configs that ask for one."""
    import robomimic.utils.train_utils as TrainUtils

    original = getattr(TrainUtils, "dataset_factory", None)
    if original is None or hasattr(original, "__wrapped__"):
        return  # as in build_restored_policies_without_weights_files

    @functools.wraps(original)
    def dataset_factory(config, obs_keys, filter_by_attribute=None, *args, **kwargs):
        from robomimic_frozen.features.factory import dataset_class

        replacement = dataset_class(config, filter_by_attribute)
        if replacement is not None:
            try:
                with in_place_of_sequence_dataset(replacement):
                    return original(config, obs_keys, filter_by_attribute, *args, **kwargs)
            except CacheUnavailableError as error:
                logger.warning("%s; training without it, on pixels", error)
        return original(config, obs_keys, filter_by_attribute, *args, **kwargs)

    TrainUtils.dataset_factory = dataset_factory


def normalize_observations_that_have_statistics() -> None:
    """Make `train.hdf5_normalize_obs` work with images, which keep the normalisation of their backbone.

    robomimic asserts that every observation has statistics of its own shape. Before 0.5 (normalize_obs) no training batch
    passes that, for its leading dimensions, and would be normalized twice, by the dataset and by the algo; in 0.5
    (normalize_dict) no image passes it in rollouts, for it is still [H, W, 3].
    """
    import robomimic.utils.obs_utils as ObsUtils
    from robomimic.utils.dataset import SequenceDataset

    if hasattr(ObsUtils, "normalize_obs") and not hasattr(SequenceDataset.get_item, "__wrapped__"):
        SequenceDataset.get_item = _without_normalization(SequenceDataset.get_item)

    for name, shift, scale in (("normalize_obs", "mean", "std"), ("normalize_dict", "offset", "scale")):
        original = getattr(ObsUtils, name, None)
        if original is None or hasattr(original, "__wrapped__"):
            continue

        @functools.wraps(original)
        def normalize(values, *stats, shift=shift, scale=scale, **named_stats):
            of_keys = [*stats, *named_stats.values()][0]
            for key in values.keys() & of_keys.keys():
                values[key] = (values[key] - of_keys[key][shift][0]) / of_keys[key][scale][0]
            return values

        setattr(ObsUtils, name, normalize)


def _without_normalization(get_item: Callable[..., dict]) -> Callable[..., dict]:
    @functools.wraps(get_item)
    def raw_item(dataset, index):
        with mock.patch.object(dataset, "hdf5_normalize_obs", False):
            return get_item(dataset, index)

    return raw_item


@contextlib.contextmanager
def in_place_of_sequence_dataset(dataset_class: Callable[..., SequenceDataset]) -> Iterator[None]:
    """Within it, `TrainUtils.dataset_factory` makes datasets of this class.

    All versions of it make each SequenceDataset by that name, with arguments of their own (0.5: one for each entry of
    a list), so the name is what is exchanged. So is 0.5's MetaDataset, which would ask for items one by one.
    """
    import robomimic.utils.train_utils as TrainUtils

    from robomimic_frozen.features.dataset import gathering_batches

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(TrainUtils, "SequenceDataset", dataset_class))
        if hasattr(TrainUtils, "MetaDataset"):
            batched = gathering_batches(TrainUtils.MetaDataset)
            stack.enter_context(mock.patch.object(TrainUtils, "MetaDataset", batched))
        yield


def list_the_dataset(config: Config) -> None:
    """Write a dataset's path as robomimic 0.5's `dataset_factory` takes it; its train.py does so itself."""
    import robomimic.utils.train_utils as TrainUtils

    if hasattr(TrainUtils, "MetaDataset") and isinstance(config.train.data, str):
        with config.values_unlocked():
            config.train.data = [{"path": config.train.data}]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is faster than float32 there; torch has no public name for the CPU's answer."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device.type == "cpu" and any(getattr(torch.cpu, flag, bool)() for flag in flags)


def hub_http_error() -> type[Exception]:
    """What the HTTP library under huggingface_hub raises, which is another one in each of its major versions."""
    from huggingface_hub.utils import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def create_env_for_data_processing(env_meta: Mapping[str, Any], **view: Any) -> EnvRobosuite:
    """robomimic's function of that name. Since 0.5 it must be told that no depth is wanted, to write so."""
    import robomimic.utils.env_utils as EnvUtils

    create = EnvUtils.create_env_for_data_processing
    no_depth = {"use_depth_obs": False} if "use_depth_obs" in inspect.signature(create).parameters else {}
    return create(env_meta=dict(env_meta), reward_shaping=False, **view, **no_depth)


def extract_trajectory(
    env: EnvRobosuite, start: Mapping[str, Any], states: np.ndarray, actions: np.ndarray, **view: Any
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """robomimic's function of that name, with `done_mode` 2 as for its released human demonstrations.

    Since 0.5 it also tells where the cameras are: the second of what is returned, None before.
    """
    from robomimic.scripts.dataset_states_to_obs import extract_trajectory as extract

    arguments = {"env": env, "initial_state": dict(start), "states": states, "actions": actions, "done_mode": 2}
    if "camera_names" not in inspect.signature(extract).parameters:
        return extract(**arguments), None
    return extract(**arguments, actions_abs=None, **view)


def select_gl_backend() -> str:
    """Set MUJOCO_GL to a backend that renders here, unless the user has set it. Returns its name.

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
    install = " or ".join(f"apt-get install {packages}" for packages in GL_BACKENDS.values())
    raise RenderingError(f"no OpenGL backend renders here; on Debian or Ubuntu: {install}")


def rendering_failure(backend: str) -> str | None:
    """Render one frame in a fresh interpreter; the reason for its failure, or None."""
    script = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"
    try:
        result = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "it did not answer within 60 s"
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {result.returncode}"
