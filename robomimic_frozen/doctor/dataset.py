"""A robomimic dataset, read from its first to its last number, and beside a config."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import h5py
from tqdm import tqdm

from robomimic_frozen import hdf5
from robomimic_frozen.doctor import env_metadata, filter_keys
from robomimic_frozen.doctor.comparisons import compare
from robomimic_frozen.doctor.demo import Demo, examine_demo
from robomimic_frozen.doctor.findings import Examination, Finding, Severity, grouped, some_of
from robomimic_frozen.errors import MalformedError


def examine_dataset(path: Path, config_path: str | None = None, alive: Callable[[], object] = lambda: None) -> Examination:
    """Read all of an HDF5 file. What is damaged in it ends up among the findings.

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
        metadata, findings = env_metadata.parsed("env_args", hdf5.attribute(data, "env_args"))
        demos = []
        for name in tqdm(names, desc=path.name, unit="demo", leave=False, delay=3):
            alive()
            demos.append(examine_demo(data, name))
        chosen, unreadable = filter_keys.read_filter_keys(file)
        findings += [*_odd_names(names), *_wrong_total(data, demos)]
    findings += grouped((demo.name, finding) for demo in demos for finding in demo.findings)
    findings += [*compare(demos), *unreadable, *filter_keys.judge(chosen, names)]
    if config_path is not None:
        from robomimic_frozen.doctor.fit import misfits  # which loads robomimic

        findings += misfits(config_path, path, demos)
    facts = {
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        "environment": f"{metadata.get('env_name')}, version {metadata.get('env_version')}",
        "demos": _lengths(demos),
        **{key: content.layout for key, content in demos[0].contents.items()},
        "filter keys": ", ".join(f"{key} ({len(names)})" for key, names in chosen.items()) or "none",
    }
    return Examination(str(path), facts, findings)


def _lengths(demos: Sequence[Demo]) -> str:
    steps = [demo.steps for demo in demos if demo.steps is not None]
    return f"{len(demos)}" + (f", of {min(steps)} to {max(steps)} steps, median {statistics.median_low(steps)}" if steps else "")


def _odd_names(names: Sequence[str]) -> Iterator[Finding]:
    if odd := [name for name in names if not re.fullmatch("demo_[0-9]+", name)]:
        remedy = "rename to demo_0, demo_1 and so on: robomimic sorts demos by that number"
        yield Finding(Severity.ERROR, some_of(odd), "is not called demo_N", remedy)


def _wrong_total(data: h5py.Group, demos: Sequence[Demo]) -> Iterator[Finding]:
    total, steps = hdf5.attribute(data, "total"), sum(demo.steps or 0 for demo in demos)
    if total is not None and str(total) != str(steps):
        yield Finding(Severity.WARNING, "total", f"is {total}, and the demos have {steps} steps", f"set the attribute to {steps}")
