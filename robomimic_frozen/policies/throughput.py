"""How fast training is, as a scalar for TensorBoard."""

from __future__ import annotations

import time
from typing import Any


class Throughput:
    """Mixin for robomimic algos: logs gradient steps per second of the present epoch, data loading included."""

    _first_step: float | None = None
    _steps_since_first = 0

    def log_info(self, info: dict[str, Any]) -> dict[str, float]:
        log = super().log_info(info)  # type: ignore[misc]
        if not self.nets.training:  # type: ignore[attr-defined]
            return log
        now = time.perf_counter()
        if self._first_step is None:
            self._first_step = now
        else:
            self._steps_since_first += 1
            log["Steps_Per_Second"] = self._steps_since_first / (now - self._first_step)
        return log

    def on_epoch_end(self, epoch: int) -> None:
        super().on_epoch_end(epoch)  # type: ignore[misc]
        self._first_step, self._steps_since_first = None, 0
