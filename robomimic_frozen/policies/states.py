"""What robomimic's algorithms give when they are serialized, and the state of the networks in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def networks(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of the networks in what an algo's `serialize` gave, of hierarchical ones under PART.NAME.

    robomimic 0.5 keeps the state of the optimizers beside it.
    """
    if model and "nets" not in model and all(isinstance(part, Mapping) for part in model.values()):
        return {f"{part}.{name}": value for part in model for name, value in networks(model[part]).items()}
    return model.get("nets", model)


def with_networks(model: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return what an algo's `serialize` gave, with the state of its networks changed."""
    return {**model, "nets": change(model["nets"])} if "nets" in model else change(dict(model))
