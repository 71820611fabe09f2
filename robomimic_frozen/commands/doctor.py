"""`robomimic-frozen doctor`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from robomimic_frozen.errors import ConfigError


def add(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "doctor", help="what is wrong with the installation, a dataset or a checkpoint, and what to do",
        description="Without FILE, check the installation: versions, imports, OpenGL, weights, cache. With FILE, read all of a "
        "dataset or a checkpoint and say what is wrong with it. Nothing is changed or downloaded. The exit status is 0 for nothing "
        "but notes, 1 for warnings, 2 for errors.",
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="a dataset (HDF5) or a checkpoint (.pth)")
    parser.add_argument("--config", help="config JSON that the datasets should fit")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, _: list[str]) -> int:
    from robomimic_frozen.doctor.examine import examine_files
    from robomimic_frozen.doctor.findings import Examination
    from robomimic_frozen.doctor.installation import examine_installation
    from robomimic_frozen.doctor.report import as_json, as_text, exit_status
    from robomimic_frozen.doctor.versions import versions

    if arguments.config and not arguments.files:
        raise ConfigError("--config is what a dataset should fit; give the dataset, too")
    with contextlib.redirect_stdout(sys.stderr):  # robomimic and robosuite print when they are imported
        if arguments.files:
            examinations = [*examine_files(arguments.files, arguments.config), Examination("installation", versions(), [])]
        else:
            examinations = [examine_installation()]
    print(as_json(examinations) if arguments.json else as_text(examinations))
    return exit_status(examinations)
