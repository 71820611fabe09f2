"""Demonstration files, read so that whatever is wrong with them is a DatasetError and nothing else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import h5py
import numpy as np

from robomimic_frozen.errors import DatasetError, MalformedError, first_line
from robomimic_frozen.utils.kinds import kind_of_file, kind_of_hdf5, what_is_there
from robomimic_frozen.utils.urls import local_path

BLOCK_BYTES: Final = 2**25

Item = TypeVar("Item", h5py.Group, h5py.Dataset)
_KINDS = {h5py.Group: "a group", h5py.Dataset: "an array", h5py.Datatype: "a type"}


@contextlib.contextmanager
def opened(place: str | Path) -> Iterator[h5py.File]:
    """Open a file, or the copy of one at a URL, for reading. Raises DatasetError if it is no HDF5 file, or as `local_path`."""
    path = local_path(place)
    if not path.is_file():
        raise DatasetError("dataset {} {}; {}".format(path, *what_is_there(path)))
    try:
        file = h5py.File(path, "r")
    except Exception as error:  # h5py raises almost anything at a damaged file, here and below
        what, remedy = kind_of_file(path) or (f"cannot be opened as HDF5 ({first_line(error)})", "download or generate it again")
        if "unable to lock" in str(error):
            remedy = "wait for the process that writes to it"
        raise DatasetError(f"dataset {path} {what}; {remedy}") from error
    with file:
        if (other := kind_of_hdf5(members(file))) is not None:
            raise DatasetError("dataset {} {}; {}".format(path, *other))
        yield file


def members(group: h5py.Group) -> list[str]:
    """Return the names of what is in a group, of links that lead nowhere, too. Raises MalformedError."""
    with _reading(group):
        return [name if isinstance(name, str) else name.decode(errors="backslashreplace") for name in group]


def find_group(parent: h5py.Group, name: str) -> h5py.Group | None:
    """Return the group of this name, or None. Raises MalformedError if it is something else."""
    return group_in(parent, name) if name in members(parent) else None


def holds_group(parent: h5py.Group, name: str) -> bool:
    """Return whether what has this name can be opened and is a group."""
    with contextlib.suppress(Exception):
        return parent.get(name, getclass=True) is h5py.Group
    return False


def group_in(parent: h5py.Group, name: str) -> h5py.Group:
    """Return the group of this name. Raises MalformedError if there is none."""
    return _item_in(parent, name, h5py.Group)


def array_in(parent: h5py.Group, name: str) -> h5py.Dataset:
    """Return the array of this name, whose shape and dtype can be read. Raises MalformedError if there is none."""
    array = _item_in(parent, name, h5py.Dataset)
    with _reading(array):
        shape, _ = array.shape, array.dtype
    if shape is None:
        raise _malformed(array, "is empty: it has no shape")
    return array


def attribute(item: h5py.Group, name: str) -> Any:
    """Return the attribute of this name; None where there is none. Raises MalformedError if it cannot be read."""
    with _reading(item, f"attribute {name!r} of "):
        if name not in item.attrs:
            return None
        return item.attrs[name]


def blocks(array: h5py.Dataset) -> Iterator[np.ndarray]:
    """Yield the rows of an array, some MB at a time. Raises MalformedError, also for what was never written and HDF5 reads as zeros."""
    with _reading(array):
        written = _is_written(array)
    if not written:
        raise _malformed(array, "was made, but never or not wholly written")
    row_bytes = math.prod(array.shape[1:]) * array.dtype.itemsize
    rows = max(1, BLOCK_BYTES // max(1, row_bytes))
    for start in range(0, array.shape[0], rows):
        with _reading(array):
            block = array[start : start + rows]
        yield block


def strings(array: h5py.Dataset) -> list[str]:
    """Return the strings [N] that an array holds. Raises MalformedError if it holds something else."""
    if array.ndim != 1 or h5py.check_string_dtype(array.dtype) is None:
        raise _malformed(array, f"is {array.dtype} {list(array.shape)}, not a list of names", "write it again")
    return [value.decode(errors="backslashreplace") for block in blocks(array) for value in block]


def _item_in(parent: h5py.Group, name: str, kind: type[Item]) -> Item:
    try:
        item = parent[name]
    except Exception as error:
        raise _absent(parent, name, _why_absent(parent, name, error)) from error
    if not isinstance(item, kind):
        raise _absent(parent, name, f"is {_KINDS[type(item)]} where {_KINDS[kind]} belongs")
    return item


def _absent(parent: h5py.Group, name: str, what: str) -> MalformedError:
    return MalformedError(parent.file.filename, f"{parent.name}/{name}".lstrip("/"), what)


def _why_absent(parent: h5py.Group, name: str, error: Exception) -> str:
    with contextlib.suppress(Exception):
        link = parent.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return f"is a link to {link.path} of {link.filename}, which leads nowhere"
        if isinstance(link, h5py.SoftLink):
            return f"is a link to {link.path}, which leads nowhere"
        if link is None:
            return "is missing"
    return f"cannot be read ({first_line(error)})"


def _is_written(array: h5py.Dataset) -> bool:
    if array.chunks is not None:
        chunks = (math.ceil(length / chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
        return array.id.get_num_chunks() >= math.prod(chunks)
    return array.is_virtual or array.id.get_storage_size() >= math.prod(array.shape) * array.id.get_type().get_size()


@contextlib.contextmanager
def _reading(item: h5py.Group | h5py.Dataset, part: str = "") -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _malformed(item, f"cannot be read ({first_line(error)})", part=part) from error


def _malformed(item: h5py.Group | h5py.Dataset, what: str, *remedy: str, part: str = "") -> MalformedError:
    return MalformedError(item.file.filename, f"{part}{str(item.name).lstrip('/') or '/'}", what, *remedy)
