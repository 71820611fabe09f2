"""robomimic's SequenceDataset, with any action keys, and with cached features in the place of images."""

from __future__ import annotations

import functools
import inspect
import logging
import mmap
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import robomimic.utils.tensor_utils as TensorUtils
import torch
from robomimic.utils.dataset import SequenceDataset
from torch.utils.data._utils.collate import default_collate_fn_map

from robomimic_frozen.features.int8 import Int8Features
from robomimic_frozen.features.rows import take_rows
from robomimic_frozen.utils import machine

logger = logging.getLogger(__name__)

_SHARE_OF_FREE_MEMORY: Final = 0.8
"""The dataset may take so much of a device's memory; the rest is for training."""


@dataclass(frozen=True)
class GatheredBatch:
    """A finished batch on its way through DataLoader's collate function."""

    tensors: dict[str, Any]


# DataLoader collates what __getitems__ returns; this entry hands a finished batch through.
default_collate_fn_map[GatheredBatch] = lambda batches, *, collate_fn_map=None: batches[0].tensors


class ActionKeysDataset(SequenceDataset):
    """Sequences whose 'actions' are arrays of a demo, concatenated as robomimic 0.5 does it, in the units of the file.

    Args:
        action_keys: names of the arrays.
        obs_frames: how many frames of each sequence the policy reads, from the first on; None for all. Others are not loaded.
    """

    hdf5_cache: Mapping[str, Any] | None

    def __init__(
        self, *args: Any, action_keys: Sequence[str], dataset_keys: Sequence[str], obs_frames: int | None, **kwargs: Any
    ) -> None:
        self.action_keys, self.obs_frames = tuple(action_keys), obs_frames
        self._is_stock = "action_keys" in inspect.signature(SequenceDataset.__init__).parameters
        if self._is_stock:
            kwargs |= {"action_keys": action_keys, "action_config": {key: {"normalization": None} for key in action_keys}}
        super().__init__(*args, dataset_keys=tuple(dict.fromkeys([*dataset_keys, *action_keys])), **kwargs)

    def get_dataset_for_ep(self, ep: str, key: str) -> Any:
        """Return an array of a demo, from memory where it is there; robomimic 0.3 knows no groups but those of observations."""
        if key in self.action_keys and self.hdf5_cache is not None:
            return self.hdf5_cache[ep][key]
        if key in self.action_keys:
            return self.hdf5_file[f"data/{ep}/{key}"]
        return super().get_dataset_for_ep(ep, key)

    def get_obs_sequence_from_demo(
        self, *args: Any, num_frames_to_stack: int = 0, seq_length: int = 1, **kwargs: Any
    ) -> dict[str, Any]:  # fmt: skip
        """Return observations of a sequence as robomimic does, but not those after the last one that the policy reads."""
        if self.obs_frames is not None:
            seq_length = min(seq_length, max(1, self.obs_frames - num_frames_to_stack))
        return super().get_obs_sequence_from_demo(*args, num_frames_to_stack=num_frames_to_stack, seq_length=seq_length, **kwargs)

    def get_item(self, index: int) -> dict[str, Any]:
        """Return a sequence as robomimic does."""
        item = super().get_item(index)
        if not self._is_stock:
            item["actions"] = np.concatenate([item[key].reshape(len(item[key]), -1) for key in self.action_keys], axis=-1)
        return item


