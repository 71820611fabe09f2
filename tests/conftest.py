from __future__ import annotations

import os
from pathlib import Path

import filelock
import pytest
import torch


def pytest_configure() -> None:
    # The tests run in one process for each core; more threads than that would wait for one another.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("sim"):
            item.add_marker(pytest.mark.unit)


@pytest.fixture(scope="session")
def lift_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real, scripted Lift demonstrations with two 84x84 cameras, made once for all processes. Do not write to it."""
    from robomimic_frozen import compat
    from robomimic_frozen.data import generate_demos

    compat.select_gl_backend()
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    path = shared / "lift.hdf5"
    with filelock.FileLock(shared / "lift.lock"):
        if not path.exists():
            generate_demos(path, num_demos=6, seed=1, workers=2, progress=False)
    return path
