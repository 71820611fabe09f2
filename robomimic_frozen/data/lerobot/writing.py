"""LeRobot datasets of HDF5 files of robomimic, in parallel and episode by episode."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from robomimic_frozen.data.lerobot.dataset import EPISODES, INFO, OURS
from robomimic_frozen.data.lerobot.keys import MARKS, Overrides, features_of, names_of, path_of
from robomimic_frozen.data.lerobot.statistics import of_all, of_episode
from robomimic_frozen.data.lerobot.video import description, encode
from robomimic_frozen.data.parts import finished_parts
from robomimic_frozen.errors import ConfigError, MalformedError
from robomimic_frozen.features.source import demos_in
from robomimic_frozen.simulation.environments import ROBOSUITE_TYPE, check_complete, environment_of
from robomimic_frozen.utils import hdf5
from robomimic_frozen.utils.files import fingerprint, sha256_of, write_json
from robomimic_frozen.utils.machine import PACKAGES, installed_version
from robomimic_frozen.utils.parallel import Executor
from robomimic_frozen.utils.urls import local_path

_PER_CHUNK: Final = 1000
_FILE: Final = "chunk-{chunk_index:03d}/file-{file_index:03d}"
_DATA, _VIDEOS = f"data/{_FILE}.parquet", f"videos/{{video_key}}/{_FILE}.mp4"
_FREQUENCY: Final = 20  # of robosuite's environments, unless they say otherwise
# Videos are a part of their images, at most (a twelfth is usual).
_COMPRESSED: Final = 0.25


@dataclass(frozen=True)
class _Feature:
    """What a feature is made of: keys, which are joined, and the shape and type of one step."""

    keys: tuple[str, ...]
    widths: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str  # of numpy, or "video"

    def info(self, fps: int) -> dict[str, Any]:
        """Return what info.json says of it."""
        about: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape)}
        if self.dtype == "video":
            return {**about, "names": ["height", "width", "channels"], "info": description(self.shape[0], self.shape[1], fps)}
        return {**about, "names": names_of(zip(self.keys, self.widths, strict=True))}


@dataclass(frozen=True)
class _Demo:
    index: int
    name: str
    length: int
    start: int  # number of its first frame in the set
    task: str


@dataclass(frozen=True)
class _Plan:
    """What is written of a file; it goes to the workers with each demo."""

    path: str | Path
    fps: int
    features: Mapping[str, _Feature]
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """What a set has."""

    episodes: int
    frames: int
    features: tuple[str, ...]


def write_lerobot(
    path: str | Path, out: Path, overrides: Overrides, float32: bool = False, fps: int | None = None, executor: Executor | None = None,
    progress: bool = True,
) -> Written:  # fmt: skip
    """Write the demos of an HDF5 file of robomimic as a LeRobot dataset, and say what is in it.

    Observations, actions, rewards, dones and what is done are written, the latter from the attribute `task`, from `lang` of `ep_meta`,
    or else as the name of the environment. States, models and next observations are not. Each episode has files of its own. The
    environment, the names of the demos and the filter keys are in meta/robomimic.json, so that reading gives them back.

    Args:
        path: HDF5 file, or its URL.
        out: folder, which appears when the set is complete; what is done is kept in a hidden folder beside it until then.
        overrides: features that are other keys than the table says.
        float32: whether to write numbers with less precision, as LeRobot's own policies take them.
        fps: steps per second; None for what the file says.

    Raises:
        ConfigError: keys that do not map, nobody says how many steps a second has, or another process is writing the set.
        DatasetError: the file is damaged, the folder exists, or the disk is full.
    """
    names = demos_in(path)
    with hdf5.opened(path) as file:
        env_args, data = environment_of(file), hdf5.group_in(file, "data")
        check_complete(file.filename, "env_args", env_args)
        fps = fps or _fps(path, data, env_args)
        demos = list(_demos(data, names, str(env_args.get("env_name"))))
        features = _features(hdf5.group_in(data, names[0]), overrides, float32)
        masks = hdf5.find_group(file, "mask")
        filter_keys = {key: demos_in(path, key) for key in (hdf5.members(masks) if masks is not None else ())}
    plan = _Plan(path, fps, features, tuple(dict.fromkeys(demo.task for demo in demos)))
    versions = [installed_version(package) for package in (*PACKAGES, "av", "pyarrow")]
    made_from = fingerprint(sha256_of(local_path(path)), repr(plan), versions)[:16]
    step = sum(math.prod(each.shape) * (_COMPRESSED if each.dtype == "video" else 8) for each in features.values())
    parts = {demo: f"done/{demo.index}.json" for demo in demos}

    def room(missing: list[_Demo]) -> int:
        return int(step * sum(demo.length for demo in missing))

    write = functools.partial(_write_episode, plan)
    with finished_parts(out, parts, write, made_from, room, executor, progress, "writing", "written") as folder:
        made = folder / "set"
        _write_tables(plan, made / "meta", demos, [json.loads((folder / part).read_text()) for part in parts.values()])
        write_json(made / OURS, {"env_args": env_args, "demos": names, "filter_keys": filter_keys})
        write_json(made / INFO, _info(plan, demos, _robot(env_args), _splits(names, filter_keys)))
        made.rename(out)
    return Written(len(demos), sum(demo.length for demo in demos), tuple(features))


def _fps(path: str | Path, data: h5py.Group, env_args: Mapping[str, Any]) -> int:
    fps = hdf5.attribute(data, "fps")
    if fps is None and env_args.get("type") == ROBOSUITE_TYPE:
        fps = env_args["env_kwargs"].get("control_freq", _FREQUENCY)
    if fps is None or fps != int(fps):
        said = "does not say how many steps a second has" if fps is None else f"has {fps} steps a second, and LeRobot takes whole numbers"
        raise ConfigError(f"{path} {said}; give --fps")
    return int(fps)


def _robot(env_args: Mapping[str, Any]) -> str:
    robots = env_args["env_kwargs"].get("robots") or str(env_args.get("env_name"))
    return robots if isinstance(robots, str) else "+".join(map(str, robots))


def _demos(data: h5py.Group, names: Sequence[str], env_name: str) -> Iterator[_Demo]:
    start = 0
    for index, name in enumerate(names):
        demo = hdf5.group_in(data, name)
        length = hdf5.attribute(demo, "num_samples")
        if not isinstance(length, int | np.integer) or length < 1:
            raise MalformedError(data.file.filename, f"num_samples of {name}", f"is {length!r}, not the number of its steps")
        yield _Demo(index, name, int(length), start, _task(demo) or env_name)
        start += int(length)


def _task(demo: h5py.Group) -> str | None:
    task = hdf5.attribute(demo, "task")
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        task = task or json.loads(hdf5.attribute(demo, "ep_meta")).get("lang")
    return str(task) if task else None


def _features(demo: h5py.Group, overrides: Overrides, float32: bool) -> dict[str, _Feature]:
    """Return what the demos of a file are written as, of which this is the first."""
    obs = hdf5.find_group(demo, "obs")
    if obs is None:
        raise MalformedError(demo.file.filename, str(demo.name).lstrip("/"), "has no observations", "render it: robomimic-frozen data FILE")
    keys = hdf5.members(obs)
    images = {key for key in keys if _is_image(hdf5.array_in(obs, key))}
    others = [key for key in hdf5.members(demo) if path_of(key) == key]
    return {
        name: _feature(name, {key: hdf5.array_in(demo, path_of(key)) for key in joined}, float32)
        for name, joined in features_of(keys, images, others, overrides).items()
    }


def _is_image(array: h5py.Dataset) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[3] == 3


def _feature(name: str, arrays: Mapping[str, h5py.Dataset], float32: bool) -> _Feature:
    if [_is_image(array) for array in arrays.values()] == [True]:
        ((key, array),) = arrays.items()
        return _Feature((key,), (), array.shape[1:], "video")
    for key, array in arrays.items():
        if array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
            what = f"is {array.dtype} {list(array.shape)}, neither numbers [T, N] nor, alone, images [T, H, W, 3] uint8"
            raise MalformedError(array.file.filename, str(array.name).lstrip("/"), what, f"leave it out: --map {name}=, or without {key}")
    widths = tuple(math.prod(array.shape[1:]) for array in arrays.values())
    dtype = np.result_type(*(array.dtype for array in arrays.values()))
    if float32 and dtype.kind == "f":
        dtype = np.dtype(np.float32)
    return _Feature(tuple(arrays), widths, (sum(widths),), "bool" if [*arrays] == ["dones"] else dtype.name)


def _splits(names: Sequence[str], filter_keys: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the splits of info.json: all as `train`, as LeRobot writes it, and filter keys that are demos in a row."""
    splits = {"train": f"0:{len(names)}"}
    for key, chosen in filter_keys.items():
        places = sorted(map(names.index, chosen))
        if places == list(range(places[0], places[-1] + 1)):
            splits[key] = f"{places[0]}:{places[-1] + 1}"
    return splits


