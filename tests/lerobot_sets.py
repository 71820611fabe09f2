"""LeRobot datasets (v3) for tests, written with pyarrow and PyAV as LeRobot lays them out: several episodes in each file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

FPS, SIZE, LENGTHS = 10, 32, (5, 7, 4)
CAMERA = "observation.images.top"
_FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"


def write_set(
    folder: Path, lengths: Sequence[int] = LENGTHS, codec: str | None = "libx264", more: Mapping[str, str] = {}
) -> dict[str, np.ndarray]:  # fmt: skip
    """Write a set with one camera, `observation.state` of three joints and actions of two, and return its values over all frames.

    Args:
        codec: of the camera's video; None for pictures in the tables.
        more: names of further features, one number each, and their type.
    """
    rng, frames = np.random.default_rng(0), sum(lengths)
    # Shades that drift, so that a codec keeps them and each frame is another one.
    shades = (np.arange(frames) * 9 % 200)[:, None, None, None] + np.linspace(0, 50, SIZE)[:, None, None] + np.array([0, 3, 5])
    values: dict[str, np.ndarray] = {
        CAMERA: np.broadcast_to(shades, (frames, SIZE, SIZE, 3)).astype(np.uint8),
        "observation.state": rng.normal(size=(frames, 3)).astype(np.float32),
        "action": rng.uniform(-1, 1, (frames, 2)).astype(np.float32),
        **{name: rng.integers(0, 2, frames).astype(dtype) for name, dtype in more.items()},
        "timestamp": np.concatenate([np.arange(length) / FPS for length in lengths]).astype(np.float32),
        "frame_index": np.concatenate([np.arange(length) for length in lengths]),
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(frames),
        "task_index": np.repeat(np.arange(len(lengths)) % 2, lengths),
    }
    features = {name: _feature(name, array, codec) for name, array in values.items()}
    _write_tables(folder, values, lengths, codec)
    if codec is not None:
        path = folder / "videos" / CAMERA / "chunk-000" / "file-000.mp4"
        path.parent.mkdir(parents=True)
        write_video(path, values[CAMERA], FPS, codec)
    info = {
        "codebase_version": "v3.0", "robot_type": "so100", "total_episodes": len(lengths), "total_frames": frames, "total_tasks": 2,
        "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200, "fps": FPS,
        "splits": {"train": f"0:{len(lengths) - 1}", "test": f"{len(lengths) - 1}:{len(lengths)}"},
        "data_path": f"data/{_FILE}.parquet", "video_path": f"videos/{{video_key}}/{_FILE}.mp4", "features": features,
    }  # fmt: skip
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return values


def write_video(path: Path, images: np.ndarray, fps: int, codec: str = "libx264") -> None:
    """Write a video as LeRobot's own encoder does, but for the codec, whose default there is libsvtav1."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"crf": "10", "g": "2"})
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


def change_info(folder: Path, **changes: Any) -> None:
    """Change what info.json says."""
    path = folder / "meta" / "info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _feature(name: str, values: np.ndarray, codec: str | None) -> dict[str, Any]:
    if name == CAMERA:
        return {"dtype": "image" if codec is None else "video", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]}
    names = {"observation.state": ["shoulder.pos", "elbow.pos", "gripper.pos"], "action": ["dx", "dy"]}.get(name)
    return {"dtype": str(values.dtype), "shape": list(values.shape[1:]) or [1], "names": names}


def _write_tables(folder: Path, values: Mapping[str, np.ndarray], lengths: Sequence[int], codec: str | None) -> None:
    """Write two tables of frames, the second with the last episode only, and those of tasks and episodes."""
    columns = {name: pa.array(list(array)) for name, array in values.items() if name != CAMERA}
    if codec is None:
        pictures = [cv2.imencode(".png", image[:, :, ::-1])[1].tobytes() for image in values[CAMERA]]
        columns[CAMERA] = pa.array([{"bytes": picture, "path": f"frame-{index:06d}.png"} for index, picture in enumerate(pictures)])
    table, ends = pa.table(columns), np.cumsum(lengths)
    for index, (start, stop) in enumerate([(0, ends[-2]), (ends[-2], ends[-1])]):
        path = folder / "data" / "chunk-000" / f"file-{index:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.slice(start, stop - start), path)
    rows = [
        {"episode_index": index, "tasks": [f"task {index % 2}"], "length": length, "data/chunk_index": 0,
         "data/file_index": int(index == len(lengths) - 1), "dataset_from_index": int(end) - length, "dataset_to_index": int(end),
         f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": 0, f"videos/{CAMERA}/from_timestamp": (end - length) / FPS,
         f"videos/{CAMERA}/to_timestamp": end / FPS, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        for index, (length, end) in enumerate(zip(lengths, ends, strict=True))
    ]  # fmt: skip
    path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    pd.DataFrame({"task_index": [0, 1]}, index=["task 0", "task 1"]).to_parquet(folder / "meta" / "tasks.parquet")
