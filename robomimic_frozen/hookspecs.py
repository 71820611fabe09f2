"""The hooks: what a plugin may provide. The built-in parts come in through the same ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from robomimic_frozen.data.sources import DatasetSource
    from robomimic_frozen.encoders.backbones import Backbone, BackboneFamily
    from robomimic_frozen.encoders.readouts import Readout
    from robomimic_frozen.policies.networks import VelocityNetwork
    from robomimic_frozen.simulation.tasks import Task

GROUP: Final = "robomimic_frozen"  # the entry-point group by which an installed package is found
hookspec: Final = pluggy.HookspecMarker(GROUP)
hookimpl: Final = pluggy.HookimplMarker(GROUP)


@hookspec
def frozen_backbones() -> Iterable[Backbone | BackboneFamily]:  # type: ignore[empty-body]
    """Return the image networks that `core_kwargs.rgb_model_name` can then name."""


@hookspec
def readouts() -> Iterable[Readout]:  # type: ignore[empty-body]
    """Return the ways from a map to a feature vector that `core_kwargs.pool` can then name."""


@hookspec
def velocity_networks() -> Iterable[VelocityNetwork]:  # type: ignore[empty-body]
    """Return the networks that `algo.network` of `fbc_frozen` can then name."""


@hookspec
def robomimic_components() -> None:
    """Import the modules that define robomimic algorithms, configs and encoder cores: defining one registers it with robomimic."""


@hookspec
def tasks() -> Iterable[Task]:  # type: ignore[empty-body]
    """Return the tasks that `robomimic-frozen demos --task` can then show."""


@hookspec
def dataset_sources() -> Iterable[DatasetSource]:  # type: ignore[empty-body]
    """Return the raw demonstrations that `robomimic-frozen data` can then fetch by name."""
