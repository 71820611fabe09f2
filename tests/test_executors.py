"""Tasks that are computed where they may: in order, again after a worker has died, with the same results everywhere."""

import contextlib
import functools
import importlib.metadata
import json
import operator
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import ray
import torch
import worker_functions
from random_images import write_random_images
from untrained import HORIZON, without_times, write_untrained_checkpoint
from worker_functions import die_at_first, die_or_raise, logged, raise_config_error

from robomimic_frozen import cli
from robomimic_frozen.encoders import EncoderSpec
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation.evaluate import evaluate
from robomimic_frozen.features.store import ensure_features
from robomimic_frozen.utils.parallel import Processes, ThisProcess, WorkerDiedError, ordered_map, retrying_map
from robomimic_frozen.utils.ray_cluster import RayCluster

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cluster():
    """Three nodes, of which that of the driver computes nothing."""
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(worker_functions)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def joined(cluster):
    with contextlib.closing(RayCluster(address=cluster.address)) as executor:
        yield executor


@pytest.fixture
def two_nodes(cluster, joined):
    """Both nodes that compute, also where a test before this one has removed one."""
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    return joined


@pytest.fixture(params=["processes", "ray"])
def executor(request):
    return Processes(2) if request.param == "processes" else request.getfixturevalue("two_nodes")


def test_results_come_in_order(executor):
    assert executor.workers == 2
    assert list(ordered_map(operator.neg, range(7), executor)) == [0, -1, -2, -3, -4, -5, -6]


def test_the_first_of_the_results_that_fails_ends_it(executor):
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(functools.partial(operator.truediv, 1), range(3), executor))


def test_a_worker_that_dies_ends_results_in_order():
    with pytest.raises(WorkerDiedError, match="exit code 0"):
        list(ordered_map(os._exit, [0], Processes(1)))


def test_what_fails_twice_is_reported_and_the_rest_goes_on(executor):
    results = dict(retrying_map(die_or_raise, range(5), executor))
    assert {index: results[index] for index in (0, 3, 4)} == {0: 0, 3: 30, 4: 40}
    assert isinstance(results[1], WorkerDiedError)
    assert "exit code 7" in str(results[1]) or not isinstance(executor, Processes)
    assert isinstance(results[2], ValueError) and "physics is unstable" in str(results[2])


@pytest.mark.fault("workers that die one after the other before they do anything", "others are started, and do all tasks")
def test_workers_that_die_one_after_the_other_before_they_do_anything_are_replaced(executor, log):
    # As where Ray places a task on a node that is lost, and again before it notices.
    assert dict(retrying_map(functools.partial(die_at_first, log, 3), range(3), executor)) == {0: 0, 1: -1, 2: -2}


def test_workers_that_never_get_ready_end_in_an_error(log):
    results = dict(retrying_map(functools.partial(die_at_first, log, 100), range(2), Processes(1)))
    assert ["exit code 9" in str(results[index]) for index in range(2)] == [True, True]


def test_an_error_that_a_second_attempt_cannot_mend_ends_it(executor):
    with pytest.raises(ConfigError, match="no such thing"):
        list(retrying_map(raise_config_error, range(3), executor))


def test_each_task_is_said_to_have_begun(executor):
    begun = []
    done = [index for index, _ in retrying_map(operator.neg, range(5), executor, on_start=begun.append)]
    assert sorted(begun) == sorted(done) == [0, 1, 2, 3, 4]


class Recording:
    """An executor that writes down which task was begun where, and removes a node when the first one is done."""

    def __init__(self, executor, folder, cluster=None):
        self.executor, self.folder, self.cluster = executor, Path(folder), cluster
        self.workers, self.threads = executor.workers, executor.threads
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def session(self):
        with self.executor.session() as call:

            def recorded(function, item):
                result = call(functools.partial(logged, self.folder, function), item)
                with self.lock:
                    if self.cluster is not None:
                        self.cluster.remove_node(next(iter(self.cluster.worker_nodes)), allow_graceful=False)
                        self.cluster = None
                return result

            yield recorded

    @property
    def begun(self):
        """Task -> how often it was begun."""
        return {path.name: len(path.read_text().split()) for path in self.folder.glob("begun_*")}


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@pytest.fixture
def images(tmp_path):
    """Eight demos of random images: their features take a second or so each."""
    return write_random_images(tmp_path / "images.hdf5", range(40, 48), 64)


