"""`robomimic-frozen cache` on a store with a whole, an unfinished and a damaged cache."""

import os
import time

import filelock
import h5py
import numpy as np
import pytest
import torch

from robomimic_frozen import cli
from robomimic_frozen.encoders import EncoderSpec
from robomimic_frozen.encoders.vision import VisionBackbone
from robomimic_frozen.features.source import ImageSource
from robomimic_frozen.features.store import ensure_features

KEY = "obs/agentview_image"


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "images.hdf5"
    with h5py.File(path, "w") as file:
        file.create_group("data/demo_0").attrs["num_samples"] = 4
        file[f"data/demo_0/{KEY}"] = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    return path


@pytest.fixture
def cache(dataset, tmp_path):
    """The folder of a whole cache."""
    spec = EncoderSpec(pretrained_encoder=False, image_shape=(3, 40, 40), crop_shape=(32, 32), cached_crops=1)
    return ensure_features(spec, ImageSource(dataset, ("demo_0",), KEY), root=tmp_path / "cache", device=torch.device("cpu")).folder


def test_verify_confirms_a_cache_of_int8(dataset, tmp_path, capsys):
    spec = EncoderSpec(pretrained_encoder=False, image_shape=(3, 40, 40), crop_shape=(32, 32), cached_crops=1, dtype="int8")
    folder = ensure_features(spec, ImageSource(dataset, ("demo_0",), KEY), root=tmp_path / "int8", device=torch.device("cpu")).folder
    assert run("verify", folder) == 0
    assert "good (cosine similarity" in capsys.readouterr().out
    with (folder / "features.bin").open("r+b") as file:
        file.seek(5)  # in the scales
        file.write(b"\x7f")
    assert run("verify", folder) == 1
    assert "damaged: the checksum of demo_0 differs" in capsys.readouterr().out


@pytest.fixture
def others(cache):
    """An unfinished one and one that is damaged."""
    for name in ("unfinished.partial", "damaged"):
        (cache.parent / name).mkdir()
        (cache.parent / name / "features.bin").write_bytes(b"half")
    return cache.parent / "unfinished.partial", cache.parent / "damaged"


def run(action, cache, *arguments):
    return cli.main(["cache", action, "--dir", str(cache.parent), *map(str, arguments)])


def test_list_says_what_each_cache_is_for(cache, others, capsys):
    assert run("list", cache) == 0
    output = capsys.readouterr().out
    assert "resnet18, 1 crops, float16, 1 demos, 4 frames of obs/agentview_image in" in output
    assert "unfinished" in output and "damaged" in output and "3 caches" in output


def test_verify_confirms_a_good_cache_also_of_a_moved_dataset(cache, dataset, capsys):
    assert run("verify", cache) == 0
    assert "good" in capsys.readouterr().out
    moved = dataset.rename(dataset.with_name("moved.hdf5"))
    assert run("verify", cache) == 1
    assert run("verify", cache, "--dataset", moved) == 0


def test_verify_finds_features_that_are_not_those_of_the_images(cache, monkeypatch, capsys):
    monkeypatch.setattr(VisionBackbone, "frozen_part", lambda self, images: torch.randn(len(images), 512))
    assert run("verify", cache) == 1
    assert "differ from newly extracted ones" in capsys.readouterr().out


def test_verify_finds_a_dataset_that_has_changed(cache, dataset, capsys):
    with h5py.File(dataset, "a") as file:
        file[f"data/demo_0/{KEY}"][0, 0, 0, 0] ^= 1
    assert run("verify", cache) == 1
    assert "has other images now" in capsys.readouterr().out


def test_prune_removes_what_is_not_whole_and_nothing_else(cache, others, capsys):
    assert run("prune", cache, "--dry-run") == 0
    assert all(folder.exists() for folder in others)
    assert run("prune", cache) == 0
    assert cache.exists() and not any(folder.exists() for folder in others)


def test_prune_spares_what_is_being_extracted(cache, others):
    with filelock.FileLock(cache.parent / "unfinished.lock"):
        run("prune", cache)
    assert others[0].exists() and not others[1].exists()


def test_prune_by_age_counts_from_the_last_use(cache):
    assert run("prune", cache, "--unused-days", 30) == 0
    assert cache.exists()
    for file in cache.iterdir():
        os.utime(file, (time.time() - 40 * 86_400,) * 2)
    run("prune", cache, "--unused-days", 30)
    assert not cache.exists()


def test_an_absent_folder_is_an_empty_store(tmp_path, capsys):
    assert cli.main(["cache", "list", "--dir", str(tmp_path / "absent")]) == 0
    assert "0 caches" in capsys.readouterr().out
