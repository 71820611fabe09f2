"""What `robomimic-frozen train` makes of a config before robomimic's own train.py gets it."""

import contextlib
import json

import pytest
import torch
from robomimic.config import config_factory
from robomimic_versions import IS_0_5, as_train_data
from small_datasets import IMAGE, POSITION, write_dataset

import robomimic_frozen
from robomimic_frozen import cli
from robomimic_frozen.config import datasets_of
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.integration import checks, training, versions
from robomimic_frozen.integration.checks import check_config
from robomimic_frozen.integration.settings import load_config

ONLY_0_3 = pytest.mark.skipif(IS_0_5, reason="this robomimic can do what the config asks for")
LANGUAGE = pytest.mark.skipif(not IS_0_5, reason="robomimic 0.3 makes no embeddings of language")


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "demos.hdf5")


@pytest.fixture
def write_config(tmp_path):
    """A function that writes a config for the dataset, with these changes, and returns its path."""

    def write(algo="fbc_frozen", **changes):
        robomimic_frozen.register()
        config = config_factory(algo)
        changes = {
            "observation.modalities.obs.rgb": [IMAGE],
            "observation.modalities.obs.low_dim": [POSITION],
            "experiment.rollout.enabled": False,
            "train.batch_size": 4,
            "experiment.render_video": False,
            **changes,
        }
        settings = config.to_dict()
        for path, value in changes.items():
            *sections, key = path.split(".")
            section = settings
            for name in sections:
                section = section.setdefault(name, {})
            section[key] = value
        (tmp_path / "config.json").write_text(json.dumps(settings))
        return tmp_path / "config.json"

    return write


@pytest.fixture
def started(monkeypatch):
    """The configs with which train.py would have been started."""
    configs = []
    monkeypatch.setattr(training, "_run_stock_train", lambda arguments: configs.append(load_config(arguments.config, None, None, [])))
    monkeypatch.setattr(training, "resumable_training", lambda seed, resume: contextlib.nullcontext())
    return configs


def test_relative_paths_are_saved_as_absolute_ones(dataset, write_config, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {
        "train.output_dir": "runs",
        "algo.init_from": "earlier",
        "algo.feature_cache.dir": "~/cache",
        "observation.encoder.rgb.core_kwargs.weights": "weights.pth",
    }
    assert cli.main(["train", "--config", str(write_config(**paths)), "--dataset", "demos.hdf5"]) == 0
    (config,) = started
    assert [entry["path"] for entry in datasets_of(config)] == [str(dataset)]
    assert config.train.output_dir == str(tmp_path / "runs")
    assert config.algo.init_from == str(tmp_path / "earlier")
    assert config.algo.feature_cache.dir.endswith("/cache") and config.algo.feature_cache.dir.startswith("/")
    assert config.observation.encoder.rgb.core_kwargs.weights == str(tmp_path / "weights.pth")


def test_urls_in_settings_stay_urls(dataset, write_config, started):
    cache = "s3://bucket/features"
    assert cli.main(["train", "--config", str(write_config(**{"algo.feature_cache.dir": cache})), "--dataset", str(dataset)]) == 0
    assert started[0].algo.feature_cache.dir == cache


def test_a_run_whose_dataset_was_moved_is_resumed_with_what_the_error_advises(dataset, write_config, started, tmp_path, capfd):
    write_config(**{"train.data": str(tmp_path / "before.hdf5"), "train.output_dir": "/proc/nowhere"})
    assert cli.main(["train", "--resume", str(tmp_path)]) == 1
    assert "before.hdf5 does not exist; give one with --dataset" in capfd.readouterr().err
    assert cli.main(["train", "--resume", str(tmp_path), "--dataset", str(dataset)]) == 0
    assert [entry["path"] for entry in datasets_of(started[0])] == [str(dataset)]


def test_training_computes_with_no_more_threads_than_the_process_was_given(dataset, write_config, monkeypatch):
    """robomimic's train.py sets two, so that runs of one core each, side by side, waited for each other's threads."""
    asked = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr("robomimic.scripts.train.train", lambda *_, **__: torch.set_num_threads(2))
    assert cli.main(["train", "--config", str(write_config()), "--dataset", str(dataset)]) == 0
    assert asked == [1]


@pytest.mark.parametrize(("algo", "parts"), [("hbc", "planner, actor"), ("iris", "value_planner, actor")])
def test_algorithms_of_several_policies_are_left_to_robomimics_own_script(algo, parts, dataset):
    robomimic_frozen.register()
    with pytest.raises(ConfigError, match=rf"{algo} is made of several policies \({parts}\); train it with python -m robomimic"):
        check_config(load_config(None, algo, str(dataset), []))


OF_0_5 = {
    "experiment.ckpt_path": None,
    "experiment.env_meta_update_dict": {},
    "train.action_keys": ["actions"],
    "train.action_config": {"actions": {"normalization": None}},
    "train.normalize_weights_by_ds_size": False,
    "train.max_grad_norm": None,
}


@pytest.mark.parametrize("algo", ["bc", "bc_frozen", "fbc_frozen"])
def test_a_config_of_0_5_is_read_by_every_robomimic_that_does_what_it_says(algo, dataset, write_config):
    data = [{"path": str(dataset), "eval": True, "weight": 2}]
    config = load_config(str(write_config(algo, **OF_0_5, **{"train.data": data})), None, None, [])
    check_config(config)
    assert [entry["path"] for entry in datasets_of(config)] == [str(dataset)]


@ONLY_0_3
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"experiment.env_meta_update_dict": {"env_kwargs": {"control_freq": 10}}}, "experiment.env_meta_update_dict is not {}"),
        ({"experiment.ckpt_path": "model.pth"}, "experiment.ckpt_path is not None"),
        ({"train.data": [{"path": "a.hdf5"}, {"path": "b.hdf5"}]}, "train.data has 2 datasets"),
        ({"train.data": [{"path": "a.hdf5", "demo_limit": 3}]}, "train.data has demo_limit beside the path"),
    ],
)
def test_a_config_that_needs_0_5_says_so_in_a_line(changes, what, write_config):
    with pytest.raises(ConfigError, match=f"{what}, which needs robomimic 0.5, and 0.3.* install robomimic's master branch"):
        load_config(str(write_config(**changes)), None, None, [])


