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
from robomimic_frozen.executors.executor import WorkerDiedError, surviving_map
from robomimic_frozen.executors.processes import Processes

PATIENCE_SECONDS: Final = 120


def examine_files(paths: Sequence[Path], config_path: str | None, patience: int = PATIENCE_SECONDS) -> list[Examination]:
    """An examination of each file.

    Args:
        config_path: a config that datasets should fit.
        patience: how many seconds a demo or a checkpoint may take before HDF5 counts as hanging in it.
    """
    build = functools.partial(_examiner, tuple(paths), config_path, patience)
    answers = dict(surviving_map(build, len(paths), Processes(1), attempts=1))
    return [_or_failure(path, answers[index], patience) for index, path in enumerate(paths)]


def _examiner(paths: Sequence[Path], config_path: str | None, patience: int) -> Callable[[int], Examination]:
    # In the place of a semaphore, which would outlive a process that is ended.
    tqdm.set_lock(threading.RLock())

    def examine(index: int) -> Examination:
        # Without a handler the alarm ends the process, also one that is inside HDF5.
        signal.alarm(patience)
        try:
            return examine_file(paths[index], config_path, lambda: signal.alarm(patience))
        finally:
            signal.alarm(0)

    return examine


def examine_file(path: Path, config_path: str | None = None, alive: Callable[[], object] = lambda: None) -> Examination:
    """An examination of a dataset or a checkpoint, in this process. Arguments as of `examine_dataset`."""
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
