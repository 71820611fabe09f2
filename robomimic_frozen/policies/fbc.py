"""Flow-matching behaviour cloning as a robomimic algorithm: `"algo_name": "fbc_frozen"`."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Any

import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.tensor_utils as TensorUtils
import torch
from robomimic.algo import PolicyAlgo, register_algo_factory_func
from torch import Tensor, nn

from robomimic_frozen.encoders.core import FrozenResNetCore
from robomimic_frozen.encoders.spec import check_core_kwargs
from robomimic_frozen.encoders.weights import is_restoring_checkpoint, restoring_checkpoint, upgraded
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.policies import optimization
from robomimic_frozen.policies.captured_step import CapturedStep, CudaGraphs
from robomimic_frozen.policies.checkpoints import find_checkpoint, read_checkpoint
from robomimic_frozen.policies.flow_matching import FlowPolicy, Obs, trainable
from robomimic_frozen.policies.frozen_algo import FrozenAlgo, is_feature
from robomimic_frozen.policies.networks import get_velocity_network
from robomimic_frozen.policies.normalization import Normalization
from robomimic_frozen.policies.ranges import check_ranges
from robomimic_frozen.policies.states import networks
from robomimic_frozen.utils.machine import has_fast_bfloat16

logger = logging.getLogger(__name__)


@register_algo_factory_func("fbc_frozen")
def algo_config_to_class(algo_config: Any) -> tuple[type, dict]:
    """Return what robomimic's `algo_factory` builds for `fbc_frozen`."""
    return FBC, {}