SPEC = EncoderSpec(pretrained_encoder=False, image_shape=(3, 64, 64), crop_shape=(56, 56), cached_crops=1)


@pytest.mark.fault("a node of a Ray cluster removed during feature extraction", "only its tasks repeated, the cache as that of one process")
def test_a_node_lost_during_extraction_changes_no_byte_of_the_cache(cluster, two_nodes, images, log, tmp_path):
    here = ensure_features(SPEC, images, root=tmp_path / "here", device=CPU).folder
    recording = Recording(two_nodes, log, cluster)
    there = ensure_features(SPEC, images, recording, tmp_path / "there", CPU).folder
    assert recording.cluster is None  # a node was removed
    assert (here / "features.bin").read_bytes() == (there / "features.bin").read_bytes()
    demos = [json.loads((folder / "metadata.json").read_text())["demos"] for folder in (here, there)]
    assert demos[0] == demos[1]
    assert len(recording.begun) == 8 and sum(recording.begun.values()) <= 9


@pytest.mark.sim
@pytest.mark.fault("a node of a Ray cluster removed during an evaluation", "only its episodes repeated, results as those of processes")
def test_a_node_lost_during_an_evaluation_changes_no_outcome(cluster, two_nodes, lift_dataset, log, tmp_path):
    checkpoint = write_untrained_checkpoint(lift_dataset, tmp_path / "model_epoch_1.pth")
    arguments = {"num_episodes": 3, "horizon": HORIZON, "seed": 5, "num_videos": 1}
    evaluate([checkpoint], executor=ThisProcess(), out=tmp_path / "here", **arguments)
    recording = Recording(two_nodes, log, cluster)
    evaluate([checkpoint], executor=recording, out=tmp_path / "there", **arguments)
    assert recording.cluster is None
    assert without_times(tmp_path / "here") == without_times(tmp_path / "there")
    assert len(recording.begun) == 3 and sum(recording.begun.values()) <= 4
    assert list((tmp_path / "there").rglob("seed_5.mp4"))


def test_ray_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"needs Ray: pip install 'robomimic_frozen\[ray\]'"):
        RayCluster()


def test_a_worker_that_no_node_has_room_for_is_refused(cluster):
    with pytest.raises(ConfigError, match="no node of the Ray cluster has 64 CPUs, 0 GPUs and 0 GB for a worker"):
        RayCluster(address=cluster.address, cpus=64)


def test_a_node_with_another_package_is_named(cluster, two_nodes, monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "robosuite" else version(name))
    with pytest.raises(ConfigError, match=r"Ray node [\d.]+ has robosuite 1\..*; install there what is here, robosuite 0.0.1"):
        RayCluster(address=cluster.address)


def test_a_cluster_with_another_version_of_ray_is_refused(cluster):
    program = (
        "import ray; ray.__version__ = '0.0.1'\n"
        "from robomimic_frozen.utils.ray_cluster import RayCluster\n"
        f"try: RayCluster(address={cluster.address!r})\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    printed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout
    expected = r"^ConfigError the Ray cluster [\d.:]+ cannot be used \(.*; check that .* same versions of Ray and Python"
    assert re.search(expected, printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--executor", "ray", "--ray-address", "127.0.0.1:9"], "the Ray cluster 127.0.0.1:9 cannot be used"),
        (["--ray-address", "auto"], "--ray-address is of use with --executor ray only"),
        (["--worker-cpus", "2"], "--worker-cpus is of use with --executor ray only"),
    ],
)
def test_bad_flags_are_one_line(flags, words, tmp_path, capfd):
    assert cli.main(["eval", str(tmp_path / "absent.pth"), "--out", str(tmp_path / "out"), *flags]) == 1
    assert words in capfd.readouterr().err.strip().splitlines()[-1]
