"""Raw demonstrations that have a name: those that robomimic has released, and what plugins add."""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from robomimic_frozen.errors import DatasetError, did_you_mean
from robomimic_frozen.plugins import hookimpl, provided
from robomimic_frozen.utils.files import sha256_of
from robomimic_frozen.utils.hub import hub_errors_named, require_https
from robomimic_frozen.utils.kinds import what_is_there
from robomimic_frozen.utils.urls import is_url

logger = logging.getLogger(__name__)

HUB_REPO: Final = "robomimic/robomimic_datasets"

_PEOPLE: Final = {"ph": "a proficient human's", "mh": "multiple humans'"}
_TASKS: Final = {"ph": ("lift", "can", "square", "transport", "tool_hang"), "mh": ("lift", "can", "square", "transport")}

RELEASED: Final[Mapping[str, str]] = {
    f"{task}-{people}": f"v1.5/{task}/{people}/demo_v15.hdf5" for people, tasks in _TASKS.items() for task in tasks
}
"""Name of a set for robosuite 1.5 (https://robomimic.github.io/docs/datasets) -> its file in the hub's repository."""


@dataclass(frozen=True)
class DatasetSource:
    """A raw file that can be had by name; `fetch` brings it here if need be and returns its path. Raises DatasetError."""

    name: str
    summary: str
    fetch: Callable[[], Path]


@hookimpl
def dataset_sources() -> list[DatasetSource]:
    """Return the sets that robomimic has released."""
    described = ((name, *name.rsplit("-", 1)) for name in RELEASED)
    return [
        DatasetSource(name, f"{_PEOPLE[people]} demonstrations of {task}, released by robomimic", functools.partial(fetch_released, name))
        for name, task, people in described
    ]


def find_source(source: str) -> str | Path:
    """Return where the raw file is that `source` names: a file, a URL, which is returned as it is, or a set, which is fetched if need be.

    Raises:
        DatasetError: it names none of these; or as the set's `fetch`.
    """
    if is_url(source):
        return source
    if Path(source).is_file():
        return Path(source)
    sources = {known.name: known for known in provided("dataset_sources")}
    if source not in sources:
        if source and Path(source).is_dir():
            raise DatasetError("{} {}; {}".format(source, *what_is_there(Path(source))))
        hint = did_you_mean(source, sources, f"the sets are {', '.join(sources)}")
        raise DatasetError(f"{source} is neither a file nor a released set; {hint}")
    return sources[source].fetch()


def default_view(env_name: str) -> tuple[tuple[str, ...], int]:
    """Return the cameras and the image size of robomimic's own image datasets (its extract_obs_from_raw_datasets.sh)."""
    views = {
        "TwoArmTransport": (("shouldercamera0", "shouldercamera1", "robot0_eye_in_hand", "robot1_eye_in_hand"), 84),
        "ToolHang": (("sideview", "robot0_eye_in_hand"), 240),
    }
    return views.get(env_name, (("agentview", "robot0_eye_in_hand"), 84))


def fetch_released(name: str) -> Path:
    """Return the raw file of a released set, downloaded to huggingface_hub's cache where it is not there yet.

    huggingface_hub's own settings count (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, ...). It sees to the size of the file; the sha256 that
    the hub names is compared here.

    Raises:
        DatasetError: it cannot be had; the hub would send it by something else than https; its content is another one.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    url = hf_hub_url(HUB_REPO, RELEASED[name], repo_type="dataset")
    unavailable, elsewhere = f"{name} could not be downloaded", f"run again, or download {url} elsewhere and name the file in place of it"
    silence: DatasetError | None = None
    require_https(url, DatasetError)
    try:
        with hub_errors_named(unavailable, elsewhere, DatasetError):
            metadata = get_hf_file_metadata(url)
    except DatasetError as error:
        silence = error
    else:
        require_https(metadata.location, DatasetError)
        sha256 = _known_sha256(name, metadata.etag)  # before anything is written: huggingface_hub makes a file name of it
    try:
        with hub_errors_named(unavailable, elsewhere, DatasetError):
            path = Path(hf_hub_download(HUB_REPO, RELEASED[name], repo_type="dataset", local_files_only=silence is not None))
    except DatasetError as error:
        raise silence or error from error
    if silence is not None:
        logger.warning("%s; taking %s as it was downloaded earlier", str(silence).partition("; ")[0], path)
        sha256 = _known_sha256(name, path.resolve().name)  # which the cache keeps it under
    if sha256_of(path) != sha256:
        path.resolve().unlink()  # it would be taken for the right one as long as it is there
        path.unlink(missing_ok=True)
        raise DatasetError(f"{name} is damaged: its sha256 is not {sha256}; {path} is removed, run again to download it again")
    return path


def _known_sha256(name: str, etag: str | None) -> str:
    if etag is None or not re.fullmatch("[0-9a-f]{64}", etag):
        raise DatasetError(f"the sha256 of {name} is not known, only {etag!r}; correct HF_ENDPOINT, or name the file in place of the set")
    return etag
