"""`register()`, which makes stock robomimic know this package."""

from __future__ import annotations

import functools

from robomimic_frozen.integration import patches
from robomimic_frozen.plugins import provided
from robomimic_frozen.simulation.gl import provide_mujoco_py, render_where_cuda_is_hidden


@functools.lru_cache(maxsize=1)
def register() -> None:
    """Make robomimic know the algorithms, configs and cores of every plugin. Calling it again does nothing."""
    provide_mujoco_py()
    render_where_cuda_is_hidden()
    provided("robomimic_components")
    patches.restore_without_weights_files()
    patches.serve_cached_features()
    patches.normalize_observations_that_have_statistics()
