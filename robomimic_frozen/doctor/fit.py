"""Whether a dataset has what a config asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from robomimic_frozen.doctor.demo import Demo
from robomimic_frozen.doctor.findings import Finding, Severity, from_error
from robomimic_frozen.encoders.core import FrozenResNetCore
from robomimic_frozen.encoders.preprocessing import ResizeAndCrop
from robomimic_frozen.errors import RobomimicFrozenError
from robomimic_frozen.launch import check_config, load_config
from robomimic_frozen.plugins import register

_CONFIG = "config"


def misfits(config_path: str, path: Path, demos: Sequence[Demo]) -> Iterator[Finding]:
    """What in a dataset does not fit a config.

    Args:
        path: of the dataset.
        demos: what was found in it.
    """
    register()
    try:
        config = load_config(config_path, None, str(path), [])
        check_config(config)
        _check_crops(config, demos)
    except RobomimicFrozenError as error:
        yield from_error(error, _CONFIG)
        return
    yield from _too_short(config, demos)
    yield from _missing_arrays(config, demos)


def _check_crops(config: Any, demos: Sequence[Demo]) -> None:
    encoder = config.observation.encoder.rgb
    if encoder.core_class != FrozenResNetCore.__name__:
        return
    for key in config.observation.modalities.obs.rgb:
        for content in (demo.contents[f"obs/{key}"] for demo in demos if f"obs/{key}" in demo.contents):
            ResizeAndCrop((3, *content.shape[1:3]), encoder.core_kwargs.get("resize_shape"), encoder.core_kwargs.get("crop_shape"))


def _too_short(config: Any, demos: Sequence[Demo]) -> Iterator[Finding]:
    train = config.train
    shortest = min((demo.steps for demo in demos if demo.steps is not None), default=0)
    needed = 1 + (0 if train.pad_seq_length else train.seq_length - 1) + (0 if train.pad_frame_stack else train.frame_stack - 1)
    if shortest < needed:
        what = f"takes sequences of {needed} steps, and the shortest demo has {shortest}"
        yield Finding(Severity.ERROR, _CONFIG, what, "set train.pad_seq_length and train.pad_frame_stack to true")
    elif shortest < train.seq_length:
        what = f"takes sequences of {train.seq_length} steps, and the shortest demo has {shortest}: its last action is repeated"
        yield Finding(Severity.NOTE, _CONFIG, what, "choose a smaller train.seq_length (algo.horizon) if that is not wanted")


def _missing_arrays(config: Any, demos: Sequence[Demo]) -> Iterator[Finding]:
    for key in config.train.dataset_keys:
        if not all(key in demo.keys for demo in demos):
            what = f"names {key!r} in train.dataset_keys, which not every demo has; robomimic puts zeros in its place"
            yield Finding(Severity.WARNING, _CONFIG, what, "take it out of train.dataset_keys, or use another dataset")
    if config.train.hdf5_load_next_obs and not any(key.startswith("next_obs/") for demo in demos for key in demo.keys):
        what = "has train.hdf5_load_next_obs, and the dataset has no next_obs"
        yield Finding(Severity.ERROR, _CONFIG, what, "set it to false, or convert the dataset with next_obs")
