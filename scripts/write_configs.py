"""Write the ready configs in `configs/` from FBCFrozenConfig: `python scripts/write_configs.py`."""

from __future__ import annotations

from pathlib import Path

from robomimic_frozen.config import FBCFrozenConfig

CORE_KWARGS: dict[str, dict] = {
    "lift_mh_resnet18": {},
    "lift_mh_resnet34": {"rgb_model_name": "resnet34"},
    "lift_mh_resnet50": {"rgb_model_name": "resnet50"},
    "lift_mh_resnet18_trainable": {"freeze_encoder": False},
    "lift_mh_resnet18_random": {"freeze_encoder": False, "pretrained_encoder": False},
    "lift_mh_offline": {"rgb_model_name": "efficientnet_lite0"},
}
"""File name -> what differs from the default in observation.encoder.rgb.core_kwargs."""


def lift_configs() -> dict[str, FBCFrozenConfig]:
    """Every ready config by file name, without suffix."""
    configs = {}
    for name, core_kwargs in CORE_KWARGS.items():
        config = FBCFrozenConfig()
        config.experiment.name = name
        config.observation.encoder.rgb.core_kwargs.update(core_kwargs)
        configs[name] = config
    return configs


if __name__ == "__main__":
    folder = Path(__file__).parent.parent / "configs"
    for name, config in lift_configs().items():
        config.dump(folder / f"{name}.json")
