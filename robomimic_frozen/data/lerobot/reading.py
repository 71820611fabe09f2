"""LeRobot datasets as HDF5 files of robomimic, in parallel and episode by episode, each fetched when it is its turn."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2
import h5py
import numpy as np

from robomimic_frozen.data.lerobot.dataset import Episode, LeRobotSet, Place, find_place, parquet_errors_named, read_metadata
from robomimic_frozen.data.lerobot.keys import Column, Overrides, columns_of
from robomimic_frozen.data.lerobot.video import VideoError, frames_at
from robomimic_frozen.data.parts import finished_parts, hdf5_in_memory, merge
from robomimic_frozen.simulation.environments import NO_ENVIRONMENT
from robomimic_frozen.utils.files import fingerprint
from robomimic_frozen.utils.machine import OURS, installed_version
from robomimic_frozen.utils.parallel import Executor

if TYPE_CHECKING:
    import pyarrow as pa

# How far a timestamp may be from that of its number, as a part of the time between two frames.
_NEAR: Final = 0.25


@dataclass(frozen=True)
class _Plan:
    """How episodes become demos; it goes to the workers with each of them."""

    place: Place
    fps: float
    columns: tuple[Column, ...]
    shapes: Mapping[str, tuple[int, ...]]  # of features, with channels last where they are images
    images: frozenset[str]  # features that are images
    image_size: int | None

    def shape(self, column: Column) -> tuple[int, ...]:
        """Return the shape of one step of an array."""
        shape = self.shapes[column.feature]
        if column.feature in self.images:
            return (self.image_size or shape[0], self.image_size or shape[1], 3)
        return shape if column.stop is None else (column.stop - column.start,)


def read_lerobot(
    source: str, out: Path, overrides: Overrides, image_size: int | None = None, executor: Executor | None = None, progress: bool = True
) -> LeRobotSet:
    """Write the demos of a LeRobot dataset to an HDF5 file of robomimic, and return what the set is.

    Each episode becomes a demo: `obs`, `actions`, and `rewards` and `dones`, which are 0, and 1 in the last step of `dones`, where the
    set has none. Its attribute `task` says what is done; that of `data` which `fps` it was recorded with. Numbers keep their type.
    Filter keys are the splits of the set, or those of the robomimic file that it was written from; so is the environment, and
    otherwise there is none to roll out in.

    Args:
        source: `lerobot:DIR`, or `lerobot:OWNER/NAME` of the hub.
        out: HDF5 file, which appears when it is complete; what is done is kept in a hidden folder beside it until then.
        overrides: features whose keys are not those of the table.
        image_size: height and width in pixels that images are scaled to; None for what they are.

    Raises:
        ConfigError: keys that do not map, or another process is writing the file.
        DatasetError: the set is damaged, incomplete, or of another version; the file exists, or the disk is full.
        RemoteFileError: the hub does not give the set.
    """
    found = read_metadata(find_place(source))
    plan = _plan(found, overrides, image_size)
    parts = {episode: f"{episode.name}.hdf5" for episode in found.episodes}
    frame = sum(math.prod(plan.shape(column)) * (1 if column.feature in plan.images else 8) for column in plan.columns)
    total = sum(episode.length for episode in found.episodes)

    def room(missing: list[Episode]) -> int:
        return frame * (total + sum(episode.length for episode in missing))

    def complete(file: h5py.File) -> None:
        env_args = found.env_args or {"env_name": found.robot_type, "type": NO_ENVIRONMENT, "env_kwargs": {}}
        file["data"].attrs.update({"total": total, "fps": found.fps, "env_args": json.dumps(env_args, indent=4)})
        for key, names in found.filter_keys.items():
            file[f"mask/{key}"] = np.array(names, dtype="S")

    versions = [installed_version(package) for package in (OURS, "av", "pyarrow", "opencv-python")]
    made_from = fingerprint(found.place.version(), sorted(map(repr, plan.columns)), image_size, versions)[:16]
    read = functools.partial(_read_episode, plan)
    with finished_parts(out, parts, read, made_from, room, executor, progress, "reading", "read") as folder:
        merge({episode.name: folder / part for episode, part in parts.items()}, out, complete)
    return found


def _plan(found: LeRobotSet, overrides: Overrides, image_size: int | None) -> _Plan:
    columns = columns_of(found.features, overrides)
    shapes = {name: tuple(found.features[name]["shape"]) for name in {column.feature for column in columns}}
    images = frozenset(name for name in shapes if found.features[name]["dtype"] in ("video", "image"))
    for name in images:
        shape = shapes[name]
        if len(shape) == 3 and shape[0] == 3:
            shapes[name] = (*shape[1:], 3)
        elif len(shape) != 3 or shape[2] != 3:
            raise found.place.malformed(name, f"is {list(shape)}, not images in colour", f"leave it out: --map {name}=")
    for name in shapes.keys() - images:
        if not _is_number(found.features[name]["dtype"]):
            raise found.place.malformed(name, f"holds {found.features[name]['dtype']}, not numbers", f"leave it out: --map {name}=")
    for column in columns:
        if column.path in ("rewards", "dones") and math.prod(shapes[column.feature]) != 1:
            what = f"is {list(shapes[column.feature])}, and {column.path} are one number for each step"
            raise found.place.malformed(column.feature, what, f"give it another key: --map {column.feature}=KEY")
    return _Plan(found.place, found.fps, tuple(columns), shapes, images, image_size)


def _is_number(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "biuf"
    except TypeError:
        return False


def _read_episode(plan: _Plan, episode: Episode) -> dict[str, bytes]:
    """Return an HDF5 file of one demo, by its name."""
    clips = dict(episode.clips)
    table = _rows(plan, episode, [column.feature for column in plan.columns if column.feature not in clips])
    with hdf5_in_memory() as (file, image):
        demo = file.create_group(f"data/{episode.name}")
        for column in plan.columns:
            if column.feature in plan.images:
                array = demo.create_dataset(column.path, (episode.length, *plan.shape(column)), np.uint8)
                is_video = column.feature in clips
                images = _decoded(plan, episode, column.feature) if is_video else _unpacked(plan, episode, table[column.feature])
                _fill(array, plan, column.feature, images)
            else:
                demo[column.path] = _as_robomimic_has_it(column.path, _numbers(plan, episode, table[column.feature], column))
        if "rewards" not in demo:
            demo["rewards"] = np.zeros(episode.length)
        if "dones" not in demo:
            demo["dones"] = np.arange(1, episode.length + 1) // episode.length
        demo.attrs.update({"num_samples": episode.length, "task": episode.task})
        return {f"{episode.name}.hdf5": image()}


def _rows(plan: _Plan, episode: Episode, features: list[str]) -> pa.Table:
    """Return the rows of an episode, in order. Raises MalformedError if they are not as many, or not as far apart, as they should be."""
    import pyarrow.parquet as pq

    path = plan.place.file(episode.table)
    with parquet_errors_named(plan.place, episode.table):
        missing = {"frame_index", "timestamp", *features} - set(pq.read_schema(path).names)
        if missing:
            raise plan.place.malformed(episode.table, f"lacks {', '.join(sorted(missing))}")
        columns = list(dict.fromkeys(["frame_index", "timestamp", *features]))
        table = pq.read_table(path, columns=columns, filters=[("episode_index", "=", episode.index)])
    where, numbers, times = f"{episode.table}: episode {episode.index}", table["frame_index"].to_numpy(), table["timestamp"].to_numpy()
    if not np.array_equal(numbers.ravel(), np.arange(episode.length)):
        raise plan.place.malformed(where, f"has {len(numbers)} frames, or others than 0 to {episode.length - 1}")
    off = np.abs(times * plan.fps - numbers) > _NEAR
    if off.any():
        what = f"has frame {off.argmax()} at {times[off.argmax()]:.3f} s, which is not {plan.fps:g} frames per second"
        raise plan.place.malformed(where, what, "correct fps in meta/info.json, or record it again")
    return table


def _numbers(plan: _Plan, episode: Episode, values: pa.ChunkedArray, column: Column) -> np.ndarray:
    """Return what of a feature goes to an array [T, ...]."""
    flat = values.combine_chunks()
    nulls = flat.null_count
    while hasattr(flat.type, "value_type"):  # lists, of lists
        flat = flat.flatten()
        nulls += flat.null_count
    shape = (episode.length, *plan.shapes[column.feature])
    if nulls or len(flat) != math.prod(shape):
        what = f"has {nulls} gaps in {column.feature}" if nulls else f"has {len(flat)} numbers of {column.feature}, which is {list(shape)}"
        raise plan.place.malformed(f"{episode.table}: episode {episode.index}", what)
    numbers = flat.to_numpy(zero_copy_only=False).reshape(shape)
    return numbers if column.stop is None else numbers[:, column.start : column.stop]


def _as_robomimic_has_it(path: str, values: np.ndarray) -> np.ndarray:
    if path == "dones":
        return values.reshape(len(values)).astype(np.int64)
    return values.reshape(len(values)) if path == "rewards" else values


def _decoded(plan: _Plan, episode: Episode, feature: str) -> Iterator[np.ndarray]:
    clip = dict(episode.clips)[feature]
    try:
        yield from frames_at(plan.place.file(clip.path), clip.start, np.arange(episode.length) / plan.fps, plan.fps)
    except VideoError as error:
        raise plan.place.malformed(clip.path, str(error)) from error


def _unpacked(plan: _Plan, episode: Episode, values: pa.ChunkedArray) -> Iterator[np.ndarray]:
    for index, value in enumerate(values):
        content = (value.as_py() or {}).get("bytes")
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
        if image is None:
            raise plan.place.malformed(f"{episode.table}: frame {index} of episode {episode.index}", "holds no image that can be decoded")
        yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _fill(array: h5py.Dataset, plan: _Plan, feature: str, images: Iterator[np.ndarray]) -> None:
    """Write the images of an episode to an array, one after the other, for in full size they may be large."""
    for index, image in enumerate(images):
        if image.shape != plan.shapes[feature]:
            what = f"shows images {list(image.shape)}, and meta/info.json says {list(plan.shapes[feature])}"
            raise plan.place.malformed(feature, what, "correct the shape there, or record it again")
        array[index] = image if plan.image_size is None else cv2.resize(image, array.shape[1:3], interpolation=cv2.INTER_AREA)
