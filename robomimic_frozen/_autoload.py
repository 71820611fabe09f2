"""Registers this package with robomimic as soon as robomimic is imported. Standard library only, and little of it.

`robomimic_frozen.pth` imports this module at the start of every interpreter, so it must cost next to nothing there.
"""

import os
import sys


class _Watcher:
    """A meta-path finder that finds one module as the others do and wraps the execution of its code."""

    def __init__(self, module_name, around):
        self.module_name = module_name
        self.around = around

    def find_spec(self, name, path=None, target=None):
        if name != self.module_name:
            return None
        # The ones before it are watchers of the same module, which have asked this one.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            self._wrap(spec.loader)
        return spec

    def _wrap(self, loader):
        execute = loader.exec_module

        def exec_module(module):
            loader.exec_module = execute  # a later reload is an ordinary one
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            self.around(lambda: execute(module))

        loader.exec_module = exec_module


def watch(module_name, around):
    """When `module_name` is imported, call `around(load)` once, which must call `load()` to execute the module.

    Does nothing if the module is imported already, or watched for the same function.
    """
    watched = [(finder.module_name, finder.around) for finder in sys.meta_path if isinstance(finder, _Watcher)]
    if module_name not in sys.modules and (module_name, around) not in watched:
        sys.meta_path.insert(0, _Watcher(module_name, around))


def _after(module_name, action):
    def around(load):
        load()
        try:
            action()
        except Exception as error:  # robomimic itself must go on working
            import warnings

            what = f"{type(error).__name__}: {error}"
            warnings.warn(f"robomimic_frozen could not register itself with robomimic: {what}", stacklevel=2)

    watch(module_name, around)


def _call(module_name, function=None):
    """Return what imports a module of this package and calls a function of it, both named so that nothing is imported here."""

    def action():
        from importlib import import_module

        module = import_module(f"robomimic_frozen.{module_name}")
        if function is not None:
            getattr(module, function)()

    return action


if os.environ.get("ROBOMIMIC_FROZEN_AUTOLOAD") != "0":
    # robomimic.algo imports robomimic.config half way, when algos cannot be defined yet; configs can.
    _after("robomimic.config", _call("config"))
    _after("robomimic.algo", _call("integration.registration", "register"))
    _after("robomimic.utils.file_utils", _call("integration.patches", "restore_without_weights_files"))
    _after("robomimic.utils.train_utils", _call("integration.patches", "serve_cached_features"))
    _after("robomimic.utils.train_utils", _call("integration.patches", "save_the_width_of_actions"))
