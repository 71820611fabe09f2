"""What is made episode by episode, in parallel, and goes on where it stopped: each episode is kept until all can take their place."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import h5py
from tqdm import tqdm

from robomimic_frozen.errors import DatasetError, first_line
from robomimic_frozen.utils import files
from robomimic_frozen.utils.parallel import Executor, retrying_map

Item = TypeVar("Item", bound=Hashable)
Files = Mapping[str, bytes]
"""path in a folder -> content"""


@contextlib.contextmanager
def finished_parts(
    out: Path, parts: Mapping[Item, str], make: Callable[[Item], Files], made_from: str, room: Callable[[list[Item]], int],
    executor: Executor | None = None, progress: bool = True, doing: str = "rendering", done: str = "rendered",
) -> Iterator[Path]:  # fmt: skip
    """Give a hidden folder beside `out` that has every part; what the block leaves in it is removed.

    A part of an earlier call with the same arguments is there already, and is not made again. The block is to make `out` of them.

    Args:
        parts: what each part is made of -> path in the folder of the last of its files.
        make: what a part is made of -> its files, by their path in the folder; computed by the workers, and written here.
        made_from: another one where parts would be others; a name for a folder.
        room: bytes that are needed for these missing parts, and for `out`.
        doing, done: what is said of it.

    Raises:
        ConfigError: the folder of `out` cannot be written to, or another process is making it.
        DatasetError: `out` exists already, or the disk is or becomes full.
    """
    files.refuse_existing(out)
    files.require_writable(out.parent)
    hidden = out.with_name(f".{out.name}.partial")
    try:
        with files.exclusive_lock(hidden, doing):
            files.refuse_existing(out)  # it may have been finished meanwhile
            folder = hidden / made_from
            folder.mkdir(exist_ok=True)
            missing = [item for item, last in parts.items() if not (folder / last).exists()]
            files.require_space(out.parent, room(missing))
            with tqdm(desc=doing, initial=len(parts) - len(missing), total=len(parts), unit="demo", disable=not progress) as bar:
                for made in _results(make, missing, executor):
                    # Written here and not by workers, which may outlive a process that is killed, and its lock.
                    for path, content in made.items():
                        with files.atomic_write(folder / path) as beside:
                            beside.write_bytes(content)
                    bar.update()
            yield folder
            shutil.rmtree(hidden)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else first_line(error)
        raise DatasetError(f"cannot write {out} ({reason}); what is {done} is kept: free some space and run again") from error


def _results(make: Callable[[Item], Files], items: Sequence[Item], executor: Executor | None) -> Iterator[Files]:
    with contextlib.closing(retrying_map(make, items, executor)) as results:
        for _, result in results:
            if isinstance(result, Exception):
                raise result
            yield result


@contextlib.contextmanager
def hdf5_in_memory() -> Iterator[tuple[h5py.File, Callable[[], bytes]]]:
    """Give a new HDF5 file that is made in memory, for of a full disk HDF5 may not tell, and what returns its bytes."""
    with h5py.File("part.hdf5", "w", driver="core", backing_store=False) as file:

        def image() -> bytes:
            file.flush()
            return file.id.get_file_image()

        yield file, image


def merge(parts: Mapping[str, Path], out: Path, complete: Callable[[h5py.File], object]) -> None:
    """Write an HDF5 file of the demos in others, each in a file of its own, with the attributes of `data` there.

    Args:
        parts: name of each demo -> its file.
        complete: adds to the file what is of all demos.

    Raises:
        OSError: it cannot be written, and is not there.
    """
    with files.atomic_write(out) as beside:
        try:
            with h5py.File(beside, "w") as file:
                data = file.create_group("data")
                for name, path in parts.items():
                    with h5py.File(path, "r") as part:
                        part.copy(f"data/{name}", data)
                        data.attrs.update(part["data"].attrs)
                complete(file)
        except RuntimeError as error:  # h5py's word for a copy that could not be written
            raise OSError(first_line(error)) from error
        with beside.open("rb+") as written:
            files.to_disk(written)
