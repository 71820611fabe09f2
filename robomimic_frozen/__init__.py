"""Frozen, pretrained image encoders and flow-matching behaviour cloning for robomimic.

Importing the package loads neither torch nor robomimic; the public names below load what they need when first used.
"""

__version__ = "0.2.0"

_PUBLIC = {
    "Backbone": "robomimic_frozen.encoders",
    "FrozenResNetCore": "robomimic_frozen.encoders",
    "MultiImageObsEncoder": "robomimic_frozen.encoders",
    "get_resnet": "robomimic_frozen.encoders",
    "hookimpl": "robomimic_frozen.plugins",
    "load_policy": "robomimic_frozen.deployment.loading",
    "register": "robomimic_frozen.integration.registration",
    "RobomimicFrozenError": "robomimic_frozen.errors",
    "WeightsUnavailableError": "robomimic_frozen.errors",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    import importlib  # not at the top: _autoload brings this module into every interpreter of the environment

    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
