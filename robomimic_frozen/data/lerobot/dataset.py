"""A LeRobot dataset in a folder or at the Hugging Face hub: where its files are, and what its metadata say."""

from __future__ import annotations

import contextlib
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from robomimic_frozen.errors import ConfigError, DatasetError, MalformedError, first_line
from robomimic_frozen.utils.files import fingerprint, sha256_of
from robomimic_frozen.utils.hub import hub_errors_named, repository_in

PREFIX: Final = "lerobot:"
INFO, OURS, EPISODES = "meta/info.json", "meta/robomimic.json", "meta/episodes"
"""Files that tell of a set: LeRobot's own, what of a robomimic file has no place there, and the folder with a table of the episodes."""
_AGAIN: Final = "finish recording it, or download it again"
_DEFAULT_NAMES: Final = "demo_0, demo_1, ..., without filter keys of their own"
_NAME: Final = r"\w{5}\d+"  # of a demo, as robomimic sorts them


def require_libraries() -> None:
    """Raise ConfigError unless there is what reads and writes the files of LeRobot datasets."""
    try:
        importlib.import_module("av")
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(f"LeRobot datasets need pyarrow and av ({first_line(error)}): pip install 'robomimic_frozen[lerobot]'") from error


@dataclass(frozen=True)
class Place:
    """Where a set is: the folder that has its metadata, and at the hub also its repository and commit."""

    name: str
    folder: Path
    repository: str | None = None
    commit: str | None = None

    def file(self, path: str) -> Path:
        """Return a file of the set on this machine, fetched if need be. Raises MalformedError, RemoteFileError if it is not there."""
        if self.repository is None or path.startswith("meta/"):
            found = self.folder / path
            if not found.is_file():
                raise self.malformed(path, "is missing")
            return found
        from huggingface_hub import hf_hub_download

        with hub_errors_named(f"{path} of {self.name} could not be downloaded", "run again, what is done is kept"):
            return Path(hf_hub_download(self.repository, path, repo_type="dataset", revision=self.commit))

    def malformed(self, where: str, what: str, remedy: str = _AGAIN) -> MalformedError:
        """Return what to raise of something in the set."""
        return MalformedError(self.name, where, what, remedy)

    def version(self) -> str:
        """Return another string where any file of the set is another."""
        if self.commit is not None:
            return self.commit
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        meta = [sha256_of(path) for path in files if self.folder / "meta" in path.parents]
        return fingerprint(meta, [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files])


@dataclass(frozen=True)
class Clip:
    """The piece of a video file that shows an episode, in seconds."""

    path: str
    start: float
    stop: float


@dataclass(frozen=True)
class Episode:
    """What the metadata say of an episode: its length in frames, its tasks in words, its table, and its clip of each video feature."""

    index: int
    name: str
    length: int
    task: str
    table: str
    clips: tuple[tuple[str, Clip], ...]


@dataclass(frozen=True)
class LeRobotSet:
    """What is in a set."""

    place: Place
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    robot_type: str
    episodes: tuple[Episode, ...]
    filter_keys: Mapping[str, list[str]]
    env_args: Mapping[str, Any] | None  # of the environment, where the set was written from a robomimic file


def find_place(source: str) -> Place:
    """Return where the set is that `lerobot:DIR` or `lerobot:OWNER/NAME` names; of one at the hub the metadata are fetched.

    Raises:
        DatasetError: it is neither a folder nor a name that a repository could have.
        RemoteFileError: the hub does not give it.
    """
    name = source.removeprefix(PREFIX)
    if (folder := Path(name).expanduser()).is_dir():
        return Place(name, folder)
    try:
        repository, revision = repository_in(name)
    except ConfigError as error:
        raise DatasetError(f"{source} is neither a folder nor OWNER/NAME of a dataset at the hub; correct it") from error
    from huggingface_hub import snapshot_download

    what = f"{name} is no folder here, and its metadata could not be downloaded from the hub"
    with hub_errors_named(what, "run again, or download the dataset elsewhere and give its folder"):
        folder = Path(snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns="meta/*"))
    return Place(name, folder, repository, folder.name)


def read_metadata(place: Place) -> LeRobotSet:
    """Look through the metadata of a set. Raises DatasetError if they are damaged, incomplete, or of another version of LeRobot."""
    info = _json(place, INFO)
    version = info.get("codebase_version")
    if not str(version).startswith("v3."):
        raise place.malformed(INFO, f"is of LeRobot's format {version}, not v3", "convert it with LeRobot's convert_dataset_v21_to_v30")
    if missing := {"fps", "features", "data_path", "total_episodes", "total_frames"} - info.keys():
        raise place.malformed(INFO, f"lacks {', '.join(sorted(missing))}")
    fps, features = info["fps"], info["features"]
    if not isinstance(fps, int | float) or fps <= 0 or not isinstance(info["total_episodes"], int):
        raise place.malformed(INFO, f"has fps {fps!r} and total_episodes {info['total_episodes']!r}, not numbers")
    if not isinstance(features, dict) or not all(map(_is_feature, features.values())):
        raise place.malformed(INFO, "has features without dtype and shape")
    ours = _json(place, OURS) if (place.folder / OURS).exists() else {}
    names = _demo_names(place, ours, info["total_episodes"])
    episodes = tuple(_episodes(place, info, names))
    found = {"total_episodes": len(episodes), "total_frames": sum(episode.length for episode in episodes)}
    for key, number in found.items():
        if info[key] != number:
            raise place.malformed(INFO, f"has {key} {info[key]}, and {EPISODES} has {number}")
    filter_keys = ours["filter_keys"] if ours else dict(_splits(place, info, names))
    return LeRobotSet(place, fps, features, info.get("robot_type") or "unknown", episodes, filter_keys, ours.get("env_args"))


