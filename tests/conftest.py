from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("sim"):
            item.add_marker(pytest.mark.unit)


@pytest.fixture(scope="session")
def lift_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real, scripted Lift demonstrations with two 84x84 cameras. Do not write to it."""
    from robomimic_frozen import compat
    from robomimic_frozen.data import generate_demos

    compat.select_gl_backend()
    path = tmp_path_factory.mktemp("lift") / "lift.hdf5"
    generate_demos(path, num_demos=6, seed=1, workers=2, progress=False)
    return path
