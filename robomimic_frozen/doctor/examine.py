"""Files examined in a process of their own, which a damaged one can crash or hang: datasets, and checkpoints as a rollout loads them."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from robomimic_frozen.doctor.findings import ERROR, NOTE, Examination, Finding, from_error, some_of
from robomimic_frozen.doctor.installation import offline
from robomimic_frozen.errors import ConfigError, RobomimicFrozenError, first_line
from robomimic_frozen.utils.hub import is_repository
from robomimic_frozen.utils.kinds import is_checkpoint
from robomimic_frozen.utils.parallel import Processes, WorkerDiedError, retrying_map
from robomimic_frozen.utils.urls import local_path


def examine_files(paths: Sequence[str | Path], config_path: str | None, patience: int = 120) -> list[Examination]:
    """Return an examination of each file.

    Args:
        config_path: a config that datasets should fit.
        patience: how many seconds a demo or a checkpoint may take before HDF5 counts as hanging in it.
    """
    examine = functools.partial(_examine_with_patience, config_path=config_path, patience=patience)
    answers = dict(retrying_map(examine, paths, Processes(1), retries=0))
    return [_or_failure(path, answers[index], patience) for index, path in enumerate(paths)]


def examine_file(place: str | Path, config_path: str | None = None, alive: Callable[[], object] = lambda: None) -> Examination:
    """Return an examination of a dataset or a checkpoint, made in this process. Arguments are those of `examine_dataset`."""
    try:
        if is_repository(place):
            from robomimic_frozen.policies.hub import fetch_policy  # which loads torch

            return examine_checkpoint(fetch_policy(str(place)))
        path = local_path(place)
        if is_checkpoint(path):
            return examine_checkpoint(path)
        from robomimic_frozen.doctor.dataset import examine_dataset  # which loads HDF5

        return examine_dataset(path, config_path, alive)
    except RobomimicFrozenError as error:
        return Examination(str(place), {}, [from_error(error)])


def _examine_with_patience(path: str | Path, config_path: str | None, patience: int) -> Examination:
    # In the place of a semaphore, which would outlive a process that is ended.
    tqdm.set_lock(threading.RLock())
    # Without a handler the alarm ends the process, also one that is inside HDF5.
    signal.alarm(patience)
    try:
        return examine_file(path, config_path, lambda: signal.alarm(patience))
    finally:
        signal.alarm(0)


def _or_failure(path: str | Path, answer: Examination | Exception, patience: int) -> Examination:
    if isinstance(answer, Examination):
        return answer
    what = f"could not be examined ({type(answer).__name__}: {first_line(answer)})"
    remedy = "run robomimic-frozen doctor without FILE; if that finds nothing, report this"
    if isinstance(answer, WorkerDiedError):
        hung = f"exit code {-signal.SIGALRM};" in str(answer)
        what = f"gives no answer within {patience} s when it is read" if hung else f"ends the process that reads it ({answer})"
        remedy = "it is damaged: download or generate it again"
    return Examination(str(path), {}, [Finding(ERROR, "", what, remedy)])


def examine_checkpoint(path: Path) -> Examination:
    """Load a checkpoint as a rollout would. Nothing in it is executed, and nothing is downloaded. Raises ConfigError if it is none."""
    # These load torch and robomimic, without which the installation can still be examined.
    from robomimic_frozen.doctor.dataset import judge_environment
    from robomimic_frozen.integration.registration import register
    from robomimic_frozen.policies.checkpoints import describe_checkpoint, environments_in, read_checkpoint
    from robomimic_frozen.policies.states import networks

    register()
    checkpoint = read_checkpoint(path, "FILE")
    environments = environments_in(checkpoint)
    findings = [finding for metadata in environments for finding in judge_environment(path, "env_metadata", metadata)]
    try:
        facts = {name.strip(): value for name, value in describe_checkpoint(path)}
    except ConfigError as error:
        return Examination(str(path), {}, [*findings, from_error(error)])
    findings += [*_bad_weights(networks(checkpoint["model"])), *_unloadable(checkpoint), *_misfit(checkpoint)]
    return Examination(str(path), facts, findings)


def _bad_weights(state: Mapping[str, Any]) -> Iterator[Finding]:
    import torch

    from robomimic_frozen.encoders.weights import frozen_records

    tensors = {name: value for name, value in state.items() if torch.is_tensor(value) and value.is_floating_point()}
    if bad := [name for name, value in tensors.items() if not value.isfinite().all()]:
        what = f"have NaN or infinite weights ({len(bad)} of {len(tensors)} tensors): training had diverged"
        yield Finding(ERROR, some_of(bad), what, "use an earlier checkpoint, or train with a lower learning rate")
    for record in frozen_records(state).values():
        if record["weights"] is None:
            what = f"refers to the weights of {record['backbone']}, which every machine that uses it must have"
            yield Finding(NOTE, "frozen weights", what, "algo.checkpoint.frozen_weights='include' puts them into checkpoints")


def _misfit(checkpoint: Mapping[str, Any]) -> Iterator[Finding]:
    from robomimic_frozen.integration.environments import check_cameras
    from robomimic_frozen.policies.checkpoints import environments_in

    shapes = checkpoint["shape_metadata"]
    for metadata, of_one in zip(environments_in(checkpoint), shapes if isinstance(shapes, list) else [shapes], strict=True):
        try:
            check_cameras("env_metadata", metadata, of_one["all_shapes"], "env_metadata")
        except RobomimicFrozenError as error:
            yield from_error(error)


def _unloadable(checkpoint: Mapping[str, Any]) -> Iterator[Finding]:
    import robomimic.utils.file_utils as FileUtils
    import torch
    from robomimic.config.base_config import get_all_registered_configs

    from robomimic_frozen.policies.checkpoints import loadable

    algo, known = checkpoint["algo_name"], get_all_registered_configs()
    if algo not in known:
        what = f"is {algo!r}, which is not known here; known are {', '.join(sorted(known))}"
        yield Finding(ERROR, "algorithm", what, "install the package that it comes from")
        return
    try:
        with offline():
            FileUtils.policy_from_checkpoint(device=torch.device("cpu"), ckpt_dict=loadable(checkpoint, "it"))
    except RobomimicFrozenError as error:
        yield from_error(error, "policy")
    except Exception as error:  # a config and networks that do not belong together make robomimic raise anything
        what = f"cannot be made from it ({type(error).__name__}: {first_line(error)})"
        yield Finding(ERROR, "policy", what, "load it with the versions of robomimic and of plugins that it was trained with")
