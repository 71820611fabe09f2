"""The feature cache on real images of real demonstrations, with a small random backbone where the network is no matter."""

import errno
import json
import mmap
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from robomimic_frozen.encoders import EncoderSpec, get_backbone
from robomimic_frozen.encoders.preprocessing import crop_at
from robomimic_frozen.errors import CacheUnavailableError, DatasetError, WeightsError
from robomimic_frozen.features.extraction import FeatureExtraction
from robomimic_frozen.features.rows import take_rows
from robomimic_frozen.features.source import ImageSource, crop_positions
from robomimic_frozen.features.store import FeatureStore, open_cache

KEY = "obs/agentview_image"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def processes():
    """A context whose processes start at once: they are copies of one that has loaded torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["robomimic_frozen.features.store", "robomimic_frozen.encoders", "pytest"])
    return context


@pytest.fixture
def dataset(tmp_path):
    """Three demos of a few random 16x16 images."""
    path = tmp_path / "images.hdf5"
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for demo, frames in enumerate((5, 3, 4)):
            group = file.create_group(f"data/demo_{demo}")
            group.attrs["num_samples"] = frames
            group[KEY] = generator.integers(0, 256, (frames, 16, 16, 3), dtype=np.uint8)
    return path


def source(path, demos=("demo_0", "demo_1", "demo_2")):
    return ImageSource(Path(path), tuple(demos), KEY)


def spec(crops=2, dtype="float32", crop_shape=(12, 12), weights=None):
    """Of a resnet18, always the same random one where there is no weights file."""
    own = {"pretrained_encoder": weights is not None, "weights": weights}
    return EncoderSpec(**own, image_shape=(3, 16, 16), crop_shape=crop_shape, cached_crops=crops, dtype=dtype)


def changed_weights(path, change):
    """The file of that random resnet18, with a change to its first layer."""
    torch.manual_seed(0)
    state = get_backbone("resnet18").build().state_dict()
    change(state["conv1.weight"])
    torch.save(state, path)
    return path


@pytest.fixture
def float32(monkeypatch):
    monkeypatch.setattr("robomimic_frozen.utils.machine.has_fast_bfloat16", lambda device: False)


def test_features_are_those_of_the_central_and_the_stated_random_crops(dataset, tmp_path, float32):
    features = FeatureStore(tmp_path / "cache").get(source(dataset), spec(), CPU).features
    vision = spec().build()
    assert features.shape == (12, 3, 512)
    with h5py.File(dataset) as file:
        images = torch.from_numpy(file[f"data/demo_1/{KEY}"][:]).permute(0, 3, 1, 2) / 255
    centre = vision(images[:, :, 2:14, 2:14])
    torch.testing.assert_close(torch.from_numpy(features[5:8, 0].copy()), centre, atol=1e-4, rtol=1e-4)
    positions = torch.from_numpy(crop_positions(0, f"demo_1/{KEY}", 3, 2, (5, 5)))
    second = vision(crop_at(images, *positions[:, 1].unbind(-1), (12, 12)))
    torch.testing.assert_close(torch.from_numpy(features[5:8, 2].copy()), second, atol=1e-4, rtol=1e-4)


def test_crop_positions_depend_on_seed_and_demo_alone():
    positions = crop_positions(0, "demo_3", 100, 8, (9, 9))
    assert np.array_equal(positions, crop_positions(0, "demo_3", 100, 8, (9, 9)))
    assert not np.array_equal(positions, crop_positions(1, "demo_3", 100, 8, (9, 9)))
    assert not np.array_equal(positions, crop_positions(0, "demo_4", 100, 8, (9, 9)))
    assert set(np.unique(positions)) == set(range(9))


@pytest.fixture
def count_builds(monkeypatch):
    built = []
    build = FeatureStore._build

    def recording(*args):
        cache = build(*args)
        built.append(cache.folder.name)
        return cache

    monkeypatch.setattr(FeatureStore, "_build", recording)
    return built


def test_a_second_use_and_a_moved_dataset_extract_nothing(dataset, tmp_path, count_builds):
    store = FeatureStore(tmp_path / "cache")
    first = store.get(source(dataset), spec(), CPU)
    moved = shutil.move(dataset, tmp_path / "renamed.hdf5")
    second = store.get(source(moved), spec(), CPU)
    assert np.array_equal(first.features, second.features)
    assert len(count_builds) == 1


def change_pixel(dataset):
    with h5py.File(dataset, "a") as file:
        file[f"data/demo_2/{KEY}"][3, 15, 15, 2] ^= 1
    return source(dataset), spec()


def change_weight(dataset):
    def add_one(weight):
        weight[0, 0, 0, 0] += 1

    return source(dataset), spec(weights=changed_weights(dataset.with_name("weights.pth"), add_one))


@pytest.mark.parametrize(
    "change",
    [
        change_pixel,
        change_weight,
        lambda dataset: (source(dataset), spec(crops=3)),
        lambda dataset: (source(dataset), spec(dtype="float16")),
        lambda dataset: (source(dataset), spec(crop_shape=(11, 12))),
        lambda dataset: (source(dataset, ["demo_0", "demo_2"]), spec()),
    ],
    ids=["pixel", "weight", "number of crops", "dtype", "crop shape", "demos"],
)
def test_a_change_makes_another_cache(change, dataset, tmp_path, count_builds):
    store = FeatureStore(tmp_path / "cache")
    store.get(source(dataset), spec(), CPU)
    store.get(*change(dataset), CPU)
    assert len(set(count_builds)) == 2


def test_a_frozen_random_network_is_the_same_in_policy_and_cache():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = spec().build()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert spec().build().stages["layer4"] is first.stages["layer4"]


class Interrupted(Exception):
    pass


def test_an_interrupted_extraction_resumes_after_the_last_finished_demo_with_the_same_bytes(
    dataset, tmp_path, monkeypatch
):
    whole = FeatureStore(tmp_path / "whole").get(source(dataset), spec(), CPU)
    extracted = []
    original = FeatureExtraction.__call__

    def interrupt(self, frames, images):
        demo = frames.partition("/")[0]
        if demo == "demo_1" and not extracted.count("demo_1"):
            extracted.append(demo)
            raise Interrupted
        extracted.append(demo)
        return original(self, frames, images)

    monkeypatch.setattr(FeatureExtraction, "__call__", interrupt)
    store = FeatureStore(tmp_path / "interrupted")
    with pytest.raises(Interrupted):
        store.get(source(dataset), spec(), CPU)
    assert not [path for path in store.root.iterdir() if (path / "metadata.json").exists()]
    partial, = store.root.glob("*.partial")
    with (partial / "features.bin").open("ab") as file:
        file.write(b"half of a demo")
    resumed = store.get(source(dataset), spec(), CPU)
    assert extracted == ["demo_0", "demo_1", "demo_1", "demo_2"]
    assert (resumed.folder / "features.bin").read_bytes() == (whole.folder / "features.bin").read_bytes()


@pytest.mark.fault("a feature cache cut off, a bit of it flipped, its description lost or another's", "extracted again, with a warning")
@pytest.mark.parametrize("damage", ["truncated", "bit flipped", "foreign", "no metadata", "another cache's"])
def test_a_damaged_cache_is_never_served(damage, dataset, tmp_path, caplog):
    store = FeatureStore(tmp_path / "cache")
    cache = store.get(source(dataset), spec(), CPU)
    features, metadata = cache.folder / "features.bin", cache.folder / "metadata.json"
    good = features.read_bytes()
    if damage == "truncated":
        features.write_bytes(good[:-1])
    elif damage == "bit flipped":
        features.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    elif damage == "another cache's":
        other = store.get(source(dataset, ["demo_0"]), spec(), CPU)
        shutil.rmtree(cache.folder)
        shutil.copytree(other.folder, cache.folder)
    elif damage == "foreign":
        metadata.write_text("not json")
    else:
        metadata.unlink()
    again = store.get(source(dataset), spec(), CPU)
    assert (again.folder / "features.bin").read_bytes() == good
    assert "will be extracted again" in caplog.text


@pytest.mark.fault("a dataset that changes while its features are extracted", "refused in one line")
def test_a_dataset_that_changes_during_extraction_is_refused(dataset, tmp_path, monkeypatch):
    FeatureStore(tmp_path / "cache").get(source(dataset), spec(), CPU)
    # The next time the first demo is another one when it is compared with what the cache was made from, but not when it is extracted.
    monkeypatch.setattr("robomimic_frozen.features.store.image_digest", lambda images: "that of another image")
    with pytest.raises(DatasetError, match="changed while its features were extracted"):
        FeatureStore(tmp_path / "cache").get(source(dataset), spec(), CPU)


def test_images_are_read_and_hashed_once_when_their_features_are_extracted(dataset, tmp_path, monkeypatch, float32):
    read, whole = [], ImageSource.read

    def recording(self, demo, most=None):
        if most is None:
            read.append(demo)
        return whole(self, demo, most)

    monkeypatch.setattr(ImageSource, "read", recording)
    FeatureStore(tmp_path / "cache").get(source(dataset), spec(), CPU)
    assert read == ["demo_0", "demo_1", "demo_2"]


def test_features_that_are_not_numbers_are_refused(dataset, tmp_path):
    broken = changed_weights(tmp_path / "weights.pth", lambda weight: weight.fill_(float("nan")))
    with pytest.raises(WeightsError, match="NaN"):
        FeatureStore(tmp_path / "cache").get(source(dataset), spec(weights=broken), CPU)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (np.zeros((5, 16, 16, 3), np.float32), "demo_0/obs/agentview_image is float32, not uint8"),
        (np.zeros((5, 3, 16, 16), np.uint8), "demo_0/obs/agentview_image has channels first"),
        (None, "has no obs key 'agentview_image' in demo_0"),
    ],
)
def test_what_is_no_image_is_refused(content, words, dataset, tmp_path):
    with h5py.File(dataset, "a") as file:
        del file[f"data/demo_0/{KEY}"]
        if content is not None:
            file[f"data/demo_0/{KEY}"] = content
    with pytest.raises(DatasetError, match=words):
        FeatureStore(tmp_path / "cache").get(source(dataset), spec(), CPU)


def fill_disk(dataset, root):
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # one demo of 5 frames and 3 crops is 30,720 bytes
    with pytest.raises(CacheUnavailableError, match="cannot be written"):
        build_in_process(dataset, root, 0)


@pytest.mark.fault("a disk that is full during feature extraction", "one line; the next run goes on after the last finished demo")
def test_a_full_disk_is_reported_and_what_was_done_is_kept(dataset, tmp_path, processes):
    root = tmp_path / "cache"
    root.mkdir()
    for target, arguments in ((fill_disk, ()), (build_in_process, (0,))):
        process = processes.Process(target=target, args=(dataset, root, *arguments))
        process.start()
        process.join()
        assert process.exitcode == 0
    assert len(list(root.glob("extracting_demo_0_*"))) == 1
    assert [open_cache(path.parent).features.shape for path in root.glob("*/metadata.json")] == [(12, 3, 512)]


def build_in_process(dataset, root, seconds_for_a_demo):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    original = FeatureExtraction.__call__

    def slow(self, frames, images):
        (Path(root) / f"extracting_{frames.partition('/')[0]}_{os.getpid()}").touch()
        time.sleep(seconds_for_a_demo)
        return original(self, frames, images)

    FeatureExtraction.__call__ = slow
    FeatureStore(root).get(source(dataset), spec(), CPU)


@pytest.mark.fault("three processes that need the same features", "one extracts them, all use them", times=3)
def test_several_processes_build_one_cache_once(dataset, tmp_path, processes):
    root = tmp_path / "cache"
    root.mkdir()
    builders = [processes.Process(target=build_in_process, args=(dataset, root, 0.5)) for _ in range(3)]
    for process in builders:
        process.start()
    for process in builders:
        process.join()
    assert [process.exitcode for process in builders] == [0, 0, 0]
    assert len(list(root.glob("extracting_*"))) == 3


def test_a_killed_extraction_leaves_no_cache_and_the_next_one_goes_on(dataset, tmp_path, processes):
    root, calm = tmp_path / "cache", tmp_path / "calm"
    root.mkdir()
    calm.mkdir()
    process = processes.Process(target=build_in_process, args=(dataset, root, 1))
    process.start()
    while not list(root.glob("extracting_demo_1_*")):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not list(root.glob("*/metadata.json"))
    for folder in (root, calm):
        again = processes.Process(target=build_in_process, args=(dataset, folder, 0))
        again.start()
        again.join()
    assert len(list(root.glob("extracting_demo_0_*"))) == 1
    resumed, = root.glob("*/features.bin")
    whole, = calm.glob("*/features.bin")
    assert resumed.read_bytes() == whole.read_bytes()
    assert open_cache(resumed.parent).metadata["demos"] == json.loads((whole.parent / "metadata.json").read_text())["demos"]


def test_rows_of_a_large_mapped_file_are_announced_to_the_system_before_they_are_read(tmp_path, monkeypatch):
    announced = []

    class Recorded(mmap.mmap):
        def madvise(self, option, start, length):
            announced.append((option, start, length))
            super().madvise(option, start, length)

    monkeypatch.setattr("mmap.mmap", Recorded)
    written = np.random.default_rng(0).normal(size=(50, 3000)).astype(np.float16)
    (tmp_path / "features.bin").write_bytes(written.tobytes())
    mapped = np.memmap(tmp_path / "features.bin", np.float16, mode="r", shape=(50, 1, 3000))[10:].reshape(-1, 3000)
    rows = np.array([[3, 39], [0, 17]])
    np.testing.assert_array_equal(take_rows(mapped, rows), written[10:][rows])
    assert not announced
    monkeypatch.setattr("robomimic_frozen.features.rows._FITS_IN_MEMORY", 0)
    np.testing.assert_array_equal(take_rows(mapped, rows), written[10:][rows])
    for row, (option, start, length) in zip(rows.flat, announced, strict=True):
        first = 6000 * (10 + row)
        assert option == mmap.MADV_WILLNEED and start % mmap.PAGESIZE == 0
        assert start <= first and first + 6000 == start + length


def test_a_file_system_that_cannot_map_files_is_named_with_what_to_do(dataset, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(np, "memmap", refuse)
    with pytest.raises(CacheUnavailableError, match=r"No such device.*; set algo.feature_cache.dir to another folder"):
        FeatureStore(tmp_path / "cache").get(source(dataset), spec(), CPU)


def test_rows_of_a_large_cache_of_int8_are_announced_too(dataset, tmp_path, monkeypatch):
    features = FeatureStore(tmp_path / "cache").get(source(dataset), spec(dtype="int8"), CPU).features
    expected = features[:]
    announced = []
    monkeypatch.setattr("robomimic_frozen.features.rows._FITS_IN_MEMORY", 0)
    monkeypatch.setattr("robomimic_frozen.features.rows._read_ahead", lambda array, rows: announced.append(rows.size))
    np.testing.assert_array_equal(features[:], expected)
    assert announced == [12 * 3]
