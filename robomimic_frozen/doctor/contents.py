"""What a robomimic dataset holds, read from its first to its last number, each array in one pass."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import h5py
import numpy as np

from robomimic_frozen.doctor.findings import ERROR, WARNING, Finding, from_error
from robomimic_frozen.errors import MalformedError
from robomimic_frozen.features import rules
from robomimic_frozen.utils import hdf5

OBSERVATIONS: Final = ("obs", "next_obs")
_OF_EVERY_STEP: Final = ("actions", "states", "rewards", "dones")


@dataclass(frozen=True)
class Summary:
    """What an array holds of every step."""

    dtype: str
    shape: tuple[int, ...]  # (T, ...)
    low: float  # the smallest finite number; inf where there is none
    high: float  # the largest finite number; -inf where there is none
    not_finite: int  # numbers that are NaN or infinite
    black: int  # steps of nothing but zeros
    plain: int  # steps of the same number throughout
    still: bool  # whether all steps are the same
    sha256: str  # of shape and numbers


@dataclass
class Demo:
    """What is known of a demo. Keys are 'actions', 'obs/agentview_image'."""

    name: str
    steps: int | None = None  # its `num_samples`, of a recording its actions; None when that is missing or no number
    lengths: dict[str, int | None] = field(default_factory=dict)  # of what it has of every step; None for what is no array of numbers
    arrays: dict[str, Summary] = field(default_factory=dict)  # of those that could be read
    findings: list[Finding] = field(default_factory=list)  # of what is missing or could not be read; `where` is one of the keys, or ""


def read_demo(data: h5py.Group, name: str, recorded: bool = False) -> Demo:
    """Read the demo `name` of the group 'data', of a recording of teleoperation if `recorded`. Damage ends up among its findings."""
    demo = Demo(name)
    with _damage_noted(demo.findings):
        group = hdf5.group_in(data, name)
        names, demo.steps = hdf5.members(group), None if recorded else _num_samples(group, demo.findings)
        for key in names:
            if key.startswith(_OF_EVERY_STEP):
                _read_array(demo, group, key, key)
            elif key in OBSERVATIONS:
                _read_observations(demo, group, key)
        if "actions" not in demo.lengths:
            demo.findings.append(Finding(ERROR, "", "has no actions", "download or convert the file again"))
        if recorded:  # without the attribute
            demo.steps = demo.lengths.get("actions")
    return demo


def read_filter_keys(file: h5py.File, findings: list[Finding]) -> dict[str, list[str]]:
    """Return filter key -> the demos it names, of those that can be read. Adds what is wrong with the others to `findings`."""
    filter_keys = {}
    with _damage_noted(findings):
        mask = hdf5.find_group(file, "mask")
        for name in [] if mask is None else hdf5.members(mask):
            with _damage_noted(findings):
                filter_keys[name] = hdf5.strings(hdf5.array_in(mask, name))
    return filter_keys


@contextlib.contextmanager
def _damage_noted(findings: list[Finding], where: str = "") -> Iterator[None]:
    try:
        yield
    except MalformedError as error:
        findings.append(from_error(error, where))


def _num_samples(group: h5py.Group, findings: list[Finding]) -> int | None:
    length = rules.as_length(hdf5.attribute(group, "num_samples"))
    if isinstance(length, rules.Fault):
        findings.append(Finding(ERROR, "", *length))
        return None
    return length


def _read_observations(demo: Demo, group: h5py.Group, name: str) -> None:
    with _damage_noted(demo.findings, name):
        observations = hdf5.group_in(group, name)
        for key in hdf5.members(observations):
            if hdf5.holds_group(observations, key):
                what, remedy = "is a group; what is nested was not looked at", f"put arrays right into {name}"
                demo.findings.append(Finding(WARNING, f"{name}/{key}", what, remedy))
            else:
                _read_array(demo, observations, key, f"{name}/{key}")


def _read_array(demo: Demo, parent: h5py.Group, name: str, key: str) -> None:
    demo.lengths[key] = None
    with _damage_noted(demo.findings, key):
        array = hdf5.array_in(parent, name)
        if fault := rules.numbers_fault(array.dtype, array.shape):
            demo.findings.append(Finding(ERROR, key, *fault))
            return
        demo.lengths[key] = array.shape[0]
        if array.is_virtual:
            what = "is virtual: its numbers are in other files, and were not looked at"
            demo.findings.append(Finding(WARNING, key, what, "copy them into this file"))
        else:
            demo.arrays[key] = _summarize(array)


def _summarize(array: h5py.Dataset) -> Summary:
    """Sum up an array of real numbers with at least one dimension. Raises MalformedError if it cannot be read."""
    low, high, not_finite, black, plain, still = math.inf, -math.inf, 0, 0, 0, True
    first: np.ndarray | None = None
    digest = hashlib.sha256(str(array.shape).encode())
    for block in hdf5.blocks(array):
        digest.update(np.ascontiguousarray(block).data)
        rows = block.reshape(len(block), -1)
        if not rows.size:
            continue
        first = rows[0].copy() if first is None else first
        still = still and bool((rows == first).all())
        lows, highs = rows.min(axis=1), rows.max(axis=1)
        numbers = np.stack([lows, highs])
        if rows.dtype.kind == "f":
            numbers = rows[np.isfinite(rows)]
            not_finite += rows.size - numbers.size
        if numbers.size:
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
        black += int(((lows == 0) & (highs == 0)).sum())
        plain += int((lows == highs).sum())
    return Summary(str(array.dtype), array.shape, low, high, not_finite, black, plain, still, digest.hexdigest())