class CachedFeatureDataset(ActionKeysDataset):
    """Sequences as SequenceDataset gives them, with features [.., F, 1, 1] under the image obs keys.

    A feature is shaped like an image of one pixel, because robomimic's networks count dimensions. Whole batches are
    gathered from contiguous arrays by index; which crops a batch has follows from the indices the sampler drew for it, so that
    it is the same in any process of a DataLoader. Once `encoder_is_frozen` says no, it serves what SequenceDataset would.

    Args:
        features: 'obs/<obs key>' or 'next_obs/<obs key>' -> features [frames of all demos, 1 + cached_crops, F] of the demos this
            dataset serves, in their order, as a cache has them.
        random_crops: serve a random one of the cached crops, as in training, instead of the central one.
        encoder_is_frozen: whether features are still what the policy would compute; asked for each batch.
        device: where all that is served is kept, and gathered, if it fits; None for the memory of this process, or the mapped file.
    """

    n_frame_stack: int
    seq_length: int

    def __init__(
        self,
        hdf5_path: str,
        obs_keys: Sequence[str],
        *args: Any,
        features: Mapping[str, np.ndarray | Int8Features],
        random_crops: bool,
        encoder_is_frozen: Callable[[], bool],
        device: torch.device | None = None,
        **kwargs: Any,
    ) -> None:
        self._make_pixel_dataset = functools.partial(ActionKeysDataset, hdf5_path, obs_keys, *args, **kwargs)
        self.features: Mapping[str, Any] = features
        self.encoder_is_frozen = encoder_is_frozen
        self.random_crops, self.device = random_crops, device
        self.image_keys = [key for key in obs_keys if f"obs/{key}" in features]
        other_keys = [key for key in obs_keys if key not in self.image_keys]
        super().__init__(hdf5_path, other_keys, *args, **{**kwargs, "hdf5_cache_mode": "low_dim"})
        self._frames_of_sequences()
        self._arrays: dict[str, Any] = {}

    def _frames_of_sequences(self) -> None:
        """Find for each sequence its first frame after stacking, and the first and last frame of its demo."""
        lengths = np.array([self._demo_id_to_demo_length[demo] for demo in self.demos])
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        counts = np.diff([*(self._demo_id_to_start_indices[demo] for demo in self.demos), self.total_num_sequences])
        offset = 0 if self.pad_frame_stack else self.n_frame_stack - 1
        within = np.arange(self.total_num_sequences) - np.repeat(np.cumsum(counts) - counts, counts)
        demo = np.repeat(np.arange(len(lengths)), counts)
        self._first, self._last = starts[demo], (starts + lengths - 1)[demo]
        self._base = self._first + within + offset
        ends = starts + lengths - (0 if self.pad_seq_length else self.seq_length - 1)
        self._goal = (ends - 1)[demo]

    def __getitems__(self, indices: Sequence[int]) -> list[GatheredBatch] | list[dict[str, Any]]:
        if self.encoder_is_frozen():
            return [GatheredBatch(self.gather(np.asarray(indices)))]
        return [self._pixel_dataset[index] for index in indices]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.encoder_is_frozen():
            return TensorUtils.map_tensor(self.gather(np.array([index])), lambda value: value[0])
        return self._pixel_dataset[index]

    @functools.cached_property
    def _pixel_dataset(self) -> SequenceDataset:
        return self._make_pixel_dataset()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a data worker that is spawned is sent: all but the file, and of mapped features the place."""
        if not self.encoder_is_frozen():
            _ = self._pixel_dataset  # made here, for the worker does not know which observations are images
        openers = {key: _opener(array) for key, array in self.features.items()}
        return {**self.__dict__, "_hdf5_file": None, "features": openers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, features={key: opened() for key, opened in state["features"].items()})

    def gather(self, indices: np.ndarray) -> dict[str, Any]:
        """Return the sequences of these numbers, each entry [B, T, ...]; goals [B, ...]."""
        if not self._arrays:
            self._arrays = self._whole_demos()
            self._keep_on_device()
        offsets = np.arange(1 - self.n_frame_stack, self.seq_length)
        # Beyond the ends of a demo its first and last frames are repeated, as stock padding does.
        frames = np.clip(self._base[indices, None] + offsets, self._first[indices, None], self._last[indices, None])
        crops = torch.Generator().manual_seed(zlib.crc32(np.ascontiguousarray(indices).data))
        batch: dict[str, Any] = {key: _take(array, frames) for key, array in self._arrays["sequences"].items()}
        for group in ("obs", "next_obs") if self.load_next_obs else ("obs",):
            batch[group] = self._gather_observations(group, frames[:, : self.obs_frames], crops)
        if self.goal_mode is not None:
            goals = self._gather_observations("next_obs", self._goal[indices, None], crops)
            batch["goal_obs"] = {key: value[:, 0] for key, value in goals.items()}
        batch["index"] = torch.from_numpy(indices)
        return batch

    def _keep_on_device(self) -> None:
        """Move all that is served to the device, where it has room for it."""
        if self.device is None:
            return
        arrays = [*self.features.values(), *(array for group in self._arrays.values() for array in group.values())]
        size, free = sum(array.nbytes for array in arrays), machine.free_memory(self.device)
        if any(isinstance(array, Int8Features) for array in arrays) or size > _SHARE_OF_FREE_MEMORY * free:
            logger.info(
                "batches are sent to %s one by one: what is int8, or takes more than %d %% of its free %.1f GB, is not kept there, and the "
                "dataset takes %.1f GB", self.device, 100 * _SHARE_OF_FREE_MEMORY, free / 1e9, size / 1e9,
            )  # fmt: skip
            return
        logger.info("the dataset is kept on %s: %.1f of its free %.1f GB", self.device, size / 1e9, free / 1e9)
        self.features = {key: _on(self.device, array) for key, array in self.features.items()}
        self._arrays = {group: {key: _on(self.device, array) for key, array in found.items()} for group, found in self._arrays.items()}

    def _gather_observations(self, group: str, frames: np.ndarray, crops: torch.Generator) -> dict[str, torch.Tensor]:
        images = {key: self._gather_features(self.features[f"{group}/{key}"], frames, crops) for key in self.image_keys}
        return {key: _take(array, frames) for key, array in self._arrays[group].items()} | images

    def _gather_features(self, features: np.ndarray | Int8Features, frames: np.ndarray, crops: torch.Generator) -> torch.Tensor:
        variants = features.shape[1]
        chosen = np.zeros_like(frames)
        if self.random_crops and variants > 1:
            chosen = torch.randint(1, variants, frames.shape, generator=crops).numpy()
        if isinstance(features, Int8Features):
            return torch.from_numpy(features.take(frames, chosen))[..., None, None]
        return _take(features.reshape(-1, features.shape[2]), frames * variants + chosen)[..., None, None]

    def _whole_demos(self) -> dict[str, Any]:
        """Return everything but images, as one array [frames of all demos, ...] for each key.

        Each demo is read as one long sequence through stock `get_item`, so that whatever a robomimic version does to an
        item (action normalization, say) is done by its own code.
        """
        stacked, length, read = self.n_frame_stack, self.seq_length, self.obs_frames
        self.n_frame_stack, self.obs_frames = 1, None
        try:
            items = []
            for demo in self.demos:
                self.seq_length = self._demo_id_to_demo_length[demo]
                items.append(self.get_item(self._demo_id_to_start_indices[demo]))
        finally:
            self.n_frame_stack, self.seq_length, self.obs_frames = stacked, length, read
        self.close_and_delete_hdf5_handle()
        arrays: dict[str, Any] = {"sequences": {}}
        for name, value in items[0].items():
            if name in ("obs", "next_obs"):
                arrays[name] = {key: np.concatenate([item[name][key] for item in items]) for key in value}
            elif name not in ("goal_obs", "index"):
                arrays["sequences"][name] = np.concatenate([item[name] for item in items])
        return arrays


def gathering_batches(meta_dataset: type) -> type:
    """Make of robomimic 0.5's MetaDataset, which mixes several datasets, one that gathers whole batches from cached ones."""

    def getitems(self: Any, indices: Sequence[int]) -> list[GatheredBatch] | list[dict[str, Any]]:
        if not all(dataset.encoder_is_frozen() for dataset in self.datasets):
            return [self[index] for index in indices]
        numbers = np.asarray(indices)
        owners = np.digitize(numbers, self._ds_ind_bins) - 1
        parts = []
        for owner in np.unique(owners):  # the order within a batch means nothing
            own = numbers[owners == owner]
            part = self.datasets[owner].gather(own - self._ds_ind_bins[owner])
            parts.append({**part, "index": torch.from_numpy(own)})
        return [GatheredBatch(_concatenated(parts))]

    def reduce(self: Any) -> tuple[Any, ...]:  # for pickle, which would look for the class by its name
        return _empty, (meta_dataset,), self.__dict__

    return type(meta_dataset.__name__, (meta_dataset,), {"__getitems__": getitems, "__reduce__": reduce})


