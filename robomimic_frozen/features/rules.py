"""What training needs of a demo, told by attributes, shapes and dtypes: no array is read, so that a file of many demos takes seconds."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import h5py
import numpy as np

from robomimic_frozen.errors import DatasetError, MalformedError, did_you_mean
from robomimic_frozen.utils import hdf5

STORE_UINT8: Final = "store images as uint8 [T, H, W, 3] of 0 to 255; robomimic itself divides by 255"
_CONVERT_AGAIN: Final = "download or convert the file again, or leave these demos out with a filter key"
_CONVERT_ALIKE: Final = "convert all demos in the same way, or keep them in separate files or filter keys"
_WITHOUT: Final = {
    "obs": "set observation.modalities.obs, or render the images with robomimic-frozen data",
    "next_obs": "set train.hdf5_load_next_obs to false and train.goal_mode to null, or convert the file with next_obs",
}


class Fault(NamedTuple):
    """What is the matter with something in a dataset, what to do about it, and the numbers of this one case."""

    what: str
    remedy: str
    detail: str = ""

    def error(self, path: str, where: str) -> MalformedError:
        """Return the error that says so."""
        return MalformedError(path, where, f"{self.what} ({self.detail})" if self.detail else self.what, self.remedy)


def order_of(demos: Sequence[str]) -> list[int]:
    """Return the places of demos in the order that robomimic's SequenceDataset has. Raises ValueError for a name that it cannot sort."""
    return [int(place) for place in np.argsort([int(name[5:]) for name in demos])]


def name_faults(demos: Iterable[str]) -> Iterator[tuple[str, Fault]]:
    """Yield the demos whose names robomimic cannot sort."""
    for name in demos:
        try:
            order_of([name])
        except ValueError:
            remedy = "rename to demo_0, demo_1 and so on, for robomimic sorts demos by that number, or leave it out with a filter key"
            yield name, Fault("is not called demo_N", remedy)


def filter_key_faults(chosen: Sequence[str], demos: Sequence[str]) -> Iterator[Fault]:
    """Yield what is wrong with the names that a filter key lists, in a file that has these demos."""
    remedy = "write it again, with robomimic's split_train_val.py say"
    if not chosen:
        yield Fault("names no demos", remedy)
    known = set(demos)
    if missing := [name for name in chosen if name not in known]:
        yield Fault(f"names {missing[0]!r}, which the file does not have", remedy, f"{len(missing)} of {len(chosen)} names")
    if twice := len(chosen) - len(set(chosen)):
        yield Fault("names demos twice", remedy, f"{twice} of {len(chosen)} names")


def num_samples(demo: h5py.Group) -> int:
    """Return the length of a demo, which is what robomimic goes by; arrays may be longer. Raises MalformedError if it is none."""
    length = as_length(hdf5.attribute(demo, "num_samples"))
    if isinstance(length, Fault):
        raise length.error(demo.file.filename, str(demo.name).lstrip("/"))
    return length


