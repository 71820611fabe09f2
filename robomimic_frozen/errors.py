"""Every error this package raises on purpose. Each message is one line: what is wrong, where, what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobomimicFrozenError(Exception):
    """Base of all errors below; the command line prints it as one line and exits with 1."""


class ConfigError(RobomimicFrozenError):
    """A setting is unknown, of the wrong type, or does not fit the other settings."""


class DatasetError(RobomimicFrozenError):
    """A demonstration file is missing, unreadable, or lacks what the config asks for."""


class MalformedError(DatasetError):
    """Something in a demonstration file is missing, damaged, or of another kind than what belongs there.

    `where` names the thing within the file, `what` says what is the matter, and `remedy` what to do.
    """

    def __init__(self, path: str, where: str, what: str, remedy: str = "download or generate it again") -> None:
        super().__init__(path, where, what, remedy)
        self.where, self.what, self.remedy = where, what, remedy

    def __str__(self) -> str:
        return "dataset {}: {} {}; {}".format(*self.args)


class ObservationError(RobomimicFrozenError):
    """An observation is missing or has another shape than was said beforehand."""


class WeightsError(RobomimicFrozenError):
    """A weights file does not hold what the backbone needs."""


class WeightsUnavailableError(WeightsError):
    """Pretrained weights were asked for and cannot be had on this machine."""


class CacheUnavailableError(RobomimicFrozenError):
    """The folder of the feature cache cannot be written to, or its disk is full."""


class RemoteFileError(RobomimicFrozenError):
    """A file at a URL is not there, or cannot be read or written."""


class TrainingDivergedError(RobomimicFrozenError):
    """The loss is no longer a number, and the run ends without saving what it came to."""


class RenderingError(RobomimicFrozenError):
    """No OpenGL backend of this machine can render off screen."""


def did_you_mean(name: object, known: Iterable[str], otherwise: str) -> str:
    """Return the question whether the nearest of the known names was meant, or `otherwise` where none is near."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, or the name of its class when it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