def _write_episode(plan: _Plan, demo: _Demo) -> dict[str, bytes]:
    """Return the files of an episode: its videos, its table, and last what is known of its numbers."""
    place = {"chunk_index": demo.index // _PER_CHUNK, "file_index": demo.index % _PER_CHUNK}
    columns: dict[str, np.ndarray] = {}
    made: dict[str, bytes] = {}
    statistics: dict[str, Any] = {}
    with hdf5.opened(plan.path) as file:
        group = file["data"][demo.name]
        for name, feature in plan.features.items():
            values = _values(group, demo, feature)
            statistics[name] = of_episode(values)
            if feature.dtype == "video":
                made["set/" + _VIDEOS.format(video_key=name, **place)] = encode(values, plan.fps)
            else:
                columns[name] = values
    frames = np.arange(demo.length)
    marks = (frames / plan.fps).astype(np.float32), frames, np.full_like(frames, demo.index), demo.start + frames
    columns |= dict(zip(MARKS, (*marks, np.full_like(frames, plan.tasks.index(demo.task))), strict=True))
    statistics |= {name: of_episode(columns[name]) for name in MARKS}
    table = io.BytesIO()
    pq.write_table(pa.table({name: _arrow(values) for name, values in columns.items()}), table)
    made["set/" + _DATA.format(**place)] = table.getvalue()
    return {**made, f"done/{demo.index}.json": json.dumps(statistics).encode()}


def _values(group: h5py.Group, demo: _Demo, feature: _Feature) -> np.ndarray:
    """Return a feature of a demo: images, or numbers [T, N]. Raises MalformedError if they are other than in the first one."""
    arrays = [hdf5.array_in(group, path_of(key)) for key in feature.keys]
    shapes = [feature.shape] if feature.dtype == "video" else [(width,) for width in feature.widths]
    for array, shape in zip(arrays, shapes, strict=True):
        if len(array) < demo.length or math.prod(array.shape[1:]) != math.prod(shape):
            what = f"is {list(array.shape)}, and should be {[demo.length, *shape]}, as num_samples and the first demo say"
            raise MalformedError(group.file.filename, f"{demo.name}/{array.name.rpartition(demo.name + '/')[2]}", what, "convert it again")
    # There may be one more, of the state in the end.
    values = [np.concatenate(list(hdf5.blocks(array)))[: demo.length] for array in arrays]
    if feature.dtype == "video":
        return values[0]
    return np.concatenate([each.reshape(demo.length, -1) for each in values], axis=1).astype(feature.dtype)


def _arrow(values: np.ndarray) -> pa.Array:
    """Return a column: numbers where there is one for each step, else lists of the same length, as LeRobot has them."""
    flat = pa.array(values.ravel())
    return flat if values.size == len(values) else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write_tables(plan: _Plan, meta: Path, demos: Sequence[_Demo], statistics: Sequence[Mapping[str, Any]]) -> None:
    """Write the statistics, and the tables of tasks and episodes."""
    write_json(meta / "stats.json", {name: of_all([each[name] for each in statistics]) for name in statistics[0]})
    tasks = pd.Index(plan.tasks, name="task")
    pd.DataFrame({"task_index": range(len(tasks))}, index=tasks).to_parquet(meta / "tasks.parquet")
    videos = [name for name, feature in plan.features.items() if feature.dtype == "video"]
    rows = []
    for demo, of_demo in zip(demos, statistics, strict=True):
        row: dict[str, Any] = {"episode_index": demo.index, "tasks": [demo.task], "length": demo.length}
        row |= {"dataset_from_index": demo.start, "dataset_to_index": demo.start + demo.length}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for part in ("data", *(f"videos/{name}" for name in videos)):
            row |= {f"{part}/chunk_index": demo.index // _PER_CHUNK, f"{part}/file_index": demo.index % _PER_CHUNK}
        for name in videos:
            row |= {f"videos/{name}/from_timestamp": 0.0, f"videos/{name}/to_timestamp": demo.length / plan.fps}
        rows.append(row | {f"stats/{name}/{key}": value for name, of_it in of_demo.items() for key, value in of_it.items()})
    table = meta.parent / EPISODES / "chunk-000" / "file-000.parquet"
    table.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), table)


def _info(plan: _Plan, demos: Sequence[_Demo], robot: str, splits: Mapping[str, str]) -> dict[str, Any]:
    features = {name: feature.info(plan.fps) for name, feature in plan.features.items()}
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in MARKS}
    features["timestamp"]["dtype"] = "float32"
    return {
        "codebase_version": "v3.0", "robot_type": robot, "total_episodes": len(demos), "total_frames": demos[-1].start + demos[-1].length,
        "total_tasks": len(plan.tasks), "chunks_size": _PER_CHUNK, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
        "fps": plan.fps, "splits": splits, "data_path": _DATA,
        "video_path": _VIDEOS if any(feature.dtype == "video" for feature in plan.features.values()) else None, "features": features,
    }  # fmt: skip