def _empty(meta_dataset: type) -> Any:
    gathering: Any = gathering_batches(meta_dataset)
    return gathering.__new__(gathering)


def _concatenated(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def one(values: list[Any]) -> Any:
        return _concatenated(values) if isinstance(values[0], Mapping) else torch.cat(values)

    return {key: one([batch[key] for batch in batches]) for key in batches[0]}


def _opener(features: np.ndarray | Int8Features) -> Callable[[], np.ndarray | Int8Features]:
    """Return what gives features again after it has been pickled; that has no copy of what is mapped from a file."""
    if isinstance(features, Int8Features):
        return functools.partial(_opened_int8, _array_opener(features.rows), features.frames, features.shape[1])
    return _array_opener(features)


def _array_opener(array: np.ndarray) -> Callable[[], np.ndarray]:
    if not isinstance(array, np.memmap) or not isinstance(array.base, mmap.mmap):  # a part of what is mapped does not know which part
        return functools.partial(np.asarray, array)
    return functools.partial(np.memmap, array.filename, array.dtype, "r", array.offset, array.shape)


def _opened_int8(opened: Callable[[], np.ndarray], frames: Sequence[int], variants: int) -> Int8Features:
    return Int8Features(opened(), frames, variants)


def _on(device: torch.device, array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array)).to(device)


def _take(array: np.ndarray | torch.Tensor, rows: np.ndarray) -> torch.Tensor:
    """Return rows of an array as a tensor, on the device where the array is."""
    if isinstance(array, torch.Tensor):
        return array[torch.from_numpy(rows).to(array.device)]
    return torch.from_numpy(take_rows(array, rows))
