"""What is wrong with an array of a demo, judged by its name and by what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from robomimic_frozen.doctor.content import Content
from robomimic_frozen.doctor.findings import Finding, Severity

STORE_UINT8: Final = "store images as uint8 [T, H, W, 3] of 0 to 255; robomimic itself divides by 255"
RECORD_AGAIN: Final = "record or render these demos again, or leave them out with a filter key"


def judge_length(key: str, length: int, steps: int) -> Iterator[Finding]:
    """What is wrong with an array of this length in a demo of so many steps.

    Args:
        key: its name within the demo: 'actions', 'obs/agentview_image'.
    """
    if length != steps:
        what = "is shorter than num_samples says: the demo is truncated" if length < steps else "is longer than num_samples says"
        remedy = "download or convert the file again, or leave these demos out with a filter key"
        yield Finding(Severity.ERROR, key, what, remedy, f"{length} steps, num_samples is {steps}")


def judge_content(key: str, content: Content) -> Iterator[Finding]:
    """What is wrong with what an array holds, whatever its length."""
    if content.not_finite:
        detail = f"{content.not_finite} numbers"
        yield Finding(Severity.ERROR, key, "holds NaN or infinite numbers, which end training", RECORD_AGAIN, detail)
    if key == "actions":
        yield from _judge_actions(key, content)
    if is_image(key, content):
        yield from _judge_image(key, content)


def is_image(key: str, content: Content) -> bool:
    """Whether an observation looks like RGB images, by its name or by its shape."""
    group, _, name = key.rpartition("/")
    return group.endswith("obs") and ("image" in name or "rgb" in name or (len(content.shape) == 4 and 3 in content.shape[1::2]))


def _judge_actions(key: str, content: Content) -> Iterator[Finding]:
    if len(content.shape) != 2:
        yield Finding(Severity.ERROR, key, "are not [T, action dim]", "store one vector for each step", str(list(content.shape)))
    if content.low < -1 or content.high > 1:
        what = "leave [-1, 1], to which robosuite clips them and robomimic's policies are made"
        remedy = "scale actions to [-1, 1]; the controller in env_args says what 1 means"
        yield Finding(Severity.WARNING, key, what, remedy, f"{content.low:.4g} to {content.high:.4g}")


def _judge_image(key: str, content: Content) -> Iterator[Finding]:
    shape, span = content.shape, f"{content.low:.4g} to {content.high:.4g}"
    if len(shape) != 4 or shape[-1] != 3:
        what = "has channels first" if len(shape) == 4 and shape[1] == 3 else "is no sequence of RGB images"
        yield Finding(Severity.ERROR, key, what, STORE_UINT8, f"[T, {', '.join(map(str, shape[1:]))}]")
    if content.dtype != "uint8":
        normalized = content.low < 0 or content.high <= 1
        what = f"is {content.dtype}, {'and normalised' if normalized else 'not uint8'}"
        yield Finding(Severity.ERROR, key, what, STORE_UINT8, span)
    elif content.high == 1:
        yield Finding(Severity.ERROR, key, "holds only 0 and 1: normalised images that were cut to integers", STORE_UINT8)
    yield from _judge_frames(key, content)


def _judge_frames(key: str, content: Content) -> Iterator[Finding]:
    length = content.shape[0]
    of_all = f"{content.plain} of {length} frames"
    if length and content.black == length:
        yield Finding(Severity.ERROR, key, "is black in every frame", "render with another MUJOCO_GL (egl or osmesa)")
    elif content.plain:
        colour = "black" if content.black == content.plain else "of one colour"
        yield Finding(Severity.WARNING, key, f"has frames that are {colour}", RECORD_AGAIN, of_all)
    elif length > 1 and content.still:
        yield Finding(Severity.WARNING, key, "shows the same image at every step", "see whether the camera was on; " + RECORD_AGAIN)
