"""Which versions are installed, and which of them do not go together."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from robomimic_frozen.doctor.findings import Finding, Severity

OURS = "robomimic_frozen"
PACKAGES = (OURS, "robomimic", "robosuite", "mujoco", "torch", "torchvision", "numpy", "h5py")


def versions() -> dict[str, str]:
    """Python, the system, and each package; 'not installed' where it is not."""
    packages = {name: installed_version(name) or "not installed" for name in PACKAGES}
    return {"python": platform.python_version(), "system": platform.platform(), **packages}


def installed_version(name: str) -> str | None:
    """The version of a package as its metadata tells it; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def bad_pairs() -> Iterator[Finding]:
    """Versions that one of the packages is not made for. The ranges of this package are those of its setup.py."""
    installed = {name: version for name in PACKAGES if (version := installed_version(name)) is not None}
    if OURS not in installed:
        what = "is not installed, only imported from a folder; the versions it needs are not known"
        yield Finding(Severity.WARNING, OURS, what, "pip install it")
        return
    needed_python = importlib.metadata.metadata(OURS)["Requires-Python"]
    if not SpecifierSet(needed_python).contains(platform.python_version(), prereleases=True):
        what = f"{platform.python_version()} does not go with {OURS} {installed[OURS]}, which needs {needed_python}"
        yield Finding(Severity.ERROR, "python", what, "make an environment with another Python")
    for owner in installed:
        yield from _unmet_needs(owner, installed)
    yield from _torchvision_of_another_torch(installed)


def _unmet_needs(owner: str, installed: dict[str, str]) -> Iterator[Finding]:
    for line in importlib.metadata.requires(owner) or ():
        needed = Requirement(line)
        if needed.name not in PACKAGES or (needed.marker is not None and not needed.marker.evaluate({"extra": ""})):
            continue
        found, remedy = installed.get(needed.name), f"pip install '{needed.name}{needed.specifier}'"
        if found is None:
            yield Finding(Severity.ERROR, needed.name, f"is not installed, and {owner} needs it", remedy)
        elif not needed.specifier.contains(found, prereleases=True):
            what = f"{found} does not go with {owner} {installed[owner]}, which needs {needed.specifier}"
            yield Finding(Severity.ERROR, needed.name, what, remedy)


def _torchvision_of_another_torch(installed: dict[str, str]) -> Iterator[Finding]:
    """torch 2.a goes with torchvision 0.(a + 15), which its metadata does not always say."""
    try:
        torch, torchvision = Version(installed["torch"]), Version(installed["torchvision"])
    except (KeyError, InvalidVersion):
        return
    paired = torch.minor + 15
    if torch.major == 2 and torchvision.major == 0 and torchvision.minor != paired:
        what = f"{torchvision} was built for another torch than {torch}, which goes with torchvision 0.{paired}"
        yield Finding(Severity.ERROR, "torchvision", what, f"pip install 'torchvision==0.{paired}.*'")
