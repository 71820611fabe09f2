"""Write the ready configs in `configs/` from FBCFrozenConfig: `python scripts/write_configs.py`."""

from __future__ import annotations

from pathlib import Path

from robomimic_frozen.config import FBCFrozenConfig

RUNS = "~/robomimic_frozen_runs"
FINE_TUNING_RATE = {"initial": 1e-4, "encoder": 1e-5}


def encoder(**core_kwargs: object) -> dict:
    return {"observation": {"encoder": {"rgb": {"core_kwargs": core_kwargs}}}}


def stage2(stage1: str, last_frozen: str, **core_kwargs: object) -> dict:
    """Fine-tune the stage after `last_frozen` and the policy, from the newest checkpoint of the config `stage1`."""
    algo = {"init_from": f"{RUNS}/{stage1}", "optim_params": {"policy": {"learning_rate": FINE_TUNING_RATE}}}
    often = {"save": {"every_n_epochs": 10}, "rollout": {"rate": 10}}
    return {"algo": algo, "train": {"num_epochs": 10}, "experiment": often, **encoder(freeze_encoder=last_frozen, **core_kwargs)}


def both_stages(**core_kwargs: object) -> dict:
    """Train frozen for nine tenths of the run, and the whole encoder with the policy from there on."""
    algo = {"unfreeze_at_epoch": 37, "optim_params": {"policy": {"learning_rate": {"encoder": FINE_TUNING_RATE["encoder"]}}}}
    return {"algo": algo, **encoder(**core_kwargs)}


OFFLINE = {"rgb_model_name": "efficientnet_lite0"}
CHANGES: dict[str, dict] = {
    "lift_mh_resnet18": {},
    "lift_mh_resnet34": encoder(rgb_model_name="resnet34"),
    "lift_mh_resnet50": encoder(rgb_model_name="resnet50"),
    "lift_mh_resnet18_trainable": encoder(freeze_encoder=False),
    "lift_mh_resnet18_random": encoder(freeze_encoder=False, pretrained_encoder=False),
    "lift_mh_resnet18_stage2": stage2("lift_mh_resnet18", "layer3"),
    "lift_mh_resnet18_both_stages": both_stages(),
    "lift_mh_offline": encoder(**OFFLINE),
    "lift_mh_offline_stage2": stage2("lift_mh_offline", "layer2", **OFFLINE),
    "lift_mh_offline_both_stages": both_stages(**OFFLINE),
}
"""File name -> what differs from the default."""


def lift_configs() -> dict[str, FBCFrozenConfig]:
    """Every ready config by file name, without suffix."""
    configs = {}
    for name, changes in CHANGES.items():
        config = FBCFrozenConfig()
        config.experiment.name = name
        config.update(changes)
        configs[name] = config
    return configs


if __name__ == "__main__":
    folder = Path(__file__).parent.parent / "configs"
    for name, config in lift_configs().items():
        config.dump(folder / f"{name}.json")
