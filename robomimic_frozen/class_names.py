"""Names of classes in a config, which robomimic evaluates as Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robomimic_frozen.errors import ConfigError


def check_class_names(config: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError if robomimic's own image cores would call `eval` with what names no class of theirs.

    Args:
        config: a robomimic config; what it lacks is passed over.
        where: begins the message.
    """
    import robomimic.models.obs_core as obs_core

    for modality, encoder in config.get("observation", {}).get("encoder", {}).items():
        for key in ("backbone_class", "pool_class"):
            name = encoder.get("core_kwargs", {}).get(key)
            if name is not None and not isinstance(getattr(obs_core, str(name), None), type):
                raise ConfigError(
                    f"{where}: observation.encoder.{modality}.core_kwargs.{key} is {name!r}, which robomimic would evaluate as Python "
                    "and is no class of its own; do not use what you do not know the author of"
                )
