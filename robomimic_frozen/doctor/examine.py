"""Files examined in a process of their own, which a damaged file can crash or hang."""

from __future__ import annotations

import functools
import signal
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from tqdm import tqdm

from robomimic_frozen.doctor.findings import Examination, Finding, Severity, from_error
from robomimic_frozen.errors import RobomimicFrozenError, first_line
from robomimic_frozen.utils.parallel import Processes, WorkerDiedError, retrying_map

PATIENCE_SECONDS: Final = 120


def examine_files(paths: Sequence[Path], config_path: str | None, patience: int = PATIENCE_SECONDS) -> list[Examination]:
    """Return an examination of each file.

    Args:
        config_path: a config that datasets should fit.
        patience: how many seconds a demo or a checkpoint may take before HDF5 counts as hanging in it.
    """
    examine = functools.partial(_examine_with_patience, config_path=config_path, patience=patience)
    answers = dict(retrying_map(examine, paths, Processes(1), retries=0))
    return [_or_failure(path, answers[index], patience) for index, path in enumerate(paths)]


def examine_file(path: Path, config_path: str | None = None, alive: Callable[[], object] = lambda: None) -> Examination:
    """Return an examination of a dataset or a checkpoint, made in this process. Arguments are those of `examine_dataset`."""
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        return Examination(str(path), {}, [Finding(Severity.ERROR, "", what, "give the path of a dataset or a checkpoint")])
    try:
        if path.suffix in (".pth", ".pt") or zipfile.is_zipfile(path):
            from robomimic_frozen.doctor.checkpoint import examine_checkpoint  # which loads robomimic

            return examine_checkpoint(path)
        from robomimic_frozen.doctor.dataset import examine_dataset

        return examine_dataset(path, config_path, alive)
    except RobomimicFrozenError as error:
        return Examination(str(path), {}, [from_error(error)])


def _examine_with_patience(path: Path, config_path: str | None, patience: int) -> Examination:
    # In the place of a semaphore, which would outlive a process that is ended.
    tqdm.set_lock(threading.RLock())
    # Without a handler the alarm ends the process, also one that is inside HDF5.
    signal.alarm(patience)
    try:
        return examine_file(path, config_path, lambda: signal.alarm(patience))
    finally:
        signal.alarm(0)


def _or_failure(path: Path, answer: Examination | Exception, patience: int) -> Examination:
    if isinstance(answer, Examination):
        return answer
    what = f"could not be examined ({type(answer).__name__}: {first_line(answer)})"
    remedy = "run robomimic-frozen doctor without FILE; if that finds nothing, report this"
    if isinstance(answer, WorkerDiedError):
        hung = f"exit code {-signal.SIGALRM};" in str(answer)
        what = f"gives no answer within {patience} s when it is read" if hung else f"ends the process that reads it ({answer})"
        remedy = "it is damaged: download or generate it again"
    return Examination(str(path), {}, [Finding(Severity.ERROR, "", what, remedy)])
