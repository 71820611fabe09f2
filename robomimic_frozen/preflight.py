"""Checks that cost nothing and catch what would otherwise fail minutes into a run."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path

import h5py

from robomimic_frozen.errors import ConfigError, DatasetError


def check_dataset(path: Path, obs_keys: Iterable[str], filter_keys: Iterable[str]) -> None:
    """Raise DatasetError unless `path` is a robomimic dataset with these observations and filter keys."""
    if not path.is_file():
        raise DatasetError(f"dataset {path} does not exist; give one with --dataset, or make one: robomimic-frozen demos")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"dataset {path} cannot be opened as HDF5 ({error}); download or generate it again") from error
    with file:
        if "data" not in file or not len(file["data"]) or "env_args" not in file["data"].attrs:
            raise DatasetError(f"dataset {path} is not a robomimic dataset: it has no demos under 'data' with 'env_args'")
        for demo in file["data"].values():
            _check_demo(path, demo, obs_keys)
        for filter_key in filter_keys:
            _check_filter_key(path, file, filter_key)


def _check_demo(path: Path, demo: h5py.Group, obs_keys: Iterable[str]) -> None:
    present = list(demo["obs"]) if "obs" in demo else []
    for key in obs_keys:
        if key not in present:
            close = difflib.get_close_matches(key, present, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has: {', '.join(present) or 'none'}"
            raise DatasetError(
                f"dataset {path} has no obs key {key!r} in {demo.name}; {hint} "
                "(set observation.modalities.obs, or render the images with dataset_states_to_obs.py)"
            )


def _check_filter_key(path: Path, file: h5py.File, filter_key: str) -> None:
    masks = list(file["mask"]) if "mask" in file else []
    if filter_key not in masks:
        raise DatasetError(f"dataset {path} has no filter key {filter_key!r}; it has: {', '.join(masks) or 'none'}")


def check_output_dir(folder: Path) -> None:
    """Raise ConfigError unless files can be written to `folder`, or to where it would be made. Makes nothing."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to {folder}: {existing} is no writable folder; choose another one (train.output_dir, or --out)")
