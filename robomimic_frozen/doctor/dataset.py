"""What is wrong with what a robomimic dataset holds: with each demo, with all of them together, and beside a config."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tqdm import tqdm

from robomimic_frozen.doctor.contents import OBSERVATIONS, Demo, Summary, read_demo, read_filter_keys
from robomimic_frozen.doctor.findings import ERROR, NOTE, WARNING, Examination, Finding, from_error, grouped, some_of
from robomimic_frozen.errors import MalformedError, RobomimicFrozenError
from robomimic_frozen.features import rules
from robomimic_frozen.features.source import demos_in
from robomimic_frozen.simulation.environments import (
    NO_ENVIRONMENT,
    RECORDING,
    ROBOSUITE_TYPE,
    check_can_be_made,
    check_complete,
    described_environment,
    is_recording,
)
from robomimic_frozen.utils import hdf5
from robomimic_frozen.utils.machine import installed_version

if TYPE_CHECKING:
    import h5py

_RECORD_AGAIN: Final = "record or render these demos again, or leave them out with a filter key"
_CONFIG: Final = "config"


def examine_dataset(path: Path, config_path: str | None = None, alive: Callable[[], object] = lambda: None) -> Examination:
    """Read all of an HDF5 file and judge it. What is damaged in it ends up among the findings.

    Args:
        config_path: a config that it should fit.
        alive: called before each demo.

    Raises:
        DatasetError: it cannot be opened, or has no demos at all.
    """
    with hdf5.opened(path) as file:
        data = hdf5.group_in(file, "data")
        names = hdf5.members(data)
        if not names:
            raise MalformedError(str(path), "data", "has no demos")
        recorded = is_recording(data)
        metadata, findings = _environment_in(path, file)
        demos = []
        for name in tqdm(names, desc=path.name, unit="demo", leave=False, delay=3):
            alive()
            demos.append(read_demo(data, name, recorded))
        findings += _judge_listing(names, hdf5.attribute(data, "total"), demos)
        findings += grouped((demo.name, finding) for demo in demos for finding in (*demo.findings, *_judge_demo(demo, metadata)))
        findings += [*_missing_keys(demos), *_differing_layouts(demos), *_duplicates(demos)]
        findings += [Finding(WARNING, "data", *RECORDING)] if recorded else _missing_images(demos)
        filter_keys = read_filter_keys(file, findings)
    findings += _judge_filter_keys(filter_keys, names)
    if config_path is not None:
        findings += _misfits(config_path, path, demos)
    steps = [demo.steps for demo in demos if demo.steps is not None]
    lengths = f", of {min(steps)} to {max(steps)} steps, median {statistics.median_low(steps)}" if steps else ""
    facts = {
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "environment": f"{metadata.get('env_name')}, version {metadata.get('env_version')}",
        "demos": f"{len(demos)}{lengths}",
        **{key: f"{array.dtype} {list(array.shape[1:])}" for key, array in demos[0].arrays.items()},
        "filter keys": ", ".join(f"{key} ({len(chosen)})" for key, chosen in filter_keys.items()) or "none",
    }
    return Examination(str(path), facts, findings)


def judge_environment(path: Path, where: str, metadata: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with the metadata of an environment; `where` names the attribute of the dataset or the checkpoint."""
    try:
        check_complete(str(path), where, metadata)
    except MalformedError as error:
        yield from_error(error)
        return
    try:
        check_can_be_made(str(path), where, metadata)
    except MalformedError as error:  # what has no environment here can be trained on all the same
        yield replace(from_error(error), severity=NOTE if metadata["type"] == NO_ENVIRONMENT else WARNING)
    made_with, here = metadata.get("env_version"), installed_version("robosuite")
    is_of_robosuite = metadata["type"] == ROBOSUITE_TYPE
    if is_of_robosuite and here is not None and str(made_with).split(".")[:2] != here.split(".")[:2]:
        what = f"is of robosuite {made_with or 'of unknown version'}, and {here} is installed: its physics, cameras or controllers differ"
        yield Finding(WARNING, where, what, "convert it with robomimic-frozen data, or expect lower success rates")


def _environment_in(path: Path, file: h5py.File) -> tuple[Mapping[str, Any], list[Finding]]:
    try:
        where, metadata = described_environment(file)
    except MalformedError as error:
        return {}, [from_error(error)]
    return metadata, list(judge_environment(path, where, metadata))


