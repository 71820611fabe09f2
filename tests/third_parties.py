"""Plugins of other packages, as if these were installed."""

import importlib.metadata
import types

import pytest

from robomimic_frozen import plugins


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
