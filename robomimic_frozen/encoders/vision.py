"""The network that turns images into features: a backbone with its weights, frozen up to a stage, and a readout."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from robomimic_frozen.encoders import weights
from robomimic_frozen.encoders.augmentation import random_shifts, shifted, with_dropped_positions, with_noise
from robomimic_frozen.encoders.backbones import Backbone
from robomimic_frozen.encoders.folding import folded
from robomimic_frozen.encoders.readouts import MAP, Reading, as_map, as_vector
from robomimic_frozen.errors import ConfigError

if TYPE_CHECKING:
    from robomimic_frozen.encoders.spec import EncoderSpec

logger = logging.getLogger(__name__)

RANDOM: Final = "random"

# Frozen stages in use, by (backbone, stage, digest of the weights, device, dtype): equal ones are held once.
_frozen_stages: weakref.WeakValueDictionary[tuple, nn.Module] = weakref.WeakValueDictionary()


class VisionBackbone(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> features [B, feature_dim].

    Frozen means: no parameter requires a gradient, the stage stays in eval mode (BatchNorm statistics never move)
    whatever `train()` says, and it runs in inference mode. A frozen network without pretrained weights is the same random
    one each time, so that features of it can be cached. Equal frozen stages share their memory; a shared stage is never
    written to, so loading other weights or moving to another device leaves the other holders alone.

    `forward` is `finish(frozen_part(images))`: what the frozen stages give is what can be cached. Of a stage that a readout with weights
    reads, or whose map is shifted, that is the map; of others the vectors of their readouts. In a state dict the frozen stages are one
    extra state, which `weights` describes. Raises ConfigError, WeightsUnavailableError, WeightsError.

    Attributes:
        feature_dim: length of one feature vector.
        frozen_dim: length of what `frozen_part` gives for one image.
        kept: the readouts whose vectors the stages hand over; MAP for a whole map.
        frames: how many images in succession are of one sample, and are shifted alike.
        origin: path of the weights file, the backbone's name where it brings its weights along, 'random', or 'checkpoint'
            where a checkpoint is about to give them.
        include_weights: whether a state dict holds the frozen weights, and not only their sha256.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: EncoderSpec) -> None:
        super().__init__()
        self.spec, backbone = spec, spec.backbone
        self.include_weights = True
        self._sha256: str | None = None
        self._record: Tensor | None = None
        self.frames = 1
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1), persistent=False)
        network = _always_the_same(backbone) if spec.freeze_encoder and not spec.pretrained_encoder else backbone.build()
        self.origin = _load(network, spec)
        self.readings: Sequence[Reading] = spec.pool  # type: ignore[assignment]  # these are tuples, once the spec is made
        self.feature_stages: Sequence[str] = spec.feature_stage  # type: ignore[assignment]
        # What comes after the last stage that is read is not kept.
        names = backbone.stages[: backbone.stages.index(self.feature_stages[-1]) + 1]
        self.stages = nn.ModuleDict(dict(zip(names, backbone.split(network), strict=False)))
        last_frozen = spec.freeze_encoder if isinstance(spec.freeze_encoder, str) else names[-1]
        self.num_frozen = min(backbone.stages.index(last_frozen) + 1, len(names)) if spec.freeze_encoder else 0
        for name in self.frozen_stages:
            self.stages[name] = _shared(backbone.name, name, self.stages[name].requires_grad_(False).eval())
        self.register_state_dict_post_hook(_leave_out_frozen_stages)
        image_size = spec.preprocessing().output_size
        self._patches = [math.ceil(side / backbone.patch_size) for side in image_size]  # of a transformer, in rows and columns
        self._make_readouts(image_size)

    @torch.no_grad()
    def _make_readouts(self, image_size: tuple[int, int]) -> None:
        """Pass one black image, to learn the shapes of maps, and the sizes of what is cached and of the feature."""
        modes = {module: module.training for module in self.stages.values()}
        self.stages.eval()
        frozen, boundary = self._maps(self.frozen_stages, torch.zeros(1, 3, *image_size))
        trainable, _ = self._maps(self._trainable_stages, boundary)
        maps = {**frozen, **trainable}
        shapes = {stage: (each.shape[1], each.shape[2], each.shape[3]) for stage, each in maps.items()}
        self.readouts = nn.ModuleList(reading.build(shapes[reading.stage]) for reading in self.readings)
        trained = {stage for stage in maps if any(list(readout.parameters()) for readout in self._readouts_of(stage))}
        with_positions = {stage for stage, (_, height, width) in shapes.items() if height * width > 1}
        for stage in shapes if self.spec.augments_maps and not with_positions else trained - with_positions:
            what = f"stage {stage!r} of {self.spec.backbone.name} gives no map, which pool or augment needs"
            raise ConfigError(f"{what}; name an earlier one in feature_stage")
        self._map_shapes = {stage: shapes[stage] for stage in maps if stage in (with_positions if self.spec.augments_maps else trained)}
        self.kept: list[Reading] = []
        for stage in maps:
            of_stage = [reading for reading in self.readings if reading.stage == stage]
            self.kept += [Reading(stage, MAP)] if stage in self._map_shapes else of_stage
        vectors = self._vectors(maps)
        self._kept_dims = [vector.shape[1] for vector in vectors]
        self._boundary_shape = boundary.shape[1:]
        self._frozen_kept_dim = sum(dim for reading, dim in zip(self.kept, self._kept_dims, strict=True) if reading.stage in frozen)
        self.frozen_dim = self._frozen_kept_dim + (0 if self.is_frozen else boundary.numel())
        self.feature_dim = self._read(torch.cat(vectors, dim=1), None).shape[1]
        for module, mode in modes.items():
            module.train(mode)

    @property
    def frozen_stages(self) -> list[str]:
        """Return the names of the frozen stages: the first ones."""
        return list(self.stages)[: self.num_frozen]

    @property
    def _trainable_stages(self) -> list[str]:
        return list(self.stages)[self.num_frozen :]

    @property
    def is_frozen(self) -> bool:
        """Return whether all stages are frozen."""
        return self.num_frozen == len(self.stages)

    def forward(self, images: Tensor) -> Tensor:
        if self.num_frozen == 0:
            maps, _ = self._maps(self._trainable_stages, self._normalized(images))
            return self._read(torch.cat(self._vectors(maps), dim=1), self._shifts(images))
        return self.finish(self.frozen_part(images))

    def frozen_part(self, images: Tensor) -> Tensor:
        """Return what the frozen stages make of images: vectors of their maps, or these, then the map the next stage needs, flat."""
        with torch.inference_mode():
            maps, activation = self._maps(self.frozen_stages, self._normalized(images), folded)
            parts = self._vectors(maps)
            if not self.is_frozen:
                parts.append(activation.flatten(1))
            result = torch.cat(parts, dim=1)
        # Autograd refuses to save an inference tensor for the backward pass of the layer above; a copy is ordinary.
        return result.clone()

    def finish(self, frozen: Tensor) -> Tensor:
        """Turn what `frozen_part` gave, or a cache kept of it [B, frozen_dim], of any dtype, into features [B, feature_dim] of float32."""
        if self.is_frozen:
            return self._read(frozen, self._shifts(frozen))
        kept, activation = frozen.float().tensor_split([self._frozen_kept_dim], dim=1)
        maps, _ = self._maps(self._trainable_stages, activation.unflatten(1, self._boundary_shape))
        return self._read(torch.cat([kept, *self._vectors(maps)], dim=1), self._shifts(frozen))

    def frozen_state(self) -> dict[str, Tensor]:
        """Return 'stage.name' -> weight or buffer, of the frozen stages."""
        return {f"{stage}.{name}": value for stage in self.frozen_stages for name, value in self.stages[stage].state_dict().items()}

    def frozen_sha256(self) -> str:
        """Return the sha256 of `frozen_state`."""
        if self._sha256 is None:
            self._sha256 = weights.digest(self.frozen_state())
        return self._sha256

    def as_configured(self) -> dict[str, Tensor]:
        """Return 'stage.name' -> weight or buffer, of all stages, as the constructor loads them. Raises as it does."""
        with weights.restoring_checkpoint(False):
            return VisionBackbone(dataclasses.replace(self.spec, freeze_encoder=True)).frozen_state()

    def refer_to_weights(self) -> None:
        """Leave the frozen weights out of state dicts. Raises WeightsError unless they can be had again from where they came from."""
        if self.frozen_stages and not weights.is_restoring_checkpoint():
            weights.weights_in(weights.read_record(weights.record_of(self, include=False)), self)
        self.include_weights = False

    def unfreeze(self) -> None:
        """Make every stage trainable. The optimizer has to be told."""
        for name in self.frozen_stages:
            self.stages[name] = copy.deepcopy(self.stages[name]).requires_grad_(True).train(self.training)
        self.num_frozen = 0

    def as_plain_network(self) -> None:
        """Run the frozen stages, in the form in which they run, as any other module: not in torch's inference mode, shared with nobody."""
        for name in self.frozen_stages:
            self.stages[name] = copy.deepcopy(folded(self.stages[name]))
        self.num_frozen = 0

    def _normalized(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std if self.spec.imagenet_norm else images

    def _maps(
        self, names: Sequence[str], x: Tensor, form: Callable[[nn.Module], nn.Module] = lambda stage: stage
    ) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
        """Return (the maps of those stages that are read, the last map), of stages in the form that they are given."""
        maps = {}
        for name in names:
            x = form(self.stages[name])(x)
            if name in self.feature_stages:
                maps[name] = self._as_map(x)
        return maps, x

    def _as_map(self, activation: Tensor) -> Tensor:
        if activation.ndim == 2:  # of a network that pools by itself, or a class token
            return activation[:, :, None, None]
        if activation.ndim == 3:
            return activation[:, -math.prod(self._patches) :].transpose(1, 2).unflatten(2, self._patches)
        return activation

    def _readouts_of(self, stage: str) -> list[nn.Module]:
        return [readout for reading, readout in zip(self.readings, self.readouts, strict=True) if reading.stage == stage]

    def _vectors(self, maps: Mapping[str, Tensor]) -> list[Tensor]:
        """Return what is kept of maps."""
        vectors = []
        for stage, each in maps.items():
            vectors += [as_vector(each)] if stage in self._map_shapes else [readout(each) for readout in self._readouts_of(stage)]
        return vectors

    def _read(self, kept: Tensor, shifts: Tensor | None) -> Tensor:
        """Turn what is kept of all stages [B, sum of its lengths] into features, by the readouts that have yet to be applied."""
        if not self._map_shapes:
            return kept.float()
        features = []
        for reading, vector in zip(self.kept, kept.split(self._kept_dims, dim=1), strict=True):
            if reading.stage not in self._map_shapes:
                features.append(vector.float())
                continue
            maps = self._augmented(as_map(vector, self._map_shapes[reading.stage]), shifts)
            features += [readout(maps) for readout in self._readouts_of(reading.stage)]
        return torch.cat(features, dim=1)

    def _augmented(self, maps: Tensor, shifts: Tensor | None) -> Tensor:
        maps = (maps if shifts is None else shifted(maps, shifts)).float()
        if self.training and self.spec.map_noise:
            maps = with_noise(maps, self.spec.map_noise)
        return with_dropped_positions(maps, self.spec.map_drop) if self.training and self.spec.map_drop else maps

    def _shifts(self, batch: Tensor) -> Tensor | None:
        """Draw how far the maps of each image or vector of a batch are moved; None for not at all."""
        if self.spec.augment != "shift" or not self.training:
            return None
        height, width = self.spec.image_shape[1:]
        shifts = random_shifts(len(batch) // self.frames, self.spec.max_shift, (height, width), batch.device)
        return shifts.repeat_interleave(self.frames, dim=0)

    def train(self, mode: bool = True) -> VisionBackbone:
        super().train(mode)
        for name in self.frozen_stages:
            self.stages[name].eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> VisionBackbone:
        frozen = {name: self.stages[name] for name in self.frozen_stages}
        self._sha256 = None
        for name, stage in frozen.items():
            # nn.Module would move the shared stage under its other holders.
            frozen[name] = _shared(self.spec.backbone.name, name, copy.deepcopy(stage)._apply(fn, recurse))
            self.stages[name] = nn.Identity()
        super()._apply(fn, recurse)
        self.stages.update(frozen)
        return self

    def get_extra_state(self) -> Tensor:
        self._record = weights.record_of(self, self.include_weights)  # which keeps it for the next time
        return self._record

    def set_extra_state(self, state: Tensor) -> None:
        """Do nothing: `_load_from_state_dict` has loaded what it holds, before torch would load the stages."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Give each frozen stage a module that holds the coming weights, so that the shared one is not overwritten."""
        # Stock algorithms of 0.1.0 wrote the stages themselves, and no extra state.
        record = weights.read_record(state_dict.setdefault(f"{prefix}{weights.EXTRA_STATE}", torch.empty(0, dtype=torch.uint8)))
        if record:
            state_dict |= {f"{prefix}stages.{name}": value for name, value in weights.weights_in(record, self).items()}
        self._sha256 = None
        for name in self.frozen_stages:
            start = f"{prefix}stages.{name}."
            incoming = {key.removeprefix(start): value for key, value in state_dict.items() if key.startswith(start)}
            if incoming:
                stage = copy.deepcopy(self.stages[name])
                stage.load_state_dict(incoming, strict=False)
                self.stages[name] = _shared(self.spec.backbone.name, name, stage)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.parameters())
        state = {0: "trainable", len(self.stages): "frozen"}.get(self.num_frozen) or f"frozen up to {self.frozen_stages[-1]}"
        return (
            f"VisionBackbone({self.spec.backbone.name}, weights={self.origin}, {state}, {size:,} parameters, "
            f"{' + '.join(f'{reading.readout} of {reading.stage}' for reading in self.readings)})"
        )


def _load(network: nn.Module, spec: EncoderSpec) -> str:
    """Load the weights that a spec asks for, and return where they came from."""
    if weights.is_restoring_checkpoint():
        return "checkpoint"
    if not spec.pretrained_encoder:
        logger.warning("%s starts from random weights, not from ImageNet ones", spec.backbone.name)
        return RANDOM
    if spec.weights is not None:
        path = Path(spec.weights).expanduser()
    elif spec.backbone.fetch_weights is not None:
        path = spec.backbone.fetch_weights()
    else:
        return spec.backbone.name
    weights.load_weights(network, spec.backbone, path)
    return str(path.absolute())


def _leave_out_frozen_stages(vision: VisionBackbone, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    frozen = tuple(f"{prefix}stages.{name}." for name in vision.frozen_stages)
    for name in [name for name in state_dict if name.startswith(frozen)]:
        del state_dict[name]


def _always_the_same(backbone: Backbone) -> nn.Module:
    """Return a random network that policy, feature cache and later runs agree on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return backbone.build()


def _shared(backbone: str, name: str, stage: nn.Module) -> nn.Module:
    """Return an equal stage that is already in use, else `stage` itself."""
    first = next(stage.parameters(), torch.empty(0))
    key = (backbone, name, weights.digest(stage.state_dict()), first.device, first.dtype)
    return _frozen_stages.setdefault(key, stage)