def as_length(value: object) -> int | Fault:
    """Return what the attribute `num_samples` of a demo says, or what is wrong with it; it is None where there is none."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        what = "has no attribute num_samples" if value is None else "has a num_samples that is no whole number"
        remedy = "set it to the number of steps, as robomimic's scripts/conversion do"
        return Fault(what, remedy, "" if value is None else repr(value))


def steps_fault(steps: int) -> Fault | None:
    """Return what is wrong with the length of a demo."""
    return Fault("has no steps", "leave it out with a filter key", f"num_samples is {steps}") if steps < 1 else None


def numbers_fault(dtype: np.dtype, shape: Sequence[int]) -> Fault | None:
    """Return what is wrong with the layout of numbers of every step."""
    if dtype.kind in "biuf" and shape:
        return None
    return Fault("is no sequence of numbers", "store [T, ...] numbers", f"{dtype} {list(shape)}")


def length_fault(length: int, steps: int) -> Fault | None:
    """Return what is wrong with the length of an array in a demo of so many steps. What is longer is cut off, as robomimic does."""
    if length >= steps:
        return None
    what = "is shorter than num_samples says: the demo is truncated"
    return Fault(what, _CONVERT_AGAIN, f"{length} steps, num_samples is {steps}")


def actions_fault(shape: Sequence[int]) -> Fault | None:
    """Return what is wrong with the shape of actions."""
    return None if len(shape) == 2 else Fault("are not [T, action dim]", "store one vector for each step", str(list(shape)))


def image_fault(dtype: np.dtype | str, shape: Sequence[int]) -> Fault | None:
    """Return what is wrong with the layout of images."""
    layout = f"[T, {', '.join(map(str, shape[1:]))}]"
    if len(shape) != 4 or shape[-1] != 3:
        what = "has channels first" if len(shape) == 4 and shape[1] == 3 else "is no sequence of RGB images"
        return Fault(what, STORE_UINT8, f"{dtype} {layout}")
    return None if str(dtype) == "uint8" else Fault(f"is {dtype}, not uint8", STORE_UINT8, layout)


def shape_fault(shape: Sequence[int], usual: Sequence[int], of: str) -> Fault | None:
    """Return what is wrong where one step of a demo has another shape than `usual`, which it has in the demos `of`."""
    return None if shape == usual else Fault(f"is {list(shape)} at each step, and {list(usual)} in {of}", _CONVERT_ALIKE)


@dataclass(frozen=True)
class Needs:
    """What training needs of each demo.

    Attributes:
        observations: 'obs/agentview_image', 'next_obs/robot0_eef_pos'.
        images: those of them that are RGB images.
        actions: the arrays that a policy predicts.
        others: what is read of a demo where it has it; robomimic puts zeros in the place of the rest.
        steps: the length that a demo must have.
    """

    observations: Sequence[str]
    images: frozenset[str] = frozenset()
    actions: Sequence[str] = ("actions",)
    others: Sequence[str] = ()
    steps: int = 1


@dataclass(frozen=True)
class ChosenDemos:
    """The demos that training reads: their lengths, and the shapes that one step of each array has in all of them."""

    steps: dict[str, int] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def check_demos(data: h5py.Group, demos: Iterable[str], needs: Needs) -> ChosenDemos:
    """Look at these demos of the group 'data'. Raises DatasetError, which names the demo, for the first that training could not use."""
    chosen = ChosenDemos()
    for name in demos:
        demo = hdf5.group_in(data, name)
        steps = chosen.steps[name] = num_samples(demo)
        fault = steps_fault(steps)
        if fault is None and steps < needs.steps:
            remedy = "set train.pad_seq_length and train.pad_frame_stack to true, or leave it out with a filter key"
            fault = Fault(f"has {steps} steps, and training takes sequences of {needs.steps}", remedy)
        if fault is not None:
            raise fault.error(data.file.filename, f"data/{name}")
        for key, array in _arrays(demo, needs):
            shape = array.shape
            fault = _layout_fault(key, array.dtype, shape, needs) or length_fault(shape[0], steps)
            fault = fault or shape_fault(shape[1:], chosen.shapes.setdefault(key, shape[1:]), next(iter(chosen.steps)))
            if fault is not None:
                raise fault.error(data.file.filename, f"data/{name}/{key}")
    return chosen


def _arrays(demo: h5py.Group, needs: Needs) -> Iterator[tuple[str, h5py.Dataset]]:
    for key in needs.actions:
        yield key, hdf5.array_in(demo, key)
    for key in needs.observations:
        yield key, _observation(demo, key)
    present = hdf5.members(demo) if needs.others else ()
    for key in needs.others:
        if key.partition("/")[0] in present:
            yield key, hdf5.array_in(demo, key)


def _observation(demo: h5py.Group, key: str) -> h5py.Dataset:
    try:
        return hdf5.array_in(demo, key)
    except MalformedError:
        group, _, name = key.partition("/")
        observations = hdf5.find_group(demo, group)
        present = [] if observations is None else hdf5.members(observations)
        if name in present:
            raise
        hint = did_you_mean(name, present, f"it has: {', '.join(present) or 'none'}")
        raise DatasetError(
            f"dataset {demo.file.filename} has no {group} key {name!r} in {str(demo.name).rpartition('/')[2]}; {hint} ({_WITHOUT[group]})"
        ) from None


def _layout_fault(key: str, dtype: np.dtype, shape: Sequence[int], needs: Needs) -> Fault | None:
    if key in needs.images:
        return image_fault(dtype, shape)
    return numbers_fault(dtype, shape) or (actions_fault(shape) if key in needs.actions else None)