def _is_feature(feature: Any) -> bool:
    return isinstance(feature, dict) and isinstance(feature.get("dtype"), str) and isinstance(feature.get("shape"), list)


def _json(place: Place, path: str) -> dict[str, Any]:
    try:
        content = json.loads(place.file(path).read_text())
    except (OSError, ValueError) as error:
        raise place.malformed(path, f"is not JSON ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise place.malformed(path, "is not a JSON object")
    return content


def _demo_names(place: Place, ours: Mapping[str, Any], count: int) -> list[str]:
    """Return the names of the demos: those of the file that the set was written from, else demo_0, demo_1, ..."""
    if not ours:
        return [f"demo_{index}" for index in range(count)]
    names, chosen = ours.get("demos"), ours.get("filter_keys")
    if not isinstance(names, list) or not all(isinstance(name, str) and re.fullmatch(_NAME, name) for name in names):
        names = []
    if not names or not isinstance(chosen, dict) or not all(isinstance(each, list) and set(each) <= {*names} for each in chosen.values()):
        raise place.malformed(OURS, "has no names of demos, or filter keys of others", f"delete it: demos are then {_DEFAULT_NAMES}")
    if {len(names), len(set(names))} != {count}:
        what = f"is of {len(names)} demos, and the set has {count} episodes"
        raise place.malformed(OURS, what, f"it was changed since: delete this file, and demos are {_DEFAULT_NAMES}")
    return names


def _splits(place: Place, info: Mapping[str, Any], names: list[str]) -> Iterator[tuple[str, list[str]]]:
    for split, words in (info.get("splits") or {}).items():
        ends = re.fullmatch(r"(\d+):(\d+)", str(words))
        if ends is None or not 0 <= int(ends[1]) <= int(ends[2]) <= len(names):
            raise place.malformed(INFO, f"has the split {split} {words!r}, no range of its {len(names)} episodes", "correct it")
        yield split, names[int(ends[1]) : int(ends[2])]


def _episodes(place: Place, info: Mapping[str, Any], names: list[str]) -> Iterator[Episode]:
    videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    spans = [f"videos/{name}/{end}_timestamp" for name in videos for end in ("from", "to")]
    files = [f"{part}/{which}_index" for part in ("data", *(f"videos/{name}" for name in videos)) for which in ("chunk", "file")]
    tables = sorted((place.folder / EPISODES).glob("*/*.parquet"))
    rows = [row for table in tables for row in _rows(place, table, ["episode_index", "length", "tasks", *files, *spans])]
    if [row["episode_index"] for row in rows] != list(range(len(rows))) or len(rows) > len(names):
        raise place.malformed(EPISODES, f"does not have episodes 0 to {info['total_episodes'] - 1}, each once and in this order")
    for row, name in zip(rows, names, strict=False):
        clips = []
        for video, start, stop in zip(videos, spans[::2], spans[1::2], strict=True):
            frames = (row[stop] - row[start]) * info["fps"]
            if abs(frames - row["length"]) > 0.5 or row["length"] < 1:
                what = f"gives episode {row['episode_index']} {row['length']} steps, and {frames:.1f} frames of {video}"
                raise place.malformed(EPISODES, what)
            path = _path(place, info.get("video_path"), row, f"videos/{video}", video_key=video)
            clips.append((video, Clip(path, row[start], row[stop])))
        table, task = _path(place, info["data_path"], row, "data"), "; ".join(map(str, row["tasks"]))
        yield Episode(row["episode_index"], name, row["length"], task, table, tuple(clips))


def _rows(place: Place, path: Path, columns: list[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    where = path.relative_to(place.folder).as_posix()
    with parquet_errors_named(place, where):
        table = pq.read_table(path)
        if missing := [column for column in columns if column not in table.column_names or table[column].null_count]:
            raise place.malformed(where, f"lacks {missing[0]} of an episode")
        return table.select(columns).to_pylist()


def _path(place: Place, pattern: Any, row: Mapping[str, Any], part: str, **more: str) -> str:
    """Return a path in the set that a pattern of its info.json makes of numbers. Raises MalformedError if it leads out of the set."""
    numbers = {"chunk_index": row[f"{part}/chunk_index"], "file_index": row[f"{part}/file_index"]}
    with contextlib.suppress(AttributeError, KeyError, IndexError, ValueError):
        path = PurePosixPath(pattern.format(**numbers, **more))
        if not path.is_absolute() and ".." not in path.parts:
            return str(path)
    raise place.malformed(INFO, f"has no pattern for the files of {part}", "write data_path and video_path as LeRobot does")


@contextlib.contextmanager
def parquet_errors_named(place: Place, where: str) -> Iterator[None]:
    """Turn what pyarrow raises in the block into a MalformedError of the file `where`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise place.malformed(where, f"cannot be read ({first_line(error)})") from error
