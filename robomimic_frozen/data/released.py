"""The raw human demonstrations that robomimic has released for robosuite 1.5 (https://robomimic.github.io/docs/datasets)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HUB_REPO: Final = "robomimic/robomimic_datasets"

_TASKS: Final = {"ph": ("lift", "can", "square", "transport", "tool_hang"), "mh": ("lift", "can", "square", "transport")}

RELEASED: Final[Mapping[str, str]] = {
    f"{task}-{people}": f"v1.5/{task}/{people}/demo_v15.hdf5" for people, tasks in _TASKS.items() for task in tasks
}
"""Name of a set, proficient (ph) or multi-human (mh) -> its file in the hub's repository."""


def default_view(env_name: str) -> tuple[tuple[str, ...], int]:
    """Cameras and image size that robomimic renders its own image datasets with (its extract_obs_from_raw_datasets.sh)."""
    if env_name == "TwoArmTransport":
        return ("shouldercamera0", "shouldercamera1", "robot0_eye_in_hand", "robot1_eye_in_hand"), 84
    if env_name == "ToolHang":
        return ("sideview", "robot0_eye_in_hand"), 240
    return ("agentview", "robot0_eye_in_hand"), 84
