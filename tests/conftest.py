from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import filelock
import pytest

# Also for the processes that tests start. Where train.py has its two threads, they sleep while they wait, not spin. OpenMP
# reads this when torch is imported.
os.environ |= {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

import torch

from robomimic_frozen.utils.machine import usable_cores


def pytest_configure() -> None:
    # The tests run in a process for each core, and one; more threads than that would wait for one another. robomimic's train.py asks
    # for two, which would stay for every test that comes after one that runs it in this process.
    torch.set_num_threads(1)
    torch.set_num_threads = lambda count: None  # type: ignore[assignment]


pytest_plugins = ["reliability", "third_parties"]

# The files that take longest, in the order in which they begin, so that no process is left alone with one in the end. One
# process makes the dataset for the first; the next two have tests that do without it.
LONGEST_FILES = (
    "test_evaluation.py", "test_demos.py", "test_mutated_configs.py", "test_kills.py", "test_study.py", "test_executors.py",
    "test_stock_scripts.py", "test_push_and_fetch.py", "test_cached_training.py", "test_data_rendering.py", "test_hostile_folders.py",
    "test_packaging.py",
)
# Tests of these need not share a process: no fixture of their module takes long.
DIVISIBLE_FILES = ("test_study.py", "test_stock_scripts.py", "test_push_and_fetch.py", "test_hostile_folders.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    needing_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if needing_gpu and not torch.cuda.is_available():
        config.hook.pytest_deselected(items=needing_gpu)
        items[:] = [item for item in items if item not in needing_gpu]
    for item in items:
        if not item.get_closest_marker("sim"):
            item.add_marker(pytest.mark.unit)
    items.sort(key=_place)  # which leaves the order within a file, and of all other files, random


def _place(item: pytest.Item) -> int:
    return LONGEST_FILES.index(item.path.name) if item.path.name in LONGEST_FILES else len(LONGEST_FILES)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: many tests wait for a process, or for the dataset."""
    return usable_cores() + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By file, as --dist=loadfile does it, except for files whose tests are few, long and independent."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return nodeid if file.endswith(DIVISIBLE_FILES) else file

    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def lift_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real, scripted Lift demonstrations with two 84x84 cameras, made once for all processes. Do not write to it."""
    from robomimic_frozen.data import generate_demos
    from robomimic_frozen.simulation.gl import select_gl_backend
    from robomimic_frozen.utils.parallel import ThisProcess

    select_gl_backend()
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    path = shared / "lift.hdf5"
    with filelock.FileLock(shared / "lift.lock"):
        if not path.exists():
            # Here: a worker takes longer to start than a demonstration, and the other tests have use for the other core.
            with mock.patch("robomimic_frozen.data.demos.Processes", return_value=ThisProcess()):
                generate_demos(path, num_demos=4, seed=1, workers=1, progress=False)
    return path
