import importlib.metadata
import types

import pytest
import torch
from torch import nn

from robomimic_frozen import plugins
from robomimic_frozen.encoders import Backbone, FrozenResNetCore, available_backbones
from robomimic_frozen.integration.registration import register


class EntryPoint:
    def __init__(self, name, plugin):
        self.name, self.plugin = name, plugin

    def load(self):
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


@pytest.fixture
def install(monkeypatch):
    """Install plugins as if their packages were there, and forget them afterwards."""
    def install_plugins(**modules):
        points = [EntryPoint(name, plugin) for name, plugin in modules.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
        plugins.plugin_manager.cache_clear()

    yield install_plugins
    plugins.plugin_manager.cache_clear()


def plugin(**hooks):
    return types.SimpleNamespace(**{name: plugins.hookimpl(function) for name, function in hooks.items()})


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
