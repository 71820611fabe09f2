"""What each readout and augmentation costs: extraction, size of the cache, and a gradient step, taking turns.

    python scripts/benchmark_readouts.py can.hdf5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import torch

KEYPOINTS = {"name": "spatial_softmax", "num_kp": 32}
CROPS = {"augment": "crops", "crop_shape": [76, 76]}
STAGE_8, STAGE_16 = {"feature_stage": "layer2"}, {"feature_stage": "layer3"}
GRID = {**STAGE_16, "pool": "grid"}
BOTH = {"feature_stage": ["layer2", "layer3", "layer3"], "pool": [KEYPOINTS, KEYPOINTS, "grid"]}
VARIANTS: dict[str, dict[str, Any]] = {
    "average, 8 crops": {**STAGE_16, "pool": "avg", **CROPS},
    "average, shift": {**STAGE_16, "pool": "avg"},
    "3x3 grid, 8 crops": {**GRID, **CROPS},
    "3x3 grid, shift": GRID,
    "3x3 grid, shift, images resized to 168": {**GRID, "resize_shape": [168, 168]},
    "3x3 grid, shift, cached as int8": {**GRID, "dtype": "int8"},
    "32 keypoints, shift": {**STAGE_16, "pool": KEYPOINTS},
    "32 + 32 keypoints and grid, 8 crops": {**BOTH, **CROPS},
    "32 + 32 keypoints and grid, shift": BOTH,
    "convolutions, shift": {**STAGE_16, "pool": "conv"},
    "convolutions over stride 8, shift (the ready configs)": {**STAGE_8, "pool": "conv"},
    "attention, shift": {**STAGE_16, "pool": "attention"},
}
CONFIG = Path(__file__).parent.parent / "configs" / "can_mh_offline.json"


class Variant:
    """One policy and its features, extracted anew."""

    def __init__(self, dataset: str, settings: dict[str, Any], folder: str) -> None:
        import robomimic.utils.obs_utils as ObsUtils
        import robomimic.utils.train_utils as TrainUtils
        from robomimic.algo import algo_factory
        from torch.utils.data import DataLoader

        from robomimic_frozen.integration.settings import load_config

        config = load_config(str(CONFIG), None, dataset, [f"algo.feature_cache.dir={folder}", "train.cuda=false"])
        with config.values_unlocked():
            config.algo.feature_cache.dtype = settings.get("dtype", config.algo.feature_cache.dtype)
            config.observation.encoder.rgb.core_kwargs.update({key: value for key, value in settings.items() if key != "dtype"})
        with h5py.File(dataset) as file:
            demo = file["data"][next(iter(file["data"]))]
            shapes = {key: demo["obs"][key].shape[1:] for key in config.all_obs_keys}
            actions = demo["actions"].shape[1]
            frames = sum(each.attrs["num_samples"] for each in file["data"].values())
        images = {key for key in shapes if key.endswith("_image")}
        shapes = {key: (shape[2], *shape[:2]) if key in images else shape for key, shape in shapes.items()}
        ObsUtils.initialize_obs_utils_with_config(config)
        self.model = algo_factory(config.algo_name, config, shapes, actions, torch.device("cpu"))
        self.model.set_train()
        start = time.perf_counter()
        data = TrainUtils.dataset_factory(config, obs_keys=config.all_obs_keys)
        self.frames_per_second = frames * len(images) / (time.perf_counter() - start)
        self.bytes_per_image = statistics.mean(array.nbytes / len(array) for array in data.features.values())
        self.loader = DataLoader(data, batch_size=config.train.batch_size, shuffle=True, drop_last=True)
        self.milliseconds: list[float] = []

    def step(self, steps: int) -> None:
        """Take gradient steps through robomimic's own loop."""
        import robomimic.utils.train_utils as TrainUtils

        start = time.perf_counter()
        TrainUtils.run_epoch(self.model, self.loader, epoch=1, num_steps=steps)
        self.milliseconds.append(1000 * (time.perf_counter() - start) / steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="of the demonstrations: a handful will do")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40, help="in each round")
    arguments = parser.parse_args()
    import robomimic_frozen

    robomimic_frozen.register()
    variants = {}
    for name, settings in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            variants[name] = Variant(arguments.dataset, settings, folder)
            variants[name].step(arguments.steps)  # the first one fills caches
            variants[name].milliseconds.clear()
    for _ in range(arguments.rounds):
        for variant in variants.values():
            variant.step(arguments.steps)
    reference = variants["3x3 grid, 8 crops"]
    print("| readout and augmentation | a step | against the grid of 8 crops | cached of an image | images extracted in a second |")
    print("|---|---|---|---|---|")
    for name, variant in variants.items():
        pairs = zip(variant.milliseconds, reference.milliseconds, strict=True)
        ratio = statistics.median(own / others for own, others in pairs)
        step, size = statistics.median(variant.milliseconds), variant.bytes_per_image / 1000
        print(f"| {name} | {step:.1f} ms | {ratio:.2f}x | {size:.1f} kB | {variant.frames_per_second:.0f} |")


if __name__ == "__main__":
    main()
