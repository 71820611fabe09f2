"""Images -> features, at the fastest precision of the device that is safe."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import logging
import random
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
import robomimic.models.obs_core  # noqa: F401  # which registers the randomizers
import torch
import torch.nn.functional as F
from robomimic.utils.obs_utils import OBS_RANDOMIZERS
from torch import Tensor

from robomimic_frozen.encoders.preprocessing import crop_at
from robomimic_frozen.encoders.spec import EncoderSpec
from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.errors import WeightsError
from robomimic_frozen.features.int8 import to_int8
from robomimic_frozen.features.source import ImageSource, crop_positions, image_digest
from robomimic_frozen.utils import machine
from robomimic_frozen.utils.parallel import worker_state

logger = logging.getLogger(__name__)

BATCH_SIZE: Final = 128
SAFE_SIMILARITY: Final = 0.999
_SAMPLE_IMAGES: Final = 32


def extract_demo(
    spec: EncoderSpec, source: ImageSource, weights_sha256: str, device: torch.device | None, threads: int | None, demo: str
) -> tuple[str, bytes, float | None]:
    """Return the digest of a demo's images, their features as they are stored, and of int8 the error as `to_int8` has it.

    The network is built once in each worker.

    Args:
        device: None for the worker's GPU, if it has one.
        threads: that the worker may compute with; None for torch's choice.

    Raises:
        DatasetError: the dataset cannot be read.
        WeightsError: the worker has weights of another sha256, or they give numbers that are not finite.
    """
    extraction = worker_state(_make_extraction, spec, source, weights_sha256, device, threads)
    images = source.read(demo)
    features = extraction(source.place_of(demo), images)
    return (image_digest(images), *(to_int8(features) if spec.dtype == "int8" else (features.tobytes(), None)))


def _make_extraction(
    spec: EncoderSpec, source: ImageSource, weights_sha256: str, device: torch.device | None, threads: int | None
) -> FeatureExtraction:
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    network = spec.build()
    if network.frozen_sha256() != weights_sha256:
        raise WeightsError(f"the weights in {network.origin} are others where features are extracted; give all workers the same file")
    device = device or torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return FeatureExtraction(spec, network, device, sample=source.read(source.demos[0], _SAMPLE_IMAGES))


def keep_freed_memory() -> None:
    """Let glibc keep up to 256 MB of what is freed. Otherwise the system takes it back and clears it anew for every batch."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # where there is no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: the most it takes; setting either ends their adaptation
        libc.mallopt(-1, 2**28)  # M_TRIM_THRESHOLD


class FeatureExtraction:
    """Computes the features of one demo after another on `device`, with the network that `spec` builds.

    They depend on that demo and on `sample` alone, images [T, H, W, 3] uint8 on which the number format is chosen, and not on what was
    extracted before.
    """

    def __init__(self, spec: EncoderSpec, network: VisionBackbone, device: torch.device, sample: np.ndarray) -> None:
        self.spec = spec
        self.device = device
        self.preprocess = spec.preprocessing().eval()
        self.randomizers = [OBS_RANDOMIZERS[name](input_shape=spec.image_shape, **dict(given)) for name, given in spec.randomizers]
        # A network of the caller's is not moved to another device under the policy that uses it.
        self.network = copy.deepcopy(network).to(device)
        self.precision = self._fastest_safe_precision(sample[:_SAMPLE_IMAGES])

    def __call__(self, frames: str, images: np.ndarray) -> np.ndarray:
        """Return features [T, 1 + cached_crops, F] of images [T, H, W, 3] uint8, the central crop first; float32 where int8 is stored.

        `frames` names demo and obs key; see `crop_positions`. Raises WeightsError if the network gives numbers that are not finite.
        """
        batches = [self._forward(batch, self.precision).float().cpu().numpy() for batch in self._batches(frames, images)]
        features = np.concatenate(batches, dtype="float32" if self.spec.dtype == "int8" else self.spec.dtype)
        if not np.isfinite(features).all():
            raise WeightsError(
                f"{self.spec.backbone.name} gives NaN or infinite features for {frames}: its weights file is damaged, or "
                "algo.feature_cache.dtype must be 'float32'"
            )
        return features.reshape(len(images), 1 + self.spec.cached_crops, -1)

    @torch.inference_mode()
    def _forward(self, images: Tensor, precision: torch.dtype) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            return self.network.frozen_part(images)

    @torch.inference_mode()
    def _fastest_safe_precision(self, sample: np.ndarray) -> torch.dtype:
        # Whoever stores float32 wants the digits that bfloat16 does not have.
        if self.spec.dtype == "float32" or not machine.has_fast_bfloat16(self.device):
            return torch.float32
        images = next(self._batches("sample", sample))
        exact, quick = self._forward(images, torch.float32), self._forward(images, torch.bfloat16).float()
        similarity = F.cosine_similarity(exact, quick).min().item()
        if similarity < SAFE_SIMILARITY:
            logger.info("features in float32: bfloat16 ones have a cosine similarity of %.5f only", similarity)
            return torch.float32
        return torch.bfloat16

    def _batches(self, name: str, images: np.ndarray) -> Iterator[Tensor]:
        """Yield crops [B, 3, h, w] in [0, 1], all those of a frame one after another."""
        num_crops = self.spec.cached_crops
        frames_per_batch = max(1, BATCH_SIZE // (1 + num_crops))
        for first in range(0, len(images), frames_per_batch):
            part = torch.from_numpy(images[first : first + frames_per_batch])
            frames = self._frames(part)
            crops = self.preprocess.crop(frames)[:, None]
            if num_crops:
                many = self._randomized_frames(part, f"{name}/{first}") if self.randomizers else frames.repeat_interleave(num_crops, dim=0)
                randoms = self._random_crops(many, name, first, len(images))
                crops = torch.cat([crops, randoms.unflatten(0, (len(part), num_crops))], dim=1)
            yield crops.flatten(0, 1)

    def _random_crops(self, frames: Tensor, name: str, first: int, num_frames: int) -> Tensor:
        """Return a random crop of each of the frames, all those of a frame one after another, that follow the `first` of so many."""
        height, width = self.preprocess.output_size
        choices = (frames.shape[2] - height + 1, frames.shape[3] - width + 1)
        if not self.preprocess.random_crop:
            return self.preprocess.crop(frames)
        positions = crop_positions(self.spec.crop_seed, name, num_frames, self.spec.cached_crops, choices)[first:].reshape(-1, 2)
        tops, lefts = torch.from_numpy(positions[: len(frames)]).to(self.device).unbind(-1)
        return crop_at(frames, tops, lefts, (height, width))

    def _frames(self, part: Tensor) -> Tensor:
        """Return resized frames [T, 3, H, W] in [0, 1] on the device, of images [T, H, W, 3] uint8."""
        return self.preprocess.resize(part.to(self.device).permute(0, 3, 1, 2).float() / 255)

    def _randomized_frames(self, part: Tensor, name: str) -> Tensor:
        """Return resized frames, as many of each as crops are cached, one after another, that have passed robomimic's randomizers.

        These draw from the generators of torch and of Python, which here follow from `name` and are put back.
        """
        images = part.permute(0, 3, 1, 2).float().repeat_interleave(self.spec.cached_crops, dim=0) / 255
        before, seed = random.getstate(), zlib.crc32(f"{self.spec.crop_seed}/{name}".encode())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            for randomizer in self.randomizers:
                images = randomizer.forward_in(images)  # where they are, for that of noise in robomimic 0.3 is for the CPU only
        random.setstate(before)
        return self.preprocess.resize(images.to(self.device))
