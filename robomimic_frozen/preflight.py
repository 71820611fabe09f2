"""Checks that cost nothing and catch what would otherwise fail minutes into a run."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

import h5py

from robomimic_frozen import hdf5
from robomimic_frozen.errors import ConfigError, DatasetError


def check_dataset(path: Path, obs_keys: Iterable[str], filter_keys: Iterable[str]) -> None:
    """Raise DatasetError unless `path` is a robomimic dataset with these observations and filter keys."""
    obs_keys = list(obs_keys)
    with hdf5.opened(path) as file:
        data = hdf5.find_group(file, "data")
        demos = [] if data is None else hdf5.members(data)
        if data is None or not demos or hdf5.attribute(data, "env_args") is None:
            raise DatasetError(f"dataset {path} is not a robomimic dataset: it has no demos under 'data' with 'env_args'")
        for demo in demos:
            _check_demo(path, hdf5.group_in(data, demo), demo, obs_keys)
        for filter_key in filter_keys:
            _check_filter_key(path, file, filter_key)


def _check_demo(path: Path, demo: h5py.Group, name: str, obs_keys: list[str]) -> None:
    obs = hdf5.find_group(demo, "obs")
    present = [] if obs is None else hdf5.members(obs)
    for key in obs_keys:
        if obs is None or key not in present:
            close = difflib.get_close_matches(key, present, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(present) or 'none'}"
            raise DatasetError(
                f"dataset {path} has no obs key {key!r} in {name}; {hint} "
                "(set observation.modalities.obs, or render the images with robomimic-frozen data)"
            )
        hdf5.array_in(obs, key)


def _check_filter_key(path: Path, file: h5py.File, filter_key: str) -> None:
    mask = hdf5.find_group(file, "mask")
    masks = [] if mask is None else hdf5.members(mask)
    if mask is None or filter_key not in masks:
        raise DatasetError(f"dataset {path} has no filter key {filter_key!r}; it has: {', '.join(masks) or 'none'}")
    hdf5.strings(hdf5.array_in(mask, filter_key))


def check_output_dir(folder: Path) -> None:
    """Raise ConfigError unless files can be written to `folder`, or to where it would be made. Makes nothing."""
    if re.match(r"\w\w+:/", str(folder)):  # a Path has lost one of two slashes
        raise ConfigError(f"{folder} is a URL, and this is written to a folder; choose one (train.output_dir, or --out)")
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {folder}: {existing} is no writable folder; choose another one (train.output_dir, or --out)")
