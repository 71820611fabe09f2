"""What is wrong with a robomimic checkpoint: whether its policy can be had from it, and of which environment it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import robomimic.utils.file_utils as FileUtils
import torch
from robomimic.config.base_config import get_all_registered_configs

from robomimic_frozen.doctor.dataset import judge_environment
from robomimic_frozen.doctor.findings import Examination, Finding, Severity, from_error, some_of
from robomimic_frozen.doctor.installation import offline
from robomimic_frozen.encoders.frozen_weights import frozen_records
from robomimic_frozen.errors import RobomimicFrozenError, first_line
from robomimic_frozen.integration.registration import register
from robomimic_frozen.policies.checkpoints import describe_checkpoint, networks, read_checkpoint


def examine_checkpoint(path: Path) -> Examination:
    """Load a checkpoint as a rollout would. Nothing in it is executed, and nothing is downloaded.

    Raises:
        ConfigError: it is no robomimic checkpoint, or damaged.
    """
    register()
    checkpoint = read_checkpoint(path, "FILE")
    findings = list(judge_environment("env_metadata", checkpoint["env_metadata"]))
    try:
        facts = {name.strip(): value for name, value in describe_checkpoint(path)}
        state = networks(checkpoint["model"])
        findings += [*_bad_numbers(state), *_references(state), *_unloadable(checkpoint)]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        facts = {}
        what = f"lacks what robomimic saves with a policy ({type(error).__name__}: {first_line(error)})"
        findings.append(Finding(Severity.ERROR, "", what, "use a checkpoint that robomimic's train.py has saved"))
    return Examination(str(path), facts, findings)


def _bad_numbers(state: Mapping[str, Any]) -> Iterator[Finding]:
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor) and value.is_floating_point()}
    if bad := [name for name, value in tensors.items() if not value.isfinite().all()]:
        what = f"have NaN or infinite weights ({len(bad)} of {len(tensors)} tensors): training had diverged"
        yield Finding(Severity.ERROR, some_of(bad), what, "use an earlier checkpoint, or train with a lower learning rate")


def _references(state: Mapping[str, Any]) -> Iterator[Finding]:
    for record in frozen_records(state).values():
        if record["weights"] is None:
            what = f"refers to the weights of {record['backbone']}, which every machine that uses it must have"
            yield Finding(Severity.NOTE, "frozen weights", what, "algo.checkpoint.frozen_weights='include' puts them into checkpoints")


def _unloadable(checkpoint: Mapping[str, Any]) -> Iterator[Finding]:
    algo, known = checkpoint["algo_name"], get_all_registered_configs()
    if algo not in known:
        what = f"is {algo!r}, which is not known here; known are {', '.join(sorted(known))}"
        yield Finding(Severity.ERROR, "algorithm", what, "install the package that it comes from")
        return
    try:
        with offline():
            FileUtils.policy_from_checkpoint(device=torch.device("cpu"), ckpt_dict=dict(checkpoint))
    except RobomimicFrozenError as error:
        yield from_error(error, "policy")
    except Exception as error:  # a config and networks that do not belong together make robomimic raise anything
        what = f"cannot be made from it ({type(error).__name__}: {first_line(error)})"
        yield Finding(Severity.ERROR, "policy", what, "load it with the versions of robomimic and of plugins that it was trained with")
