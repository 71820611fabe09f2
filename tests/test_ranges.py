"""Settings out of range: one line before training, which names the setting, its value and what to choose."""

import pytest
from policies import OBS_SHAPES, make_config, make_policy
from robomimic.config import config_factory
from robomimic.config.base_config import get_all_registered_configs
from small_datasets import write_dataset

from robomimic_frozen.encoders.weights import restoring_checkpoint
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.integration.checks import check_config
from robomimic_frozen.integration.settings import apply_overrides
from robomimic_frozen.policies.ranges import ACTING, ROLLOUTS, TRAINING, check_ranges

POLICY = "algo.optim_params.policy"
OUT_OF_RANGE = [
    ("train.num_epochs", "0", "choose a whole number from 1 on"),
    ("train.batch_size", "0", "choose a whole number from 1 on"),
    ("train.batch_size", "null", "choose a whole number from 1 on"),
    ("train.seed", "null", "choose a whole number from 0 to"),
    ("train.seed", "-1", "choose a whole number from 0 to"),
    ("train.seed", "4294967296", "choose a whole number from 0 to"),
    ("train.num_data_workers", "-1", "choose a whole number from 0 on"),
    ("train.max_grad_norm", "0", "choose a number above 0, or null"),
    ("train.max_grad_norm", "NaN", "choose a number above 0, or null"),
    ("experiment.epoch_every_n_steps", "0", "choose .* or null for the whole dataset"),
    ("experiment.save.every_n_epochs", "0", "choose .* or null for never"),
    ("experiment.rollout.rate", "0", "set experiment.rollout.enabled to false"),
    ("experiment.rollout.n", "0", "choose a whole number from 1 on"),
    ("experiment.rollout.horizon", "-1", "choose a whole number from 1 on"),
    ("algo.horizon", "0", "choose a whole number from 1 on"),
    ("algo.unfreeze_at_epoch", "1", "choose 2 or more"),
    ("algo.ema.power", "0.0", "choose a number above 0"),
    ("algo.ema.max_decay", "1.5", "choose 0 .* to 1"),
    ("algo.network_kwargs.hidden_dims", "[64, 0]", "give a list of whole numbers from 1 on"),
    ("algo.network_kwargs.down_dims", "[64.5]", "give a list of whole numbers from 1 on"),
    (f"{POLICY}.learning_rate.initial", "0", "choose a number above 0"),
    (f"{POLICY}.learning_rate.encoder", "-0.1", "choose 0 or more, or null"),
    (f"{POLICY}.learning_rate.warmup_steps", "-5", "choose 0 .* or more"),
    (f"{POLICY}.regularization.L2", "-1", "choose 0 or more"),
]


@pytest.mark.parametrize(("path", "value", "choose"), OUT_OF_RANGE)
def test_a_setting_out_of_range_is_named_with_what_to_choose(path, value, choose):
    config = make_config()
    apply_overrides(config, [f"{path}={value}"])
    with pytest.raises(ConfigError, match=rf"^{path} is {value.replace('[', '.').replace(']', '.')}; .*{choose}"):
        check_ranges(config)


def test_every_setting_with_a_range_exists_and_is_in_it_by_default():
    config = make_config()
    check_ranges(config)
    for path in (*ACTING, *TRAINING, *ROLLOUTS):
        apply_overrides(config, [f"{path}=null"])  # which refuses an unknown key


def test_the_defaults_of_every_algorithm_are_in_range():
    for algo in get_all_registered_configs():
        check_ranges(config_factory(algo))


@pytest.mark.parametrize("check", [check_config, make_policy])
def test_ranges_are_looked_at_by_the_command_and_by_the_policy_itself(check, tmp_path):
    config = make_config()
    config.train.data = str(write_dataset(tmp_path / "small.hdf5"))
    apply_overrides(config, [f"{POLICY}.learning_rate.warmup_steps=-5"])
    with pytest.raises(ConfigError, match="warmup_steps is -5"):
        check(config)


def test_rollouts_that_are_switched_off_may_have_any_number():
    config = make_config()
    apply_overrides(config, ["experiment.rollout.enabled=false", "experiment.rollout.n=0", "experiment.rollout.horizon=0"])
    check_ranges(config)


def test_a_checkpoint_of_a_run_that_would_be_refused_today_still_acts():
    config = make_config()
    apply_overrides(config, ["train.max_grad_norm=0", f"{POLICY}.learning_rate.warmup_steps=-5"])
    with restoring_checkpoint():
        assert make_policy(config).obs_shapes.keys() == OBS_SHAPES.keys()
        apply_overrides(config, ["algo.flow_steps=0"])
        with pytest.raises(ConfigError, match="algo.flow_steps is 0"):
            make_policy(config)
