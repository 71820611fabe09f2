"""Released demonstrations from the Hugging Face hub, through huggingface_hub and its cache."""

from __future__ import annotations

import difflib
import ipaddress
import logging
import re
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

from robomimic_frozen import compat
from robomimic_frozen.data.released import HUB_REPO, RELEASED
from robomimic_frozen.errors import DatasetError, first_line
from robomimic_frozen.files import sha256_of
from robomimic_frozen.storage import is_url, local_path

logger = logging.getLogger(__name__)


def find_source(source: str) -> Path:
    """The raw file that `source` names: a released set, downloaded if need be, a URL, of which a copy is made, or a path.

    Raises:
        DatasetError: it names none of these; or as of `fetch_released` and `staged`.
    """
    if source in RELEASED:
        return fetch_released(source)
    if not is_url(source) and not Path(source).is_file():
        close = difflib.get_close_matches(source, RELEASED, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"the sets are {', '.join(RELEASED)}"
        raise DatasetError(f"{source} is neither a file nor a released set; {hint}")
    return local_path(source)


def fetch_released(name: str) -> Path:
    """The raw file of a released set, downloaded to huggingface_hub's cache where it is not there yet.

    Settings are those of huggingface_hub (HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE, ...), which sees to the size of the file. Its sha256,
    which huggingface_hub does not look at, is the one that the hub names.

    Raises:
        DatasetError: it cannot be had; the hub would send it by something else than https; its content is another one.
    """
    url = hf_hub_url(HUB_REPO, RELEASED[name], repo_type="dataset")
    _require_https(url)
    try:
        metadata = get_hf_file_metadata(url)
    except (OSError, compat.hub_http_error()) as error:
        path, sha256 = _cached(name, url, error)
    else:
        # Before anything is written: huggingface_hub makes a file name of it.
        sha256 = _checked_sha256(name, metadata.etag)
        _require_https(metadata.location)
        path = _downloaded(name, url)
    if sha256_of(path) != sha256:
        _remove(path)
        raise DatasetError(f"{name} is damaged: its sha256 is not {sha256}; {path} is removed, run again to download it again")
    return path


def _remove(path: Path) -> None:
    """A damaged file of the cache, which would be taken for the right one as long as it is there, and the link to it."""
    try:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DatasetError(f"{path} is damaged and cannot be removed ({error.strerror}); remove it") from error


def _downloaded(name: str, url: str) -> Path:
    try:
        return Path(hf_hub_download(HUB_REPO, RELEASED[name], repo_type="dataset"))
    except (OSError, ValueError, compat.hub_http_error()) as error:
        raise _unavailable(name, url, error) from error


def _cached(name: str, url: str, reason: Exception) -> tuple[Path, str]:
    """The file as it was downloaded earlier, and the sha256 that the cache keeps it under."""
    try:
        path = Path(hf_hub_download(HUB_REPO, RELEASED[name], repo_type="dataset", local_files_only=True))
    except (OSError, ValueError):
        raise _unavailable(name, url, reason) from reason
    logger.warning("the hub does not answer (%s); taking %s as it was downloaded earlier", first_line(reason), path)
    return path, _checked_sha256(name, path.readlink().name if path.is_symlink() else None)


def _unavailable(name: str, url: str, reason: Exception) -> DatasetError:
    why = first_line(reason).rstrip(".")
    return DatasetError(f"{name} could not be downloaded ({why}); run again, or download {url} elsewhere and name the file in place of it")


def _checked_sha256(name: str, etag: str | None) -> str:
    if etag is None or not re.fullmatch("[0-9a-f]{64}", etag):
        raise DatasetError(f"the sha256 of {name} is not known, only {etag!r}; correct HF_ENDPOINT, or name the file in place of the set")
    return etag


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_this_machine(parts.hostname or "")):
        raise DatasetError(f"refusing to download from {url}, which is not https; correct HF_ENDPOINT")


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
