"""Checkpoints that hold each frozen network once, or only its name."""

from __future__ import annotations

from typing import Any

from robomimic_frozen.checkpoints import with_networks
from robomimic_frozen.encoders.frozen_weights import check_references, compact, expanded
from robomimic_frozen.encoders.weights import is_restoring_checkpoint
from robomimic_frozen.errors import ConfigError


class LeanCheckpoints:
    """Mixin for robomimic algos with `algo.checkpoint.frozen_weights`: 'include' or 'reference'.

    Raises:
        ConfigError: it is neither.
        WeightsError: it is 'reference', and the frozen weights are not those of the file it would refer to.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._epoch = 0
        super().__init__(*args, **kwargs)
        setting = self.algo_config.checkpoint.frozen_weights  # type: ignore[attr-defined]
        if setting not in ("include", "reference"):
            raise ConfigError(f"algo.checkpoint.frozen_weights is {setting!r}; choose 'include' or 'reference'")
        if setting == "reference" and not is_restoring_checkpoint():
            check_references(self.nets)  # type: ignore[attr-defined]

    def on_epoch_end(self, epoch: int) -> None:
        """Remember the epoch, for the checkpoint to tell."""
        super().on_epoch_end(epoch)  # type: ignore[misc]
        self._epoch = epoch

    def serialize(self) -> dict[str, Any]:
        """What robomimic saves under 'model': as its own algos, with the frozen weights as `compact` has them."""
        include = self.algo_config.checkpoint.frozen_weights == "include"  # type: ignore[attr-defined]

        def lean(nets: dict[str, Any]) -> dict[str, Any]:
            return {**compact(self.nets, nets, include), "epoch": self._epoch}  # type: ignore[attr-defined]

        return with_networks(super().serialize(), lean)  # type: ignore[misc]

    def deserialize(self, model_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Load what `serialize` gave. Raises WeightsError, before anything is loaded."""
        super().deserialize(with_networks(model_dict, self._loadable), *args, **kwargs)  # type: ignore[misc]

    def _loadable(self, nets: dict[str, Any]) -> dict[str, Any]:
        """What `load_state_dict` takes, of the networks' state in a checkpoint."""
        state = expanded(self.nets, nets)  # type: ignore[attr-defined]
        state.pop("epoch", None)
        return state