def _judge_listing(names: Sequence[str], total: Any, demos: Sequence[Demo]) -> Iterator[Finding]:
    yield from grouped((name, Finding(ERROR, "", *fault)) for name, fault in rules.name_faults(names))
    steps = sum(demo.steps or 0 for demo in demos)
    if total is not None and str(total) != str(steps):
        yield Finding(WARNING, "total", f"is {total}, and the demos have {steps} steps", f"set the attribute to {steps}")


def _judge_demo(demo: Demo, metadata: Mapping[str, Any]) -> Iterator[Finding]:
    if demo.steps is not None:
        if fault := rules.steps_fault(demo.steps):
            yield Finding(ERROR, "", *fault)
        for key, length in demo.lengths.items():
            if length is not None and (fault := rules.length_fault(length, demo.steps)):
                yield Finding(ERROR, key, *fault)
            elif length is not None and length > demo.steps:
                what, remedy = "is longer than num_samples says: its end is not used", "see whether num_samples is right"
                yield Finding(WARNING, key, what, remedy, f"{length} steps, num_samples is {demo.steps}")
    for key, array in demo.arrays.items():
        if array.not_finite:
            yield Finding(ERROR, key, "holds NaN or infinite numbers, which end training", _RECORD_AGAIN, f"{array.not_finite} numbers")
        if key == "actions" and (fault := rules.actions_fault(array.shape)):
            yield Finding(ERROR, key, *fault)
        if key == "actions" and (array.low < -1 or array.high > 1) and metadata.get("type") != NO_ENVIRONMENT:
            what = "leave [-1, 1], to which robosuite clips them and robomimic's policies are made"
            remedy = "scale actions to [-1, 1]; the controller in env_args says what 1 means"
            yield Finding(WARNING, key, what, remedy, f"{array.low:.4g} to {array.high:.4g}")
        if _is_image(key, array):
            yield from _judge_image(key, array)


def _is_image(key: str, array: Summary) -> bool:
    """Tell by its name or by its shape whether an observation looks like RGB images."""
    group, _, name = key.rpartition("/")
    return group in OBSERVATIONS and ("image" in name or "rgb" in name or (len(array.shape) == 4 and 3 in array.shape[1::2]))


def _judge_image(key: str, array: Summary) -> Iterator[Finding]:
    length = array.shape[0]
    if fault := rules.image_fault(array.dtype, array.shape):
        normalised = array.dtype != "uint8" and (array.low < 0 or array.high <= 1)
        what = f"is {array.dtype}, and normalised" if normalised else fault.what
        yield Finding(ERROR, key, what, fault.remedy, f"{fault.detail} of {array.low:.4g} to {array.high:.4g}")
    elif array.high == 1:
        yield Finding(ERROR, key, "holds only 0 and 1: normalised images that were cut to integers", rules.STORE_UINT8)
    if length and array.black == length:
        yield Finding(ERROR, key, "is black in every frame", "render with another MUJOCO_GL (egl or osmesa)")
    elif array.plain:
        colour = "black" if array.black == array.plain else "of one colour"
        yield Finding(WARNING, key, f"has frames that are {colour}", _RECORD_AGAIN, f"{array.plain} of {length} frames")
    elif length > 1 and array.still:
        yield Finding(WARNING, key, "shows the same image at every step", f"see whether the camera was on; {_RECORD_AGAIN}")


def _missing_keys(demos: Sequence[Demo]) -> Iterator[Finding]:
    for key in dict.fromkeys(key for demo in demos for key in demo.lengths if key != "actions"):
        if without := [demo.name for demo in demos if demo.lengths and key not in demo.lengths]:
            severity = ERROR if key.startswith(OBSERVATIONS) else WARNING
            remedy = "leave these demos out with a filter key, or convert the file again"
            yield Finding(severity, f"{key} of {some_of(without)}", "is missing, and other demos have it", remedy)


def _differing_layouts(demos: Sequence[Demo]) -> Iterator[Finding]:
    for key in dict.fromkeys(key for demo in demos for key in demo.arrays):
        layouts = {demo.name: (demo.arrays[key].shape[1:], demo.arrays[key].dtype) for demo in demos if key in demo.arrays}
        ((usual_shape, usual_dtype), _), *others = Counter(layouts.values()).most_common()
        for (shape, dtype), _ in others:
            which = [name for name, layout in layouts.items() if layout == (shape, dtype)]
            severity = WARNING if shape == usual_shape else ERROR
            what = f"is {dtype} {list(shape)}, and {usual_dtype} {list(usual_shape)} in other demos"
            yield Finding(severity, f"{key} of {some_of(which)}", what, "convert all demos in the same way, or keep them in separate files")


