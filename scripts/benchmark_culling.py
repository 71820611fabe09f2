"""Milliseconds for an image with all geoms and with those that its camera sees, taking turns, along a demonstration.

    python scripts/benchmark_culling.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np

os.environ.setdefault("LP_NUM_THREADS", "1")  # of a software renderer, as in the workers of `robomimic-frozen demos`


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["lift", "can", "square"])
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    from robomimic_frozen.simulation.gl import select_gl_backend

    select_gl_backend()
    print("| task | camera | all geoms | those seen | ratio |\n|---|---|---|---|---|")
    for task in arguments.tasks:
        for camera, (whole, culled) in measure(task, arguments.rounds).items():
            print(f"| {task} | `{camera}` | {whole:.1f} ms | {culled:.1f} ms | {whole / culled:.1f}x |")


def measure(task_name: str, rounds: int) -> dict[str, list[float]]:
    """Return camera -> median milliseconds with all geoms, and with those seen. Raises AssertionError if an image differs."""
    import robomimic.utils.obs_utils as ObsUtils

    import robomimic_frozen
    from robomimic_frozen.simulation.cameras import CameraGate, CulledRenderContext, KeptRenderer
    from robomimic_frozen.simulation.tasks import get_task, make_camera_env

    robomimic_frozen.register()
    task = get_task(task_name)
    ObsUtils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": ["object"], "rgb": [f"{name}_image" for name in task.cameras]}})
    env = make_camera_env(task.env_name, task.cameras, task.image_size)
    env.reset()
    gate = CameraGate(env.env, KeptRenderer())
    obs = gate.reset_to(env.reset_to, env.get_state())
    policy = task.make_policy(task.operators[0], np.random.default_rng(0))
    sim, seconds = env.env.sim, {camera: ([], []) for camera in task.cameras}
    gate.is_open = False
    for _ in range(rounds):
        for _ in range(5):
            obs, *_ = env.step(policy(obs))
        for camera, times in seconds.items():
            images = []
            for kind, taken in zip((CulledRenderContext.__base__, CulledRenderContext), times, strict=True):
                sim._render_context_offscreen.__class__ = kind
                start = time.perf_counter()
                images.append(sim.render(task.image_size, task.image_size, camera_name=camera))
                taken.append(1000 * (time.perf_counter() - start))
            assert np.array_equal(*images), f"{task.name}: {camera} differs"
    return {camera: [statistics.median(taken) for taken in times] for camera, times in seconds.items()}


if __name__ == "__main__":
    main()
