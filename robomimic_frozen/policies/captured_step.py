"""A gradient step captured as a CUDA graph: one launch in the place of hundreds, which on a GPU is most of what a small policy costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import robomimic.utils.tensor_utils as TensorUtils
import torch
from torch import Tensor

from robomimic_frozen.errors import first_line

logger = logging.getLogger(__name__)

WARM_UP_STEPS: Final = 3
"""Steps before the capture, in which libraries set themselves up; PyTorch's notes on CUDA graphs ask for a few."""

Step = Callable[..., dict[str, Tensor]]
"""(batch, a nested dict of tensors; numbers [N]) -> what it reports. It works on the device, and never waits for it."""


class Graphs(Protocol):
    """How steps are captured."""

    def warm_up(self, step: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Take a step in the way that it will be captured."""

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Return what takes the step again, with what is then in the tensors that it has read. Raises RuntimeError where it cannot."""


class CudaGraphs:
    """Graphs of PyTorch (https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs) on the present CUDA device."""

    def warm_up(self, step: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Take a step on a stream of its own, as captures do."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = step()
        torch.cuda.current_stream().wait_stream(stream)
        return result

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Capture a step, without taking it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay


class CapturedStep:
    """Takes `step` as it is at first, then captures it, and replays it from there on.

    A replay reads and writes the tensors of the capture, so batches and numbers are copied to these, and results from them. A batch of
    another shape is given to `step` itself, and so are all, with the reason in the log, where the capture fails.
    """

    def __init__(self, step: Step, device: torch.device, graphs: Graphs) -> None:
        self._step, self._device, self._graphs = step, device, graphs
        self._taken = 0
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Tensor] = {}
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Mapping[str, Any], numbers: list[float]) -> dict[str, Tensor]:
        """Take one step on a batch; `numbers` are those of the host that change from step to step."""
        given = {"batch": batch, "numbers": torch.tensor(numbers, device=self._device)}
        self._taken += 1
        if self._taken <= WARM_UP_STEPS:
            return self._graphs.warm_up(lambda: self._step(**given))
        if self._taken == WARM_UP_STEPS + 1:
            self._capture(given)
        if self._replay is None:
            return self._step(**given)
        pairs = list(zip(_leaves(self._inputs), _leaves(given), strict=True))
        if any(to.shape != value.shape for to, value in pairs):
            return self._step(**given)
        for to, value in pairs:
            to.copy_(value)
        self._replay()
        return {name: value.clone() for name, value in self._outputs.items()}

    def _capture(self, given: dict[str, Any]) -> None:
        self._inputs = TensorUtils.clone(given)
        try:
            self._replay = self._graphs.capture(lambda: self._outputs.update(self._step(**self._inputs)))
        except RuntimeError as error:
            logger.warning("gradient steps are launched kernel by kernel, for they cannot be captured (%s)", first_line(error))


def _leaves(nested: Mapping[str, Any]) -> list[Tensor]:
    return [value for _, value in TensorUtils.flatten_nested_dict_list(nested)]
