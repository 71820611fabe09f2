"""Datasets and caches at URLs: a store of the S3 kind, on good days and on bad ones."""

import functools

import boto3
import numpy as np
import pytest
import s3fs
import torch
from flaky_proxy import flaky
from moto.server import ThreadedMotoServer
from random_images import KEY, write_random_images
from worker_functions import lengths_of

from robomimic_frozen import cli
from robomimic_frozen.encoders import EncoderSpec
from robomimic_frozen.errors import CacheUnavailableError, ConfigError, RemoteFileError
from robomimic_frozen.features.source import ImageSource
from robomimic_frozen.features.store import FeatureStore
from robomimic_frozen.utils.parallel import Processes, ordered_map
from robomimic_frozen.utils.urls import exists, local_path, upload_to

CPU = torch.device("cpu")
BUCKET = "robots"


@pytest.fixture(scope="module")
def server():
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def s3(server, monkeypatch):
    """A client of a new bucket, which this process and its workers find by environment variables."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server}", "NO_PROXY": "*", "AWS_MAX_ATTEMPTS": "8",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=item["Key"])
    client.delete_bucket(Bucket=BUCKET)
    s3fs.S3FileSystem.clear_instance_cache()


def keys(s3):
    return {item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())}


@pytest.fixture
def source(tmp_path):
    return write_random_images(tmp_path / "images.hdf5", [4, 4, 4], 32)


@pytest.fixture
def dataset(source):
    return source.path


@pytest.fixture(scope="module")
def extractor():
    return EncoderSpec(pretrained_encoder=False, image_shape=(3, 32, 32))


@pytest.fixture
def nothing_is_extracted(monkeypatch):
    def forbid():
        monkeypatch.setattr(FeatureStore, "_build", lambda *_: pytest.fail("features were extracted again"))

    return forbid


@pytest.mark.parametrize("url", ["s3://robots/caches", "memory://caches", "file://{tmp}/caches"])
def test_what_one_machine_has_extracted_another_one_fetches(url, s3, source, extractor, tmp_path, nothing_is_extracted):
    url = url.format(tmp=tmp_path)
    first = FeatureStore(url, local=tmp_path / "one").get(source, extractor, CPU)
    nothing_is_extracted()
    second = FeatureStore(url, local=tmp_path / "other").get(source, extractor, CPU)
    assert second.folder == tmp_path / "other" / first.folder.name
    np.testing.assert_array_equal(first.features, second.features)


@pytest.mark.fault("a server of caches that answers 503, breaks connections and stops half-way", "tried again; complete in the end")
def test_a_store_on_a_bad_day_gets_and_gives_the_same_bytes(server, s3, source, extractor, tmp_path, monkeypatch, nothing_is_extracted):
    with flaky(server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        first = FeatureStore("s3://robots/caches", local=tmp_path / "one").get(source, extractor, CPU)
        nothing_is_extracted()
        second = FeatureStore("s3://robots/caches", local=tmp_path / "other").get(source, extractor, CPU)
        np.testing.assert_array_equal(first.features, second.features)
        assert proxy.failures >= 3
        writes = [path for method, path in proxy.requests if method == "PUT"]
        assert writes and "metadata.json" in writes[-1]


@pytest.mark.fault("the writer of a shared cache gone before the last file is written", "no cache for anyone; the next one writes it")
def test_a_cache_whose_writer_died_is_not_seen_and_is_written_again(s3, source, extractor, tmp_path, monkeypatch):
    def die_at_the_last_file(self, path, *args, **kwargs):
        if path.endswith("metadata.json"):
            raise OSError("the machine went away")

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "pipe_file", die_at_the_last_file)
        with pytest.raises(CacheUnavailableError, match=r"s3://robots/caches cannot be written \(the machine went away\); check"):
            FeatureStore("s3://robots/caches", local=tmp_path / "one").get(source, extractor, CPU)
    store = FeatureStore("s3://robots/caches", local=tmp_path / "one")
    (features,) = keys(s3)
    key = features.split("/")[1]
    assert features.endswith(".bin") and not store.remote.has(key)
    store.get(source, extractor, CPU)
    assert store.remote.has(key)


def test_a_store_that_may_not_be_written_to_is_named_before_anything_is_extracted(
    s3, source, extractor, tmp_path, monkeypatch, nothing_is_extracted
):
    def refuse(self, *args, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", refuse)
    nothing_is_extracted()
    with pytest.raises(CacheUnavailableError, match=r"s3://robots/caches cannot be written \(Access Denied\); check .* your permissions"):
        FeatureStore("s3://robots/caches", local=tmp_path / "one").get(source, extractor, CPU)


def test_a_damaged_cache_in_the_store_is_extracted_and_written_again(s3, source, extractor, tmp_path, caplog, nothing_is_extracted):
    url = "s3://robots/caches"
    FeatureStore(url, local=tmp_path / "one").get(source, extractor, CPU)
    (features,) = (key for key in keys(s3) if key.endswith(".bin"))
    content = bytearray(s3.get_object(Bucket=BUCKET, Key=features)["Body"].read())
    content[100] ^= 1
    s3.put_object(Bucket=BUCKET, Key=features, Body=bytes(content))
    FeatureStore(url, local=tmp_path / "other").get(source, extractor, CPU)
    assert "is damaged" in caplog.text
    nothing_is_extracted()
    FeatureStore(url, local=tmp_path / "third").get(source, extractor, CPU)


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("s3://absent/caches", CacheUnavailableError, "feature cache at s3://absent/caches cannot be written .*; check the URL"),
        ("nowhere://caches", ConfigError, "nowhere://caches cannot be used .*Protocol not known"),
        ("gs://robots/caches", ConfigError, "gs://robots/caches cannot be used: .*gcsfs"),
    ],
)
def test_a_store_that_cannot_be_used_is_named_before_anything_is_extracted(
    url, error, words, s3, source, extractor, nothing_is_extracted, tmp_path
):
    nothing_is_extracted()
    with pytest.raises(error, match=words):
        FeatureStore(url, local=tmp_path / "one").get(source, extractor, CPU)


def test_a_dataset_at_a_url_is_copied_once_and_again_when_it_changes(s3, dataset, tmp_path):
    s3.upload_file(str(dataset), BUCKET, "lift.hdf5")
    copy = local_path("s3://robots/lift.hdf5", tmp_path / "here")
    assert copy.read_bytes() == dataset.read_bytes()
    assert copy.name.endswith("-lift.hdf5")
    before = copy.stat()
    assert local_path("s3://robots/lift.hdf5", tmp_path / "here") == copy and copy.stat() == before
    s3.put_object(Bucket=BUCKET, Key="lift.hdf5", Body=b"something else")
    assert local_path("s3://robots/lift.hdf5", tmp_path / "here").read_bytes() == b"something else"


def test_workers_fetch_the_dataset_that_they_open(s3, dataset, tmp_path, monkeypatch):
    s3.upload_file(str(dataset), BUCKET, "lift.hdf5")
    monkeypatch.setenv("HOME", str(tmp_path))  # where copies lie
    source = ImageSource("s3://robots/lift.hdf5", ("demo_0",), KEY)
    assert list(ordered_map(functools.partial(lengths_of, source), [None], Processes(1))) == [[4]]


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("s3://robots/absent.hdf5", RemoteFileError, "s3://robots/absent.hdf5 does not exist"),
        ("gs://robots/lift.hdf5", ConfigError, "gs://robots/lift.hdf5 cannot be used: .*gcsfs"),
    ],
)
def test_a_dataset_that_cannot_be_had_is_named(url, error, words, s3, tmp_path):
    with pytest.raises(error, match=words):
        local_path(url, tmp_path)


@pytest.mark.parametrize("url", ["s3://robots/new/lift.hdf5", "memory://new/lift.hdf5", "file://{tmp}/new/lift.hdf5"])
def test_a_file_made_for_a_url_is_there_when_it_is_complete(url, s3, tmp_path):
    url = url.format(tmp=tmp_path)
    with upload_to(url, tmp_path / "here") as path:
        assert path.name == "lift.hdf5" and not exists(url)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"features" * 1000)
        assert not exists(url)
    assert local_path(url, tmp_path / "there").read_bytes() == b"features" * 1000
    assert not path.exists()


def test_a_url_that_cannot_be_written_to_is_named_before_anything_is_made(s3, tmp_path):
    making = upload_to("s3://absent/lift.hdf5", tmp_path)
    with pytest.raises(RemoteFileError, match="s3://absent/lift.hdf5 cannot be written .*; check the URL"):
        making.__enter__()


@pytest.mark.fault("an object store that cannot be written to any more when a dataset is rendered", "the file stays on this machine")
def test_what_does_not_get_through_stays_on_this_machine(s3, tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(s3fs.S3FileSystem, "put_file", refuse)
    making = upload_to("s3://robots/lift.hdf5", tmp_path)
    path = making.__enter__()
    path.parent.mkdir(parents=True)
    path.write_bytes(b"features")
    with pytest.raises(RemoteFileError, match=r"cannot be written \(Access Denied\); what was made lies in .*lift.hdf5: copy it there"):
        making.__exit__(None, None, None)
    assert path.read_bytes() == b"features"


def test_caches_at_a_url_are_listed(s3, source, extractor, tmp_path, capsys):
    key = FeatureStore("s3://robots/caches", local=tmp_path / "one").get(source, extractor, CPU).folder.name
    s3.put_object(Bucket=BUCKET, Key="caches/unfinished/0123.bin", Body=b"half")
    assert cli.main(["cache", "list", "--dir", "s3://robots/caches"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(key[:12]) and "resnet18, 0 crops, float16, 3 demos, 12 frames of obs/agentview_image" in lines[0]
    assert lines[1].startswith("1 caches")


@pytest.mark.parametrize("action", ["verify", "prune"])
def test_caches_at_a_url_are_only_listed(action, capsys):
    assert cli.main(["cache", action, "--dir", "s3://robots/caches"]) == 1
    assert f"s3://robots/caches is a URL, of which caches are only listed; {action} a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["demos", "--out", "s3://robots/lift.hdf5"], ["eval", "absent.pth", "--out", "s3://robots/eval"], ["study", "s.yaml", "--out", "s3://r/s"]],
)
def test_results_that_go_to_folders_only_are_not_written_to_a_url(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 1
    assert "is a URL, and this is written to a folder; choose one" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
