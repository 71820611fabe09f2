import math
import pickle

import pytest
import torch
from policies import make_batch, make_config, make_policy
from third_parties import plugin
from torch import nn

from robomimic_frozen.encoders import Backbone, EncoderSpec, FrozenResNetCore, available_backbones
from robomimic_frozen.encoders.readouts import Readout
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.integration.registration import register
from robomimic_frozen.policies.networks import VelocityNetwork


class MeanColour(nn.Module):
    def forward(self, images):
        return images.mean(dim=(2, 3))


def test_a_third_partys_backbone_is_found_by_name(install):
    def frozen_backbones():
        return [Backbone("mean_colour", MeanColour, fetch_weights=lambda: None)]

    install(colours=plugin(frozen_backbones=frozen_backbones))
    core = FrozenResNetCore((3, 8, 8), rgb_model_name="mean_colour", pretrained_encoder=False, emb_dim=5)
    assert core(torch.ones(2, 3, 8, 8)).shape == (2, 5)
    assert "resnet18" in available_backbones()


def test_a_plugin_that_cannot_be_imported_is_named_and_skipped(install):
    install(broken=ImportError("no module named x"))
    with pytest.warns(UserWarning, match="plugin 'broken' failed and is skipped: ImportError: no module named x"):
        assert "resnet18" in available_backbones()


def test_a_plugin_whose_hook_fails_is_named_and_skipped(install):
    def frozen_backbones():
        raise RuntimeError("out of order")

    install(broken=plugin(frozen_backbones=frozen_backbones))
    with pytest.warns(UserWarning, match="plugin 'broken' failed and is skipped: RuntimeError: out of order"):
        assert "resnet18" in available_backbones()


def test_a_broken_component_does_not_stop_robomimic(install):
    def robomimic_components():
        raise RuntimeError("out of order")

    install(broken=plugin(robomimic_components=robomimic_components))
    register.cache_clear()
    with pytest.warns(UserWarning, match="'broken'"):
        register()
    from robomimic.config import config_factory

    assert config_factory("fbc_frozen").algo_name == "fbc_frozen"


def test_registering_twice_changes_nothing():
    from robomimic.algo.algo import REGISTERED_ALGO_FACTORY_FUNCS
    from robomimic.utils.obs_utils import OBS_ENCODER_CORES

    register()
    algos, cores = dict(REGISTERED_ALGO_FACTORY_FUNCS), dict(OBS_ENCODER_CORES)
    register()
    assert dict(REGISTERED_ALGO_FACTORY_FUNCS) == algos
    assert dict(OBS_ENCODER_CORES) == cores
    assert "fbc_frozen" in algos
    assert "FrozenResNetCore" in cores


def test_a_third_partys_readout_is_found_by_name(install):
    def readouts():
        return [Readout("largest", lambda map_shape: lambda maps: maps.amax((2, 3)))]

    install(largest=plugin(readouts=readouts))
    core = FrozenResNetCore((3, 32, 32), pretrained_encoder=False, pool="largest", emb_dim=5)
    images = torch.rand(2, 3, 32, 32)
    maps = (images - core.backbone.mean) / core.backbone.std
    for stage in core.backbone.stages.values():
        maps = stage(maps)
    torch.testing.assert_close(core.backbone(images), maps.amax((2, 3)))
    with pytest.raises(ConfigError, match="pool is 'larger'; choose .*'largest'"):
        FrozenResNetCore((3, 32, 32), pretrained_encoder=False, pool="larger")


class LinearVelocity(nn.Module):
    """Of the least that a velocity network can be."""

    def __init__(self, action_dim, horizon, condition_dim, settings):
        super().__init__()
        self.layer = nn.Linear(action_dim * horizon + 1 + condition_dim, action_dim * horizon)

    def forward(self, x, times, condition):
        return self.layer(torch.cat([x.flatten(1), times[:, None], condition], dim=-1)).view_as(x)


def test_a_third_partys_velocity_network_trains(install):
    install(linear=plugin(velocity_networks=lambda: [VelocityNetwork("linear", LinearVelocity)]))
    policy = make_policy(make_config(network="linear"))
    policy.set_train()
    losses = [float(policy.train_on_batch(make_batch(policy), epoch=1)["loss"]) for _ in range(3)]
    assert all(map(math.isfinite, losses)) and isinstance(policy.nets["policy"].velocity, LinearVelocity)
    with pytest.raises(ConfigError, match="unknown algo.network 'cubic'; choose .*'linear'"):
        make_policy(make_config(network="cubic"))


def test_a_third_partys_algorithm_is_known_to_robomimic(install):
    from robomimic.algo.algo import REGISTERED_ALGO_FACTORY_FUNCS as algos
    from robomimic.algo.algo import register_algo_factory_func

    def robomimic_components():
        register_algo_factory_func("bc_of_a_plugin")(lambda algo_config: algos["bc_frozen"](algo_config))

    install(algorithm=plugin(robomimic_components=robomimic_components))
    register.cache_clear()
    register()
    assert algos.pop("bc_of_a_plugin") is not algos["bc_frozen"]


def test_a_spec_reaches_worker_processes_whatever_the_functions_of_a_plugin(install):
    install(colours=plugin(frozen_backbones=lambda: [Backbone("mean_colour", lambda: MeanColour(), fetch_weights=None)]))
    spec = EncoderSpec("mean_colour", image_shape=(3, 8, 8))
    unpacked = pickle.loads(pickle.dumps(spec))
    assert unpacked == spec and hash(unpacked) == hash(spec)
    assert unpacked.build()(torch.ones(1, 3, 8, 8)).shape == (1, 3)
