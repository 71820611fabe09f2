"""Datasets whose structure was mutated: what `doctor` and the check before training say of them, and whether it is true."""

import contextlib
import datetime
import io
import json
import uuid

import h5py
import numpy as np
import pytest
import robomimic.utils.obs_utils as ObsUtils
import robomimic.utils.train_utils as TrainUtils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from policies import make_config
from robomimic_versions import as_train_data
from small_datasets import IMAGE, POSITION, write_dataset

from robomimic_frozen.config import Selection
from robomimic_frozen.doctor.examine import examine_file
from robomimic_frozen.doctor.findings import Severity, as_json, as_text, exit_status
from robomimic_frozen.errors import DatasetError
from robomimic_frozen.features.rules import Needs
from robomimic_frozen.features.source import check_dataset
from robomimic_frozen.utils.files import sha256_of

OBS = f"obs/{IMAGE}"
DEMO = ("", "/actions", "/states", "/rewards", "/dones", "/obs", f"/{OBS}", f"/obs/{POSITION}")
PATHS = ["data", "mask", "mask/train", "mask/valid", *(f"data/demo_{index}{path}" for index in (0, 2) for path in DEMO)]
NAMES = ["demo_7", "demo_x", "obs", "next_obs", "actions", "démo", "\N{SNOWMAN}", "demo_\u202e1", " ", "a\nb\x1b[2J", "x" * 300]
ATTRIBUTES = [
    "", "four", "{", "[]", "null", "1e999", '{"env_name": [], "type": {}, "env_kwargs": 3, "env_version": {}}', "[" * 100_000, b"\xff\xfe",
    -1, 0, 3, 2**62, 4.0, np.nan, [4], [4, 4], np.zeros((2, 0)), True, h5py.Empty("f8"), h5py.Empty("S1"),
]
VALUES = [
    3, 2.5, "words", [], ["demo_0", "demo_99"], [b"\xff"], np.zeros(0), np.zeros((4, 0)), np.zeros((0, 7)), np.zeros((4, 1, 1)),
    np.full(4, np.nan), np.full((4, 7), np.inf), np.zeros((4, 7), bool), np.zeros((4, 7), "c16"), np.zeros((4, 7), "f2"),
    np.zeros((4, 8, 8, 3), "u1"), np.ones((4, 3, 8, 8), "f4"), np.zeros((4, 8, 8, 3), ">i8"), np.zeros((1,) * 20), np.zeros(4, "i4,f8"),
    h5py.Empty("f8"), h5py.SoftLink("/nowhere"), h5py.SoftLink("."), h5py.SoftLink("/data"), h5py.ExternalLink("gone.hdf5", "/data"),
    h5py.ExternalLink(".", "/"), np.dtype("f8"), np.dtype([("x", "f4")]),
]  # fmt: skip


def delete(file, path, _):
    del file[path]


def rename(file, path, draw):
    file.move(path, f"{path.rpartition('/')[0]}/{draw(st.sampled_from(NAMES))}")


def put(file, path, draw):
    value = draw(st.sampled_from(VALUES))
    del file[path]
    file[path] = value


def make_group(file, path, draw):
    del file[path]
    if draw(st.booleans()):
        file.create_group(f"{path}/{draw(st.sampled_from(NAMES))}")
    else:
        file.create_group(path)


def link(file, path, draw):
    """To something else in the file, which may hold the link itself."""
    other = draw(st.sampled_from(PATHS))
    if other in file:
        target = file[other]
        file.pop(path, None)
        file[path] = target


def set_attribute(file, path, draw):
    file[path].attrs[draw(st.sampled_from(["env_args", "num_samples", "total", "model_file"]))] = draw(st.sampled_from(ATTRIBUTES))


def delete_attributes(file, path, _):
    for name in file[path].attrs:
        del file[path].attrs[name]


def change_numbers(file, path, draw):
    values = file[path][()]
    change = draw(st.sampled_from([np.transpose, np.ravel, np.float32, np.int64, lambda x: x[:-1], lambda x: x[None], lambda x: x[:0]]))
    del file[path]
    file[path] = change(values)


def never_written(file, path, draw):
    shape = draw(st.sampled_from([(4, 7), (4, 8, 8, 3), (2**40, 7), (2**20, 2**20, 2**20), (4,)]))
    dtype, chunks = draw(st.sampled_from(["f8", "u1", "S6", h5py.string_dtype()])), draw(st.sampled_from([True, None]))
    del file[path]
    file.create_dataset(path, shape, dtype, chunks=chunks)


def virtual(file, path, draw):
    layout = h5py.VirtualLayout((2**40, 7), "f8")
    layout[:4] = h5py.VirtualSource(draw(st.sampled_from([".", "gone.hdf5"])), "data/demo_0/actions", (4, 7))
    del file[path]
    file.create_virtual_dataset(path, layout)


MUTATIONS = [delete, rename, put, make_group, link, set_attribute, delete_attributes, change_numbers, never_written, virtual]


def mutate(file, draw):
    for _ in range(draw(st.integers(1, 3))):
        mutation, path = draw(st.sampled_from(MUTATIONS)), draw(st.sampled_from(PATHS))
        # What an earlier mutation has left no room for.
        with contextlib.suppress(KeyError, ValueError, TypeError, RuntimeError, OSError, AttributeError, MemoryError):
            mutation(file, path, draw)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("whole") / "whole.hdf5")


def passes_the_check_before_training(path):
    try:
        check_dataset(Selection(str(path), "train"), Needs([OBS, f"obs/{POSITION}"], images=frozenset([OBS])))
    except DatasetError:
        return False
    return True


def read_with_robomimic(path):
    """All sequences that robomimic itself makes of the demos in `train`."""
    config = make_config()
    config.algo.feature_cache.enabled = False
    config.train.data = as_train_data(path)
    with contextlib.redirect_stdout(io.StringIO()):
        ObsUtils.initialize_obs_utils_with_config(config)
        dataset = TrainUtils.dataset_factory(config, obs_keys=[IMAGE, POSITION], filter_by_attribute="train")
        return [dataset[index] for index in range(len(dataset))]


@pytest.mark.fault(
    "a dataset whose structure is mutated, given to `doctor` and to the check before training",
    "findings and one-line errors; what passes can be trained on; the file as it was",
    times=200,
)
@settings(
    max_examples=200, derandomize=True, database=None, deadline=datetime.timedelta(seconds=5),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(data=st.data())
def test_a_mutated_dataset_is_understood_and_left_alone(whole, data):
    path = whole.with_name(f"{uuid.uuid4()}.hdf5")  # a mutated file may still be open
    path.write_bytes(whole.read_bytes())
    with h5py.File(path, "a") as file:
        mutate(file, data.draw)
    before = sha256_of(path)

    examination = examine_file(path)
    is_fit = passes_the_check_before_training(path)

    assert sha256_of(path) == before
    assert as_text([examination]).replace("\n", "").isprintable()
    assert json.loads(as_json([examination]))["status"] == exit_status([examination])
    if is_fit and all(finding.severity != Severity.ERROR for finding in examination.findings):
        for sequence in read_with_robomimic(path):
            assert np.isfinite(sequence["actions"]).all()
            assert sequence["obs"][IMAGE].shape[1:] == (8, 8, 3) and sequence["obs"][POSITION].shape[1:] == (3,)
