"""What lies at a path where an HDF5 file of robomimic was expected, and how one comes by that."""

from __future__ import annotations

import contextlib
import itertools
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

_CONVERT: Final = "convert it to one HDF5 file as robomimic has them (data/demo_0/obs, data/demo_0/actions, ...)"
_READ: Final = "read it with robomimic-frozen data lerobot:DIR"
# How a file begins, what it is then, and what to do.
_BEGINNINGS: Final = (
    (b"version https://git-lfs", "is a pointer of git-lfs to the file", "run git lfs pull where it was cloned"),
    (b"PAR1", "is a Parquet table, as LeRobot has them", f"{_READ}, of the whole dataset"),
    (b"\x1f\x8b", "is compressed with gzip", "unpack it"),
    (b"<", "is a web page", "download the file itself, which may need a login"),
)
# What a folder or an archive has in it, what it is then, and what to do.
_CONTENTS: Final = (
    (".zgroup", "is a Zarr store", _CONVERT),
    ("zarr.json", "is a Zarr store", _CONVERT),
    ("meta/info.json", "is a dataset of LeRobot", _READ),
    ("*.parquet", "holds Parquet tables, as LeRobot has them", f"{_READ}, of the whole dataset"),
    ("data/chunk-*", "is a dataset of LeRobot", _READ),
    ("episode_*.hdf5", "holds single episodes, as ACT has them", _CONVERT),
)


def what_is_there(path: Path) -> tuple[str, str]:
    """Return what a path names that is no file, and what to do."""
    if path.is_dir():
        inside = [each.relative_to(path).as_posix() for each in itertools.chain(path.glob("*"), path.glob("*/*"))]
        return _kind_of_contents(inside) or ("is a folder", f"give a file{_in_it(inside)}")
    if path.exists():
        return "is no file", "give an HDF5 file"
    if scheme := re.match(r"\w[\w+.-]+(?=:/)", str(path)):
        return "does not exist", f"if it is a URL, write it with two slashes: {scheme[0]}://"
    if re.match(r"[A-Za-z]:[\\/]|\\\\", str(path)):
        return "is a path of Windows", "give the one that it has on this machine (/mnt/c/... in WSL)"
    return "does not exist", "give one with --dataset, or make one: robomimic-frozen demos"


def is_checkpoint(path: Path) -> bool:
    """Return whether a path is by its name, or as a file by its content, what `torch.save` writes."""
    return path.suffix in (".pth", ".pt") or any(map(_is_pickle, _names_in_archive(path)))


def kind_of_hdf5(names: Sequence[str]) -> tuple[str, str] | None:
    """Return what an HDF5 file with these names at its top is, and what to do; None where it may be one of robomimic."""
    if "observations" in names and "data" not in names:
        return "has observations at its top, as an episode of ACT or a set of D4RL", _CONVERT
    return None


def kind_of_file(path: Path) -> tuple[str, str] | None:
    """Return what a file is that is no HDF5, and what to do; None where it is of no kind that is known."""
    if names := _names_in_archive(path):
        if any(map(_is_pickle, names)):
            return "is a checkpoint", "give a dataset; robomimic-frozen info tells which it was trained on"
        return _kind_of_contents(names) or ("is a zip archive", f"unpack it, and give a file{_in_it(names)}")
    with path.open("rb") as file:
        beginning = file.read(64)
    if not beginning:
        return "is empty", "download or generate it again"
    return next(((what, remedy) for start, what, remedy in _BEGINNINGS if beginning.startswith(start)), None)


def _kind_of_contents(names: Sequence[str]) -> tuple[str, str] | None:
    return next(((what, remedy) for pattern, what, remedy in _CONTENTS if any(PurePath(name).match(pattern) for name in names)), None)


def _in_it(names: Sequence[str]) -> str:
    found = sorted(name for name in names if name.endswith((".hdf5", ".h5")))
    return f" in it: {', '.join(found[:3])}" if found else ""


def _is_pickle(name: str) -> bool:
    return PurePath(name).name == "data.pkl"


def _names_in_archive(path: Path) -> list[str]:
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return archive.namelist()
    return []
