"""A policy as one graph for other runtimes: raw observations and noise in, a chunk of actions out."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import robomimic.utils.obs_utils as ObsUtils
import torch
from torch import Tensor, nn

from robomimic_frozen import __version__
from robomimic_frozen.deployment.loading import load_policy
from robomimic_frozen.deployment.policy import Policy
from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.errors import ConfigError, RobomimicFrozenError, first_line
from robomimic_frozen.integration.versions import as_environments_give
from robomimic_frozen.policies.fbc import FBC

FORMATS: Final[Mapping[str, str]] = {"onnx": ".onnx", "torch": ".pt2"}
"""Name of a format -> suffix of its files."""
TOLERANCE: Final = 1e-4
"""Largest difference between actions of the graph and of the policy, in the units of the dataset."""
_NOISE, _ACTIONS = "noise", "actions"
_EXAMPLES: Final = 2


class ExportError(RobomimicFrozenError):
    """The exported graph does something else than the policy."""


class PolicyGraph(nn.Module):
    """Raw observations and noise [B, horizon, A] -> actions [B, horizon, A] in the units of the dataset, as they are stored there.

    Observations are as `load_policy` takes them, [B, ...], or [B, obs_steps, ...] where `obs_steps` is above 1.
    """

    def __init__(self, algo: FBC) -> None:
        super().__init__()
        self.policy = copy.deepcopy(algo.nets["policy"])
        for name, average in algo.nets["ema"].averages().items():
            self.policy.get_parameter(name).data.copy_(average)
        for vision in [module for module in self.policy.modules() if isinstance(module, VisionBackbone)]:
            vision.as_plain_network()  # for no exporter follows into torch's inference mode
        self.normalization = copy.deepcopy(algo.nets["normalization"])
        self._flow_steps, self._one_frame = algo.algo_config.flow_steps, algo.algo_config.obs_steps == 1
        self.requires_grad_(False).eval()

    def forward(self, observation: dict[str, Tensor], noise: Tensor) -> Tensor:
        obs = {key: ObsUtils.process_obs(value, obs_key=key).float() for key, value in observation.items()}
        obs = self.normalization.observations(obs)
        groups = {"obs": {key: value.unsqueeze(1) if self._one_frame else value for key, value in obs.items()}}
        return self.normalization.in_units(self.policy(groups, self._flow_steps, noise))


def export_policy(place: str | Path, out: Path, format: str) -> float:
    """Write the graph of a policy of `fbc_frozen` to a file, and return the largest difference of its actions from the policy's.

    Batches may have any size. What a runtime has to know (names, shapes, how many actions to execute) is in the file: in ONNX as metadata,
    in torch's format as the extra file `policy.json`.

    Args:
        place: as `load_policy` takes it.
        format: one of `FORMATS`; 'onnx' for ONNX, 'torch' for what `torch.export.load` reads.

    Raises:
        ConfigError: it is another algorithm, conditioned on goals, or normalises as robomimic itself does; a package is missing.
        ExportError: the difference is more than TOLERANCE.
    """
    policy = load_policy(place, "cpu")
    assert isinstance(policy, Policy)
    algo = policy.planner
    if algo.global_config.train.hdf5_normalize_obs:
        raise ConfigError(f"{place} was trained with train.hdf5_normalize_obs, which is not exported; algo.obs_normalization is")
    graph, inputs = PolicyGraph(algo), _examples(policy)
    batch = torch.export.Dim("batch")
    shapes = {"observation": {key: {0: batch} for key in policy.observations}, _NOISE: {0: batch}}
    with torch.no_grad(), _quiet():
        program = torch.export.export(graph, (), inputs, dynamic_shapes=shapes)
    description = _describe(policy)
    given = {**inputs["observation"], _NOISE: inputs[_NOISE]}
    made = _write_onnx(program, out, given, description) if format == "onnx" else _write_torch(program, out, inputs, description)
    difference = float((made - _expected(policy, inputs["observation"])).abs().max())
    if not difference <= TOLERANCE:
        raise ExportError(f"the exported graph differs from {place} by {difference:.2g}, more than {TOLERANCE:g}; please report this")
    return difference


def _examples(policy: Policy) -> dict[str, Any]:
    """Return random observations, numbers among those that the policy knows, and noise."""
    generator, algo = torch.Generator().manual_seed(0), policy.planner
    frames = algo.algo_config.obs_steps
    observation = {}
    for key, shape in policy.observations.items():
        size = (_EXAMPLES, *([frames] if frames > 1 else []), *shape)
        if ObsUtils.key_is_obs_modality(key, "rgb"):
            observation[key] = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        else:
            observation[key] = algo.nets["normalization"].observations_in_units({key: torch.randn(size, generator=generator)})[key]
    return {"observation": observation, _NOISE: torch.cat([algo.draw_noise(1, each) for each in _generators()])}


def _generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(_EXAMPLES)]


def _expected(policy: Policy, observation: Mapping[str, Tensor]) -> Tensor:
    """Return the actions of the policy itself, as it acts, from the same noise."""
    each = [as_environments_give({key: value[index].numpy() for key, value in observation.items()}) for index in range(_EXAMPLES)]
    chunks = policy.sample_chunks(each, _generators(), [None] * _EXAMPLES)
    return policy.planner.nets["normalization"].in_units(chunks)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, inputs: Mapping[str, Tensor], description: Mapping[str, Any]) -> Tensor:
    """Write an ONNX file, and return the actions that onnxruntime gives. Raises ConfigError without the packages."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - which torch's exporter needs

    except ImportError as error:
        raise ConfigError(f"--format onnx needs a package ({first_line(error)}): pip install 'robomimic_frozen[export]'") from error
    with _quiet():
        exported = torch.onnx.export(program, input_names=list(inputs), output_names=[_ACTIONS], dynamo=True, verbose=False)
    assert exported is not None
    model = exported.model_proto
    onnx.helper.set_model_props(model, {"robomimic_frozen": json.dumps(description)})
    onnx.save(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (actions,) = session.run([_ACTIONS], {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(actions)


def _write_torch(program: torch.export.ExportedProgram, path: Path, inputs: Mapping[str, Any], description: Mapping[str, Any]) -> Tensor:
    """Write what `torch.export.load` reads, and return the actions that it gives."""
    torch.export.save(program, path, extra_files={"policy.json": json.dumps(description)})
    return torch.export.load(path).module()(**inputs)


def _describe(policy: Policy) -> dict[str, Any]:
    algo = policy.planner
    normalization = algo.nets["normalization"]
    return {
        "version": __version__,
        "observations": {key: list(shape) for key, shape in policy.observations.items()},
        "obs_steps": algo.algo_config.obs_steps,
        "noise": [algo.algo_config.horizon, algo.ac_dim],  # of each environment, from N(0, 1)
        "act_steps": algo.algo_config.act_steps,
        "action_keys": list(normalization.action_keys),
        "rot_6d": list(normalization.rotations),  # those of them that are two rows of a rotation matrix
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what exporters say of their own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
