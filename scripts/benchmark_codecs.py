"""Compares video codecs on the images of robomimic datasets: what is lost, and how large the videos are.

    robomimic-frozen demos --task lift --num 8 --out lift.hdf5
    robomimic-frozen demos --task can --num 4 --out can.hdf5
    python scripts/benchmark_codecs.py lift.hdf5 can.hdf5

Each demo's images of each camera become a video of its own, as `data --to-lerobot` writes them.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Iterator

import av
import h5py
import numpy as np

LEROBOT = ("libsvtav1", "yuv420p", {"crf": "30", "preset": "12"})
OURS = ("libx264", "yuv444p", {"crf": "10", "bf": "0"})
OTHERS = [("libx264", pixels, {"crf": crf, "bf": "0"}) for pixels, crf in (("yuv444p", "18"), ("yuv420p", "10"), ("yuv444p", "0"))]


def encode(images: np.ndarray, codec: str, pixels: str, options: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=20, options={"g": "2", **options})
        stream.height, stream.width, stream.pix_fmt = *images.shape[1:3], pixels
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def decode(video: bytes) -> np.ndarray:
    with av.open(io.BytesIO(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def clips(path: str) -> Iterator[np.ndarray]:
    with h5py.File(path) as file:
        for demo in file["data"].values():
            yield from (array[()] for key, array in demo["obs"].items() if key.endswith("_image"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="+", metavar="FILE.hdf5")
    images = [clip for path in parser.parse_args().datasets for clip in clips(path)]
    frames = sum(map(len, images))
    print(f"{frames} frames, {sum(clip.nbytes for clip in images) / frames / 1e3:.1f} kB each, PyAV {av.__version__}\n")
    print("| codec | mean absolute error, of 255 | 99 % of values are within | kB per frame | ms per frame |\n|---|---|---|---|---|")
    for codec, pixels, options in (LEROBOT, OURS, *OTHERS):
        start = time.perf_counter()
        videos = [encode(clip, codec, pixels, options) for clip in images]
        seconds = time.perf_counter() - start
        errors = np.concatenate([np.abs(clip - decode(video).astype(int)).ravel() for clip, video in zip(images, videos, strict=True)])
        size = sum(map(len, videos)) / frames / 1e3
        what = f"{codec}, crf {options['crf']}, {pixels}"
        print(f"| {what} | {errors.mean():.2f} | {np.percentile(errors, 99):.0f} | {size:.2f} | {seconds / frames * 1e3:.2f} |", flush=True)


if __name__ == "__main__":
    main()
