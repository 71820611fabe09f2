import json
import runpy
from pathlib import Path

import pytest
from robomimic.config import config_factory

import robomimic_frozen
from robomimic_frozen.encoders import check_core_kwargs, get_backbone
from robomimic_frozen.simulation.tasks import get_task

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*.json"))


@pytest.fixture
def script():
    return runpy.run_path(str(ROOT / "scripts" / "write_configs.py"))


@pytest.fixture
def generated(script):
    return script["ready_configs"]()


def test_the_files_are_the_generated_ones(generated):
    assert {file.stem for file in FILES} == generated.keys()


def test_their_readme_shows_what_sets_them_apart(script):
    assert (ROOT / "configs" / "README.md").read_text() == script["readme"](), "run: python scripts/write_configs.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_config_loads_as_stock_train_loads_it_and_is_up_to_date(file, generated):
    robomimic_frozen.register()
    settings = json.loads(file.read_text())
    config = config_factory(settings["algo_name"])
    with config.values_unlocked():
        config.update(settings)
    assert config == generated[file.stem], "run: python scripts/write_configs.py"
    core_kwargs = config.observation.encoder.rgb.core_kwargs
    check_core_kwargs(core_kwargs)
    get_backbone(core_kwargs.rgb_model_name)


def test_frozen_maps_are_shifted_and_images_of_a_network_that_is_trained_are_cropped(generated):
    for name, config in generated.items():
        core_kwargs = config.observation.encoder.rgb.core_kwargs
        cropped = core_kwargs.freeze_encoder is False
        assert (core_kwargs.augment, bool(core_kwargs.crop_shape)) == (("crops", True) if cropped else ("shift", False)), name


def test_the_configs_of_one_stage_differ_only_in_name_encoder_and_the_horizon_of_their_task(generated):
    default = generated.pop("lift_mh_resnet18").to_dict()
    for name in [name for name in generated if not name.endswith(("_stage2", "_both_stages"))]:
        other = generated[name].to_dict()
        assert other["experiment"]["rollout"]["horizon"] == get_task(name.partition("_")[0]).horizon
        for settings in (default, other):
            settings["experiment"]["name"] = ""
            settings["experiment"]["rollout"]["horizon"] = 0
            settings["observation"]["encoder"]["rgb"]["core_kwargs"] = {}
        assert other == default
