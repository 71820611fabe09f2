import json

import pytest
from robomimic.config import config_factory

import robomimic_frozen
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.integration.settings import apply_overrides


@pytest.fixture
def config():
    robomimic_frozen.register()
    return config_factory("fbc_frozen")


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("algo.horizon=32", 32),
        ("algo.optim_params.policy.learning_rate.initial=1", 1),
        ("algo.ema.max_decay=0.9", 0.9),
        ("observation.encoder.rgb.core_kwargs.freeze_encoder=layer3", "layer3"),
        ("experiment.name=my run", "my run"),
        ("experiment.rollout.enabled=false", False),
        ("observation.modalities.obs.low_dim=[]", []),
        ("observation.encoder.rgb.core_kwargs.augment=null", None),
        ("train.hdf5_filter_key=train", "train"),
        ("experiment.name=a=b", "a=b"),
    ],
)
def test_values_arrive_with_their_type(config, assignment, value):
    apply_overrides(config, [assignment])
    section = config
    for key in assignment.partition("=")[0].split("."):
        section = section[key]
    assert section == value
    assert type(section) is type(value)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("feature_stage", ["layer2", ["layer2", "layer3"]]),
        ("pool", ["conv", {"name": "conv", "channels": 8}, ["conv", "grid"]]),
        ("freeze_encoder", [True, "layer1", False]),
    ],
)
def test_a_setting_that_is_one_name_can_become_several_or_a_mapping_and_back(config, key, values):
    core_kwargs = "observation.encoder.rgb.core_kwargs"
    for value in [*values, *reversed(values)]:
        apply_overrides(config, [f"{core_kwargs}.{key}={json.dumps(value)}"])
        assert config.observation.encoder.rgb.core_kwargs[key] == value
    with pytest.raises(ConfigError, match=f"{key}=3: this key takes a"):
        apply_overrides(config, [f"{core_kwargs}.{key}=3"])


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("algo.horizn=32", "nearest one is algo.horizon"),
        ("horizon=32", "nearest one is (algo|experiment.rollout).horizon"),
        ("train.horizon.x=1", "unknown key"),
        ("algo.horizon=long", "takes a int .*not a str"),
        ("algo.horizon=1.5", "takes a int .*not a float"),
        ("algo.horizon=true", "not a bool"),
        ("experiment.rollout.enabled=1", "takes a bool .*not a int"),
        ("observation.modalities.obs.rgb=agentview_image", "takes a list"),
        ("algo=3", "this is a section"),
        ("algo.horizon", "KEY.PATH=VALUE"),
    ],
)
def test_mistakes_are_named_and_change_nothing(config, assignment, words):
    before = config.to_dict()
    with pytest.raises(ConfigError, match=words):
        apply_overrides(config, [assignment])
    assert config.to_dict() == before


def test_a_locked_config_stays_locked(config):
    config.lock()
    apply_overrides(config, ["algo.horizon=32"])
    assert config.is_locked
