"""What is said of repositories that the Hugging Face hub does not give."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hub_server import Hub, serving

FETCH = """
import sys
from huggingface_hub import snapshot_download
from robomimic_frozen.utils.hub import hub_errors_named
with hub_errors_named("it could not be downloaded", "run again"):
    print(open(snapshot_download(sys.argv[1], allow_patterns="*.json") + "/a.json").read())
"""


@pytest.fixture
def fetch(tmp_path):
    """Fetches in a process of its own, for huggingface_hub reads its settings when it is imported."""

    def fetch(name, **settings):
        with serving(Hub({"lab/here": {"a.json": b"{}", "b.bin": b"0"}, "lab/gated": {}}, gated={"lab/gated"})) as hub:
            environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "NO_PROXY": "*", **settings}
            return hub, subprocess.run([sys.executable, "-c", FETCH, name], env=environment, capture_output=True, text=True)

    return fetch


def test_what_is_wanted_of_a_repository_is_downloaded(fetch):
    hub, result = fetch("lab/here")
    assert result.stdout == "{}\n", result.stderr
    assert hub.fetched == ["a.json"]


@pytest.mark.fault("a repository of the hub that is missing, private or gated; no network; offline mode", "one line that says what to do")
@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("lab/missing", {}, "it could not be downloaded (the hub has no such repository, or it is private); correct its name, or log in"),
        ("lab/gated", {}, "it could not be downloaded (its owners must let you in); ask for access"),
        ("no name", {}, "run again"),
        ("lab/here", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "refused"),
        ("lab/here", {"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
        ("lab/here", {"HF_ENDPOINT": "http://example.org"}, "refusing to download from http://example.org, which is not https"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(fetch, name, settings, words):
    _, result = fetch(name, **settings)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("robomimic_frozen.errors.RemoteFileError: it could not be") or "refusing" in last
    assert words in last