@ONLY_0_3
def test_validation_on_observations_that_robomimic_normalises_is_refused_before_training(dataset, write_config):
    splits = {"train.hdf5_filter_key": "train", "train.hdf5_validation_filter_key": "valid", "experiment.validate": True}
    config = load_config(str(write_config(**splits, **{"train.hdf5_normalize_obs": True})), None, str(dataset), [])
    with pytest.raises(ConfigError, match="experiment.validate with train.hdf5_normalize_obs needs robomimic 0.5, .* or set it to false"):
        check_config(config)


def test_another_dataset_in_the_place_of_one_has_its_language(dataset, write_config):
    config = write_config(**{"train.data": [{"path": "elsewhere.hdf5", "lang": "lift the cube"}]})
    (entry,) = datasets_of(load_config(str(config), None, str(dataset), []))
    assert dict(entry) == ({"path": str(dataset), "lang": "lift the cube"} if IS_0_5 else {"path": str(dataset)})


def language_config(monkeypatch, write_config, dataset, **entry):
    for module in (versions, checks):
        monkeypatch.setattr(module, "MADE_BY_ROBOMIMIC", ("lang_emb",))
    config = load_config(str(write_config(**{"observation.modalities.obs.low_dim": [POSITION, "lang_emb"]})), None, None, [])
    with config.values_unlocked():
        config.train.data = [{"path": str(dataset), **entry}]
    return config


def test_what_robomimic_makes_of_language_need_not_be_in_the_file(monkeypatch, dataset, write_config):
    check_config(language_config(monkeypatch, write_config, dataset))


def test_a_policy_that_takes_language_needs_a_dataset_with_one(monkeypatch, dataset, write_config):
    config = language_config(monkeypatch, write_config, dataset)
    with pytest.raises(ConfigError, match="takes lang_emb, and train.data names no language for .*demos.hdf5; set train.data to"):
        versions.check_language(config, datasets_of(config))
    config = language_config(monkeypatch, write_config, dataset, lang="lift the cube")
    monkeypatch.setattr(versions.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="package transformers, which is missing; pip install transformers"):
        versions.check_language(config, datasets_of(config))


@LANGUAGE
def test_sequences_of_features_have_the_embedding_of_their_language(monkeypatch, dataset, write_config, tmp_path):
    import robomimic.utils.lang_utils as LangUtils
    import robomimic.utils.obs_utils as ObsUtils
    import robomimic.utils.train_utils as TrainUtils
    import torch
    from torch.utils.data import DataLoader

    monkeypatch.setattr(LangUtils, "get_lang_emb", lambda lang: torch.full((4,), float(len(lang))))
    config = load_config(str(write_config(**{"observation.modalities.obs.low_dim": [POSITION, "lang_emb"]})), None, None, [])
    with config.values_unlocked():
        config.train.data = as_train_data(dataset)
        config.train.data[0]["lang"] = "lift"
        config.algo.feature_cache.dir = str(tmp_path / "cache")
        config.observation.encoder.rgb.core_kwargs.update(rgb_model_name="resnet18", pretrained_encoder=False)
    ObsUtils.initialize_obs_utils_with_config(config)
    features = TrainUtils.dataset_factory(config, config.all_obs_keys)
    batch = next(iter(DataLoader(features, batch_size=2)))
    assert batch["obs"]["lang_emb"].tolist() == [[[4.0] * 4]] * 2
    assert batch["obs"][IMAGE].shape[-2:] == (1, 1)


@pytest.mark.parametrize("earlier", [True, 5, ["other.hdf5"], [], [7]])
def test_a_dataset_on_the_command_line_takes_the_place_of_whatever_the_config_says(earlier, write_config, dataset):
    (entry,) = datasets_of(load_config(str(write_config(**{"train.data": earlier})), None, str(dataset), []))
    assert entry["path"] == str(dataset)
