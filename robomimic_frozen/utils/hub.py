"""The Hugging Face hub: its repositories by URL, over https only, and what huggingface_hub raises in one line."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

from robomimic_frozen.errors import ConfigError, RemoteFileError, RobomimicFrozenError, first_line

REPOSITORY: Final = "hf://"
_NAME: Final = re.compile(r"(?!datasets/|spaces/)(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?/?")
_LOG_IN: Final = "log in (hf auth login, or HF_TOKEN)"
_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")


def is_repository(place: object) -> bool:
    """Return whether it is `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION`: a repository of a model, and not a file in one."""
    return isinstance(place, str) and place.startswith(REPOSITORY) and _NAME.fullmatch(place.removeprefix(REPOSITORY)) is not None


def repository_in(text: str) -> tuple[str, str | None]:
    """Return OWNER/NAME and the revision, None for the newest, of `hf://OWNER/NAME@REVISION`, also without its beginning or revision.

    Raises:
        ConfigError: it is written otherwise.
    """
    found = _NAME.fullmatch(text.removeprefix(REPOSITORY))
    if found is None:
        raise ConfigError(f"{text} is no OWNER/NAME of a repository at the hub; correct it")
    return found["name"], found["revision"]


@contextlib.contextmanager
def hub_errors_named(what: str, remedy: str, kind: type[RobomimicFrozenError] = RemoteFileError) -> Iterator[None]:
    """Turn what huggingface_hub raises in the block into one line of this `kind`: `what`, why, and `remedy`.

    A repository that is missing, private or gated has a remedy of its own. huggingface_hub's own settings count (HF_HOME, HF_ENDPOINT,
    HF_HUB_OFFLINE, HF_TOKEN, ...).

    Raises:
        RobomimicFrozenError: of this kind, also before the block runs if HF_ENDPOINT is not https.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    http_error: type[Exception] = HfHubHTTPError.__bases__[0]  # of the HTTP library, another one in each major version
    require_https(constants.ENDPOINT, kind)
    for library in ("httpx", "httpx2"):  # they tell of every request, with its signature
        logging.getLogger(library).setLevel(logging.WARNING)
    try:
        yield
    except GatedRepoError as error:
        raise kind(f"{what} (its owners must let you in); ask for access on its page at the hub, and {_LOG_IN}") from error
    except RepositoryNotFoundError as error:
        raise kind(f"{what} (the hub has no such repository, or it is private); correct its name, or {_LOG_IN}") from error
    except (OSError, ValueError, RuntimeError, http_error) as error:  # RuntimeError: a client that cannot connect
        # Of a file that is not in the cache either; why the hub was of no help says more.
        reason = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
        raise kind(f"{what} ({first_line(reason).rstrip('.')}); {remedy}") from error


def require_https(url: str, kind: type[RobomimicFrozenError] = RemoteFileError) -> None:
    """Raise an error of this `kind` if a download from the URL could be tampered with on its way."""
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _THIS_MACHINE:
        raise kind(f"refusing to download from {url}, which is not https; correct HF_ENDPOINT")
