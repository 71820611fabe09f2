"""What the filter keys of a dataset say of its demos."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import h5py

from robomimic_frozen import hdf5
from robomimic_frozen.doctor.findings import Finding, Severity, from_error, some_of
from robomimic_frozen.errors import MalformedError


def read_filter_keys(file: h5py.File) -> tuple[dict[str, list[str]], list[Finding]]:
    """Filter key -> the demos it names, of those that can be read, and what is wrong with the others."""
    filter_keys: dict[str, list[str]] = {}
    findings: list[Finding] = []
    try:
        mask = hdf5.find_group(file, "mask")
        names = [] if mask is None else hdf5.members(mask)
    except MalformedError as error:
        return {}, [from_error(error)]
    for name in names:
        try:
            filter_keys[name] = hdf5.strings(hdf5.array_in(mask, name))
        except MalformedError as error:
            findings.append(from_error(error))
    return filter_keys, findings


def judge(filter_keys: Mapping[str, list[str]], demos: Collection[str]) -> Iterator[Finding]:
    """What is wrong with filter keys in a file that has these demos."""
    for key, chosen in filter_keys.items():
        where = f"filter key {key}"
        if not chosen:
            yield Finding(Severity.WARNING, where, "names no demos", "delete it or write it again")
        if missing := [name for name in chosen if name not in demos]:
            what = f"names {some_of(missing)}, which the file does not have"
            yield Finding(Severity.ERROR, where, what, "write it again, with robomimic's split_train_val.py say")
        valid = key.removesuffix("train") + "valid"
        shared = [name for name in chosen if name in filter_keys.get(valid, ())]
        if key.endswith("train") and shared:
            what = f"shares {some_of(shared)} with {valid}"
            yield Finding(Severity.WARNING, where, what, "split again: validate on demos that are not trained on")
