"""What version 0.1.0 wrote with a third party's backbone: checkpoints act as they did, and a feature cache is found again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import robomimic.utils.file_utils as FileUtils
import torch
from policies import make_config, make_policy
from random_images import write_random_images

from robomimic_frozen.encoders import EncoderSpec
from robomimic_frozen.features.store import FeatureStore
from robomimic_frozen.policies.checkpoints import describe_checkpoint

WRITTEN = Path(__file__).parent / "version_0_1_0"
CHECKPOINTS = ("fbc_frozen", "fbc_frozen_reference", "fbc_frozen_up_to_layer3", "bc", "bc_frozen")


@pytest.fixture
def small_backbone(monkeypatch):
    """The backbone 'small', whose weights file the checkpoints and the cache name relative to their folder."""
    make_config()
    monkeypatch.chdir(WRITTEN)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_loads_and_acts_the_same(name, small_backbone):
    written = torch.load(WRITTEN / "actions.pth", weights_only=True)
    policy, _ = FileUtils.policy_from_checkpoint(ckpt_path=str(WRITTEN / f"{name}.pth"), device=torch.device("cpu"))
    model = policy.policy
    model.set_eval()
    model.reset()
    torch.manual_seed(0)
    with torch.no_grad():
        actions = model.get_action(written["obs"])
    torch.testing.assert_close(actions, written["actions"][name], atol=1e-6, rtol=1e-5)


def test_its_frozen_weights_are_told(small_backbone):
    rows = dict(describe_checkpoint(WRITTEN / "fbc_frozen.pth"))
    assert rows["frozen weights"].startswith("small, sha256 a6671b5e73b6") and rows["epoch"] == "1"
    assert "to be found elsewhere" in dict(describe_checkpoint(WRITTEN / "fbc_frozen_reference.pth"))["frozen weights"]


@pytest.mark.parametrize("name", ["fbc_frozen", "fbc_frozen_up_to_layer3"])
def test_training_starts_from_it(name, small_backbone):
    config = make_config(init_from=str(WRITTEN / f"{name}.pth"))
    config.observation.encoder.rgb.core_kwargs.freeze_encoder = "layer3"
    policy = make_policy(config)
    state = torch.load(WRITTEN / f"{name}.pth", weights_only=True)["model"]
    weights = "policy.velocity.layers.0.weight"
    assert torch.equal(policy.nets["policy"].state_dict()[weights.removeprefix("policy.")], state[weights])


def test_a_feature_cache_is_found(small_backbone, tmp_path, monkeypatch):
    folder = shutil.copytree(WRITTEN / "features", tmp_path / "features")
    spec = EncoderSpec("small", weights="weights.pth", image_shape=(3, 16, 16), crop_shape=(12, 12), cached_crops=2, dtype="float32")
    source = write_random_images(tmp_path / "images.hdf5", [3, 2], 16)
    monkeypatch.setattr(FeatureStore, "_build", lambda *_: pytest.fail("features were extracted again"))
    found = FeatureStore(folder).get(source, spec, torch.device("cpu"))
    assert found.features.shape == (5, 3, 24)
    np.testing.assert_array_equal(found.features, np.fromfile(next(folder.glob("*/features.bin")), np.float32).reshape(5, 3, 24))
