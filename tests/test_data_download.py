"""Released demonstrations from a hub on this machine, whole and in pieces, right and wrong, and from none."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, serving

from robomimic_frozen.data.sources import HUB_REPO, RELEASED, DatasetSource, default_view, find_source
from robomimic_frozen.errors import DatasetError
from robomimic_frozen.plugins import hookimpl, plugin_manager

FETCH = "import sys; from robomimic_frozen.data.sources import fetch_released; print(fetch_released(sys.argv[1]))"
CONTENT = bytes(range(256)) * 4096
NOWHERE = "http://127.0.0.1:9"
REPO, FILE = f"datasets/{HUB_REPO}", RELEASED["lift-mh"]
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub():
    with serving(Hub({REPO: {FILE: CONTENT}})) as hub:
        yield hub


@pytest.fixture
def fetch(tmp_path, hub):
    """Fetches in a process of its own, for huggingface_hub reads its settings when it is imported."""

    def fetch(name="lift-mh", **settings):
        environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": hub.url, "NO_PROXY": "*", **settings}
        return subprocess.run([sys.executable, "-c", FETCH, name], env=environment, capture_output=True, text=True)

    return fetch


def path_of(result) -> Path:
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


def error_of(result) -> str:
    assert result.returncode == 1, result.stdout
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("robomimic_frozen.errors.DatasetError: ")
    return last


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != "CACHEDIR.TAG"}


def test_the_released_sets_are_those_of_robomimic():
    assert len(RELEASED) == 9
    assert RELEASED["tool_hang-ph"] == "v1.5/tool_hang/ph/demo_v15.hdf5"
    assert "tool_hang-mh" not in RELEASED
    assert default_view("TwoArmTransport")[0][1] == "shouldercamera1"
    assert default_view("ToolHang") == (("sideview", "robot0_eye_in_hand"), 240)
    assert default_view("NutAssemblySquare") == (("agentview", "robot0_eye_in_hand"), 84)


def test_a_file_is_downloaded_with_a_progress_bar_and_once(fetch, hub):
    first, second = fetch(TQDM_POSITION="-1"), fetch()  # which is to say that stderr is a terminal
    assert path_of(first).read_bytes() == CONTENT
    # The version that robomimic 0.5 asks for shows it on nothing but a real terminal.
    assert "100%" in first.stderr or importlib.metadata.version("huggingface_hub").startswith("0.23.")
    assert path_of(second) == path_of(first)
    assert len(hub.ranges) == 1


@pytest.mark.parametrize("settings", [{"HF_ENDPOINT": NOWHERE}, {"HF_HUB_OFFLINE": "1"}], ids=["no network", "offline mode"])
def test_without_a_hub_the_cache_is_used_and_said_to_be(fetch, settings):
    path = path_of(fetch())
    again = fetch(**settings)
    assert path_of(again) == path
    assert "as it was downloaded earlier" in again.stderr


@pytest.mark.fault("no network, with nothing downloaded before", "one line that says what to do")
@pytest.mark.parametrize("settings", [{"HF_ENDPOINT": NOWHERE}, {"HF_HUB_OFFLINE": "1"}], ids=["no network", "offline mode"])
def test_with_neither_hub_nor_cache_it_tells_what_to_do(fetch, settings):
    assert "download http" in error_of(fetch(**settings))


@pytest.mark.fault("a download whose connection breaks", "taken up where it broke, the file is whole")
def test_a_broken_connection_is_taken_up_where_it_broke(fetch):
    chunk = 10 * 2**20  # that huggingface_hub writes at once
    with serving(Hub({REPO: {FILE: CONTENT * 12}}, breaks_after=chunk + 1000)) as hub:
        result = fetch(HF_ENDPOINT=hub.url)
        if result.returncode:  # huggingface_hub before 1.0 leaves the rest to the next run, later ones do not
            result = fetch(HF_ENDPOINT=hub.url)
    assert path_of(result).read_bytes() == CONTENT * 12
    whole, rest = hub.ranges
    assert whole == "" and int(rest.removeprefix("bytes=").removesuffix("-")) >= chunk


@pytest.mark.fault("a download with another sha256", "removed, said in one line; the next run downloads it again")
@pytest.mark.parametrize("offline", ["0", "1"])
def test_what_has_another_hash_is_removed_and_downloaded_again(fetch, offline, tmp_path):
    path = path_of(fetch())
    damaged = bytearray(CONTENT)
    damaged[5000] ^= 1
    path.write_bytes(damaged)
    assert "is damaged" in error_of(fetch(HF_HUB_OFFLINE=offline))
    assert files(tmp_path / "hub") == {"main"}  # which commit that is
    assert path_of(fetch()).read_bytes() == CONTENT


def test_a_hub_that_sends_something_else_is_refused(fetch, hub, tmp_path):
    hub.repos[REPO][FILE], hub.sha256[FILE] = bytes(len(CONTENT)), SHA256
    assert "is damaged" in error_of(fetch())
    assert files(tmp_path / "hub") == {"main"}


@pytest.mark.fault("a hub that answers 404", "one line that names the address")
def test_a_file_that_the_hub_lacks(fetch):
    assert "404" in error_of(fetch("can-mh"))


@pytest.mark.fault("a hub that names a path in place of a sha256", "refused before anything is written")
@pytest.mark.parametrize("sha256", ["../../../../escaped", "abc"])
def test_a_hub_that_names_no_sha256_is_refused_before_anything_is_written(fetch, hub, sha256, tmp_path):
    hub.sha256[FILE] = sha256
    assert f"the sha256 of lift-mh is not known, only {sha256!r}" in error_of(fetch())
    assert files(tmp_path) == set()


@pytest.mark.parametrize("where", ["endpoint", "storage"])
def test_what_does_not_come_by_https_is_refused(fetch, hub, where, tmp_path):
    if where == "storage":
        hub.storage = "http://example.org/demo_v15.hdf5"
    settings = {"HF_ENDPOINT": "http://example.org"} if where == "endpoint" else {}
    assert "refusing to download from http://example.org/" in error_of(fetch(**settings))
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("lift_mh", "did you mean 'lift-mh'"),
        ("../lift-mh/../../etc", "neither a file nor a released set"),
        ("", "the sets are lift-ph"),
        ("tool_hang-mh", "did you mean 'tool_hang-ph'"),
    ],
)
def test_sources_that_are_none(source, words):
    with pytest.raises(DatasetError, match=words):
        find_source(source)


def test_a_file_of_your_own_is_taken_as_it_is(tmp_path):
    (tmp_path / "demo.hdf5").touch()
    assert find_source(str(tmp_path / "demo.hdf5")) == tmp_path / "demo.hdf5"


class LabSets:
    """A plugin; a package would name a module of such functions in the entry-point group `robomimic_frozen`."""

    def __init__(self, folder):
        self.folder = folder

    @hookimpl
    def dataset_sources(self):
        return [DatasetSource("lab-lift", "what our lab recorded of Lift", fetch=self.copy)]

    def copy(self):
        path = self.folder / "lab.hdf5"
        path.write_bytes(b"demonstrations")  # from wherever the lab keeps them
        return path


def test_a_set_of_a_plugin_is_found_by_name(tmp_path, request):
    plugin = LabSets(tmp_path)
    plugin_manager().register(plugin)
    request.addfinalizer(lambda: plugin_manager().unregister(plugin))
    assert find_source("lab-lift").read_bytes() == b"demonstrations"
    with pytest.raises(DatasetError, match="did you mean 'lab-lift'"):
        find_source("lab_lift")