class FBC(FrozenAlgo, PolicyAlgo):
    """Flow-matching behaviour cloning with action chunks.

    Trains a velocity field on chunks of `algo.horizon` actions, executes the first `algo.act_steps` of each chunk, and
    acts with the exponential moving average of the weights. Chunking as in Diffusion Policy (Chi et al. 2023,
    https://arxiv.org/abs/2303.04137), flow matching as in `flow_matching`.

    Raises:
        ConfigError: settings that contradict each other, each named with what to set.
    """

    nets: Any  # {"policy": FlowPolicy, "ema": EMA}

    def _create_networks(self) -> None:
        self._check_config()
        algo = self.algo_config
        init_from = None if is_restoring_checkpoint() else algo.init_from
        # An earlier checkpoint brings the weights of the backbone along.
        with restoring_checkpoint() if init_from else contextlib.nullcontext():
            policy = self._make_policy()
        ema = optimization.EMA(trainable(policy), algo.ema.max_decay, algo.ema.power)
        if init_from:
            start_from_checkpoint(policy, ema, self._normalization, init_from)
        self._first_update = ema.num_updates
        self.nets = nn.ModuleDict({"policy": policy, "ema": ema}).float().to(self.device)
        self._pending_actions: deque[Tensor] = deque()
        self._noise = torch.Generator(self.device)
        self._steps_this_epoch = 0

    def _make_policy(self) -> FlowPolicy:
        algo = self.algo_config
        groups = OrderedDict(obs=OrderedDict(self.obs_shapes))
        if self.goal_shapes:
            groups["goal"] = OrderedDict(self.goal_shapes)
        encoder_kwargs = ObsUtils.obs_encoder_kwargs_from_config(self.obs_config.encoder)
        build = get_velocity_network(algo.network).build
        return FlowPolicy(
            groups, encoder_kwargs, algo.obs_steps,
            lambda condition_dim: build(self.ac_dim, algo.horizon, condition_dim, algo.network_kwargs),
        )  # fmt: skip

    def _check_config(self) -> None:
        algo, train = self.algo_config, self.global_config.train
        check_ranges(self.global_config, is_trained=is_restoring_checkpoint())
        if train.seq_length != algo.horizon:
            raise ConfigError(f"algo.horizon is {algo.horizon} and train.seq_length is {train.seq_length}; set both to the same value")
        if train.frame_stack != algo.obs_steps:
            raise ConfigError(f"algo.obs_steps is {algo.obs_steps} and train.frame_stack is {train.frame_stack}; set both the same")
        if not 1 <= algo.act_steps <= algo.horizon:
            raise ConfigError(f"algo.act_steps is {algo.act_steps}; choose 1 to algo.horizon ({algo.horizon})")
        if self.obs_config.encoder.rgb.core_class == FrozenResNetCore.__name__:
            images = [key for key in (*self.obs_shapes, *self.goal_shapes) if ObsUtils.key_is_obs_modality(key, "rgb")]
            check_core_kwargs(self.obs_config.encoder.rgb.core_kwargs, images)

    def _create_optimizers(self) -> None:
        settings = self.optim_params.policy
        if settings.optimizer_type != "adamw":
            raise ConfigError(f"algo.optim_params.policy.optimizer_type is {settings.optimizer_type!r}; choose 'adamw'")
        self._trainable = trainable(self.nets["policy"])
        in_backbone = {id(parameter) for vision in self._backbones for parameter in vision.stages.parameters()}
        encoder = [parameter for parameter in self._trainable.values() if id(parameter) in in_backbone]
        policy = [parameter for parameter in self._trainable.values() if id(parameter) not in in_backbone]
        self.optimizers = {"policy": optimization.make_optimizer(policy, encoder, settings, self.device.type)}
        # The learning rate follows the gradient step, not the epoch, so robomimic has nothing to step.
        self.lr_schedulers: dict = {}
        self.step_lr_schedulers_every_batch: dict = {}
        self._capture_steps()

    def _capture_steps(self) -> None:
        """Take gradient steps from a CUDA graph, where there is CUDA; it is captured anew."""
        on_gpu = self.device.type == "cuda"
        self._captured = CapturedStep(self._gradient_step, self.device, CudaGraphs()) if on_gpu else None

    def _unfreeze_encoder(self) -> None:
        """Go on with every backbone trainable. The config says so from here on, to the dataset and to checkpoints."""
        if not any(vision.frozen_stages for vision in self._backbones):
            return
        for vision in self._backbones:
            vision.unfreeze()
        new = {name: p for name, p in trainable(self.nets["policy"]).items() if name not in self._trainable}
        self._trainable |= new
        self.nets["ema"].add(new)
        rate = optimization.encoder_rate(self.optim_params.policy)
        self.optimizers["policy"].add_param_group({"params": list(new.values()), "initial_lr": rate})
        with self.global_config.values_unlocked():
            core_kwargs = self.global_config.observation.encoder.rgb.core_kwargs
            for settings in (core_kwargs, *(core_kwargs.get("per_key") or {}).values()):
                settings["freeze_encoder"] = False
        logger.info("the encoder is trained from here on, and training reads pixels")
        self._launch_kernels("the encoder is trained")

    def process_batch_for_training(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Keep the frames the policy reads, and the actions from the last of them on; features in the dtype that is cached.

        The dataset gives [B, obs_steps - 1 + horizon, ...]: the first action chunk starts at the newest frame.
        """
        frames, horizon = self.algo_config.obs_steps, self.algo_config.horizon
        kept = {
            "obs": {key: value[:, :frames] for key, value in batch["obs"].items()},
            "goal_obs": batch.get("goal_obs"),
            "actions": batch["actions"][:, frames - 1 : frames - 1 + horizon],
        }
        kept = TensorUtils.to_device(kept, self.device)
        groups = {
            group: kept[group] and {key: value if is_feature(key, value) else value.float() for key, value in kept[group].items()}
            for group in ("obs", "goal_obs")
        }
        return {**groups, "actions": kept["actions"].float()}

    def train_on_batch(self, batch: dict[str, Any], epoch: int, validate: bool = False) -> dict[str, Any]:
        """Take one gradient step, or with `validate` find the loss alone, and return the loss and what `log_info` reports."""
        info = super().train_on_batch(batch, epoch, validate=validate)
        given = {"groups": self._groups(batch["obs"], batch["goal_obs"]), "targets": batch["actions"]}
        if validate:
            with torch.no_grad():
                return {**info, "loss": self.nets["policy"].forward_train(**given)}
        if self._captured is not None and any(_has_pixels(obs) for obs in given["groups"].values()):
            self._launch_kernels("training reads pixels")
        ema, step = self.nets["ema"], self._captured or self._gradient_step
        info |= step(given, [1 - ema.decay(), *self._learning_rates(ema.num_updates - self._first_update, epoch)])
        ema.num_updates += 1
        if self.device.type == "cpu" and ema.num_updates % optimization.CLEAR_EVERY == 0:
            optimization.clear_negligible_moments(self.optimizers["policy"])
        return info

    def _launch_kernels(self, reason: str) -> None:
        """Take gradient steps as they are from here on, and not from a CUDA graph."""
        if self._captured is not None:
            logger.info("gradient steps are launched kernel by kernel: %s", reason)
        self._captured = None

    def _autocast(self) -> torch.autocast:
        precision = self.algo_config.precision
        # On a GPU the casts of such small networks cost more than the multiplications save.
        automatic = precision == "auto" and self.device.type == "cpu" and has_fast_bfloat16(self.device)
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=automatic or precision == "bfloat16")

    def _gradient_step(self, batch: dict[str, Any], numbers: Iterable[float | Tensor]) -> dict[str, Tensor]:
        """Take one step, given the share by which averages move, and the learning rate of each group; it waits for no device."""
        optimizer, (share, *rates) = self.optimizers["policy"], numbers
        with self._autocast():
            loss = self.nets["policy"].forward_train(**batch)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        max_norm = self.global_config.train.max_grad_norm
        grad_norm = nn.utils.clip_grad_norm_(self._trainable.values(), math.inf if max_norm is None else max_norm)
        optimizer.step()
        self.nets["ema"].update(self._trainable.values(), share)
        return {"loss": loss.detach(), "grad_norm": grad_norm}

    def _learning_rates(self, step: int, epoch: int) -> list[float]:
        rate, experiment = self.optim_params.policy.learning_rate, self.global_config.experiment
        # Without a fixed number of steps in an epoch the cosine moves once an epoch.
        part_of_epoch = self._steps_this_epoch / experiment.epoch_every_n_steps if experiment.epoch_every_n_steps else 0
        progress = (epoch - 1 + part_of_epoch) / self.global_config.train.num_epochs
        self._steps_this_epoch += 1
        factor = optimization.warmup_cosine(step, progress, rate.warmup_steps)
        return [group["initial_lr"] * factor for group in self.optimizers["policy"].param_groups]

    def on_epoch_end(self, epoch: int) -> None:
        super().on_epoch_end(epoch)
        self._steps_this_epoch = 0
        unfreeze_at = self.algo_config.unfreeze_at_epoch
        if unfreeze_at is not None and epoch + 1 >= unfreeze_at:
            self._unfreeze_encoder()

    def serialize(self) -> dict[str, Any]:
        """Return what FrozenAlgo does, with the averaged weights alone unless robomimic (0.5) resumes training from it."""
        model = super().serialize()
        return model if "optimizers" in model else optimization.averages_as_weights(model)

    def deserialize(self, model_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """Load what `serialize` gave; unfreezes the encoder if it was trained by then. Raises WeightsError."""
        if optimization.averages_in(networks(model_dict)).keys() - set(self.nets["ema"].names):
            self._unfreeze_encoder()
        super().deserialize(model_dict, *args, **kwargs)
        if self._captured is not None:
            self._capture_steps()  # for the optimizer has other moments now

    def _loadable(self, nets: dict[str, Any]) -> dict[str, Any]:
        return optimization.with_averages(super()._loadable(nets), self.nets["ema"].names)

    def log_info(self, info: dict[str, Any]) -> dict[str, float]:
        """Return scalars for TensorBoard under the names robomimic's BC uses."""
        log = super().log_info(info)
        if "grad_norm" in info:
            log["Policy_Grad_Norms"] = info["grad_norm"].item()
            log["EMA_Decay"] = self.nets["ema"].decay()
        return log

    def get_action(self, obs_dict: Obs, goal_dict: Obs | None = None) -> Tensor:
        """Return the next action [B, A] of the present chunk, in the units of the dataset; raises ObservationError.

        A new chunk is sampled when it is used up, or when B is another one than before. Observations are in their units,
        [B, ...], or [B, obs_steps, ...] when `obs_steps` is above 1.
        """
        batch_size = len(next(iter(obs_dict.values())))
        if self._pending_actions and len(self._pending_actions[0]) != batch_size:
            self._pending_actions.clear()
        if not self._pending_actions:
            chunk = self.sample_chunks(obs_dict, self.draw_noise(batch_size, self._noise), goal_dict)
            self._pending_actions.extend(self.executable(chunk[:, : self.algo_config.act_steps]).unbind(1))
        return self._pending_actions.popleft()

    @torch.no_grad()
    def sample_chunks(self, obs_dict: Obs, noise: Tensor, goal_dict: Obs | None = None) -> Tensor:
        """Return normalised action chunks [B, horizon, A] that flow from `noise`, of that shape; raises ObservationError.

        Observations are those of `get_action`.
        """
        assert not self.nets.training
        arguments = (self._groups(*self._of_environment(obs_dict, goal_dict)), self.algo_config.flow_steps, noise)
        return torch.func.functional_call(self.nets["policy"], self.nets["ema"].averages(), arguments)

    def draw_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return what `count` chunks flow from."""
        return torch.randn(count, self.algo_config.horizon, self.ac_dim, device=self.device, generator=generator)

    def executable(self, actions: Tensor) -> Tensor:
        """Return actions [..., A] of normalised chunks in the units of the dataset, rotations as the environment takes them."""
        return self._normalization.executable(actions)

    def _of_environment(self, obs: Obs, goal: Obs | None) -> tuple[Obs, Obs | None]:
        """Return observations [B, obs_steps, ...] and goals [B, ...] as training has them."""
        self._check_observations(obs)
        obs = self._normalization.observations(obs)
        if self.algo_config.obs_steps == 1:
            obs = {key: obs[key].unsqueeze(1) for key in self.obs_shapes}
        return obs, None if goal is None else self._normalization.observations(goal)

    @property
    def reads_next_observation(self) -> bool:
        """Return whether the observation after the next step will be looked at: not while most of a chunk is still to be executed."""
        return len(self._pending_actions) < self.algo_config.obs_steps

    def _groups(self, obs: Obs, goal: Obs | None) -> dict[str, Obs]:
        groups = {"obs": {key: obs[key] for key in self.obs_shapes}}
        if goal is not None and self.goal_shapes:
            frames = next(iter(groups["obs"].values())).shape[1]
            goals = {key: goal[key] for key in self.goal_shapes}
            groups["goal"] = TensorUtils.unsqueeze_expand_at(goals, size=frames, dim=1)
        return groups

    def reset(self) -> None:
        """Forget the rest of the present action chunk. Each episode draws the same noise: the same observations, the same actions."""
        self._pending_actions.clear()
        self._noise.manual_seed(0)


def _has_pixels(obs: Obs) -> bool:
    return any(ObsUtils.key_is_obs_modality(key, "rgb") and not is_feature(key, value) for key, value in obs.items())


def start_from_checkpoint(policy: FlowPolicy, ema: optimization.EMA, normalization: Normalization, place: str) -> None:
    """Take over weights, averages and normalisation of an earlier `fbc_frozen` run: of a checkpoint, or a folder's newest.

    Raises:
        ConfigError: the file is no such checkpoint, or its networks are others.
        WeightsError: it refers to frozen weights that cannot be had.
    """
    path = find_checkpoint(place, "algo.init_from")
    checkpoint = read_checkpoint(path, "algo.init_from")
    if checkpoint["algo_name"] != "fbc_frozen":
        raise ConfigError(f"algo.init_from {path} is a checkpoint of {checkpoint['algo_name']!r}; give one of 'fbc_frozen'")
    state = upgraded(networks(checkpoint["model"]))
    try:
        policy.load_state_dict({name.removeprefix("policy."): value for name, value in state.items() if name.startswith("policy.")})
    except RuntimeError as error:
        difference = "".join(str(error).splitlines()[1:2]).strip()
        remedy = "give both the same obs keys, backbone and algo.network"
        raise ConfigError(f"algo.init_from {path} has other networks than this config: {difference} {remedy}") from error
    numbers = {name.removeprefix("normalization."): value for name, value in state.items() if name.startswith("normalization.")}
    if normalization.differs_from(numbers):
        logger.info("observations and actions are normalised as in %s, which the policy starts from, not by the present dataset", path)
    normalization.load_state_dict(numbers)
    ema.start_from({**trainable(policy), **optimization.averages_in(state)}, state[optimization.NUM_UPDATES])