def _duplicates(demos: Sequence[Demo]) -> Iterator[Finding]:
    originals: dict[tuple[str | None, ...], str] = {}
    copies: dict[str, str] = {}
    for demo in demos:
        if "actions" in demo.arrays:
            content = tuple(demo.arrays[key].sha256 if key in demo.arrays else None for key in ("actions", "states"))
            if (original := originals.setdefault(content, demo.name)) != demo.name:
                copies[demo.name] = original
    if copies:
        detail = ", ".join(f"{name} is {original}" for name, original in list(copies.items())[:3])
        remedy = "leave the copies out with a filter key; one in train and one in valid make validation worthless"
        yield Finding(WARNING, some_of(list(copies)), "has the actions and states of an earlier demo", remedy, detail)


def _missing_images(demos: Sequence[Demo]) -> Iterator[Finding]:
    if any(_is_image(key, array) for demo in demos for key, array in demo.arrays.items()):
        return
    keys = {key for demo in demos for key in demo.lengths}
    any_obs = any(key.startswith(OBSERVATIONS) for key in keys)
    what = "has no image observations, only low-dimensional ones" if any_obs else "has no observations at all"
    remedy = "robomimic-frozen data FILE renders them" if "states" in keys else "there are no states to render them from; get another file"
    yield Finding(WARNING, "obs", what, remedy)


def _judge_filter_keys(filter_keys: Mapping[str, list[str]], demos: Sequence[str]) -> Iterator[Finding]:
    for key, chosen in filter_keys.items():
        where = f"filter key {key}"
        for fault in rules.filter_key_faults(chosen, demos):
            yield Finding(ERROR if chosen else WARNING, where, *fault)
        valid = key.removesuffix("train") + "valid"
        shared = [name for name in chosen if name in filter_keys.get(valid, ())]
        if key.endswith("train") and shared:
            what = f"shares {some_of(shared)} with {valid}"
            yield Finding(WARNING, where, what, "split again: validate on demos that are not trained on")


def _misfits(config_path: str, path: Path, demos: Sequence[Demo]) -> Iterator[Finding]:
    """Yield what in a dataset does not fit a config."""
    # These load torch and robomimic, which a dataset without a config can do without.
    from robomimic_frozen.integration.checks import check_config, splits_of
    from robomimic_frozen.integration.environments import check_rollouts
    from robomimic_frozen.integration.registration import register
    from robomimic_frozen.integration.settings import load_config

    register()
    try:
        config = load_config(config_path, None, str(path), [])
        doubts = check_config(config)
        chosen = {name for filter_key in splits_of(config).values() for name in demos_in(path, filter_key)}
    except MalformedError as error:
        yield Finding(ERROR, _CONFIG, f"chooses a demo that training refuses: {error.where} {error.what}", error.remedy)
        return
    except RobomimicFrozenError as error:
        yield from_error(error, _CONFIG)
        return
    try:
        check_rollouts(config)
    except RobomimicFrozenError as error:
        yield from_error(error)
    for doubt in doubts:
        what, _, remedy = doubt.partition("; ")
        yield Finding(WARNING, _CONFIG, what, remedy)
    train, demos = config.train, [demo for demo in demos if demo.name in chosen]
    steps = [demo.steps for demo in demos if demo.steps is not None]
    if min(steps) < train.seq_length:
        what = f"takes sequences of {train.seq_length} steps, and the shortest demo has {min(steps)}: its last action is repeated"
        yield Finding(NOTE, _CONFIG, what, "choose a smaller train.seq_length (algo.horizon) if that is not wanted")
    rollout, longest = config.experiment.rollout, max(steps)
    if rollout.enabled and rollout.horizon < longest:
        what = f"ends rollouts after {rollout.horizon} steps, and the longest demo takes {longest}"
        yield Finding(WARNING, _CONFIG, what, f"set experiment.rollout.horizon to more than {longest}")
    for key in train.dataset_keys:
        if not all(key in demo.lengths for demo in demos):
            what = f"names {key!r} in train.dataset_keys, which not every demo has; robomimic puts zeros in its place"
            yield Finding(WARNING, _CONFIG, what, "take it out of train.dataset_keys, or use another dataset")
