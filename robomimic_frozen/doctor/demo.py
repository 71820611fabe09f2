"""One demo of an HDF5 file, read from its first to its last number."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import h5py

from robomimic_frozen import hdf5
from robomimic_frozen.doctor.content import Content, summarize
from robomimic_frozen.doctor.findings import Finding, Severity, from_error
from robomimic_frozen.doctor.judgement import judge_content, judge_length
from robomimic_frozen.errors import MalformedError

OBSERVATIONS = ("obs", "next_obs")
_OF_EVERY_STEP = ("actions", "states", "rewards", "dones")


@dataclass
class Demo:
    """What is known of a demo.

    Attributes:
        name: 'demo_0'.
        steps: its `num_samples`; None when that is missing or no number.
        keys: of what it has of every step, readable or not: 'actions', 'obs/agentview_image'.
        contents: of those that could be read.
        findings: what is wrong with it; `where` is one of the keys, or "".
    """

    name: str
    steps: int | None = None
    keys: list[str] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)


def examine_demo(data: h5py.Group, name: str) -> Demo:
    """Read the demo `name` of the group 'data'. Damage ends up among its findings."""
    demo = Demo(name)
    try:
        group = hdf5.group_in(data, name)
        names = hdf5.members(group)
        demo.steps, demo.findings = _num_samples(group)
    except MalformedError as error:
        demo.findings = [from_error(error)]
        return demo
    for key in names:
        if key.startswith(_OF_EVERY_STEP):
            _examine_array(demo, group, "", key)
        elif key in OBSERVATIONS:
            _examine_observations(demo, group, key)
    if "actions" not in demo.keys:
        demo.findings.append(Finding(Severity.ERROR, "", "has no actions", "download or convert the file again"))
    return demo


def _num_samples(group: h5py.Group) -> tuple[int | None, list[Finding]]:
    value = hdf5.attribute(group, "num_samples")
    try:
        steps = operator.index(value)
    except TypeError:
        what = "has no attribute num_samples" if value is None else "has a num_samples that is no whole number"
        remedy = "set it to the number of steps, as robomimic's scripts/conversion do"
        return None, [Finding(Severity.ERROR, "", what, remedy, "" if value is None else repr(value))]
    if steps < 1:
        return steps, [Finding(Severity.ERROR, "", "has no steps", "leave it out with a filter key", f"num_samples is {steps}")]
    return steps, []


def _examine_observations(demo: Demo, group: h5py.Group, name: str) -> None:
    try:
        observations = hdf5.group_in(group, name)
        for key in hdf5.members(observations):
            if hdf5.holds_group(observations, key):
                what, remedy = "is a group; what is nested was not looked at", f"put arrays right into {name}"
                demo.findings.append(Finding(Severity.WARNING, f"{name}/{key}", what, remedy))
            else:
                _examine_array(demo, observations, f"{name}/", key)
    except MalformedError as error:
        demo.findings.append(from_error(error, name))


def _examine_array(demo: Demo, parent: h5py.Group, prefix: str, name: str) -> None:
    key = prefix + name
    demo.keys.append(key)
    try:
        array = hdf5.array_in(parent, name)
        if array.dtype.kind not in "biuf" or not array.ndim:
            what, detail = "is no sequence of numbers", f"{array.dtype} {list(array.shape)}"
            demo.findings.append(Finding(Severity.ERROR, key, what, "store [T, ...] numbers", detail))
            return
        if demo.steps is not None:
            demo.findings += judge_length(key, array.shape[0], demo.steps)
        if array.is_virtual:
            what = "is virtual: its numbers are in other files, and were not looked at"
            demo.findings.append(Finding(Severity.WARNING, key, what, "copy them into this file"))
        else:
            demo.contents[key] = summarize(array)
            demo.findings += judge_content(key, demo.contents[key])
    except MalformedError as error:
        demo.findings.append(from_error(error, key))
