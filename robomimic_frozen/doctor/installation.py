"""The installation: versions, imports, registration with robomimic, processor, OpenGL, and what lies on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Final

from robomimic_frozen import compat
from robomimic_frozen.doctor.findings import Examination, Finding, Severity
from robomimic_frozen.doctor.versions import bad_pairs, versions

_MODULES: Final = ("numpy", "h5py", "torch", "torchvision", "mujoco", "robosuite", "robomimic.algo")
_SECONDS: Final = 300
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
    facts, findings = versions(), list(bad_pairs())
    answers, ending = _imports()
    findings += _broken_imports(answers, ending)
    if "fbc_frozen" in answers:
        facts["autoload"], found = _autoload(answers["fbc_frozen"])
        findings += found
    works = {name for name, reason in answers.items() if name in _MODULES and reason is None}
    if "torch" in works:
        facts |= _hardware()
    if works >= {"numpy", "h5py", "torch", "torchvision", "robomimic.algo"}:
        from robomimic_frozen.doctor import storage  # which loads them

        for part in (storage.weights, storage.cache):
            more, found = part()
            facts |= more
            findings += found
    if "mujoco" in works:
        more, found = _rendering()
        facts |= more
        findings += found
    return Examination("installation", facts, findings)


def _imports() -> tuple[dict[str, Any], str]:
    """Module -> why it cannot be imported or None, and how the interpreter that tried it ended."""
    command = [sys.executable, "-c", _IMPORTS, *_MODULES]
    # A MUJOCO_GL that does not work is found later, and is no reason to install mujoco again.
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    try:
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS)
        output, ending = result.stdout, f"the interpreter ended with status {result.returncode}"
    except subprocess.TimeoutExpired as error:
        output, ending = (error.stdout or b"").decode(), f"no answer within {_SECONDS} s"
    return dict(json.loads(line) for line in output.splitlines() if line.startswith('["')), ending


def _broken_imports(answers: dict[str, Any], ending: str) -> Iterator[Finding]:
    for module in _MODULES:
        reason = answers.get(module, ending)
        if reason is not None:
            package = module.partition(".")[0]
            remedy = f"pip install --force-reinstall {package}, in a version that goes with the others"
            yield Finding(Severity.ERROR, package, f"cannot be imported ({' '.join(reason.split())})", remedy)
        if module not in answers:
            return  # the later ones were not tried


def _autoload(active: bool) -> tuple[str, list[Finding]]:
    """Whether robomimic's own scripts know this package."""
    if active:
        return "active", []
    if os.environ.get("ROBOMIMIC_FROZEN_AUTOLOAD") == "0":
        fact, severity = "switched off by ROBOMIMIC_FROZEN_AUTOLOAD=0", Severity.NOTE
        remedy = "unset it, or call robomimic_frozen.register()"
    else:
        fact, severity = "not active: robomimic does not load this package", Severity.WARNING
        remedy = "pip install --force-reinstall --no-deps robomimic_frozen, which puts its .pth back"
    return fact, [Finding(severity, "autoload", f"is {fact}", remedy)]


def _hardware() -> dict[str, str]:
    import torch

    cpu = torch.device("cpu")
    facts = {
        "cpu": f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores, torch uses {torch.get_num_threads()}",
        "fast bfloat16": "yes" if compat.has_fast_bfloat16(cpu) else "no",
        "cuda": "none",
    }
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["cuda"] = f"{torch.version.cuda}: {', '.join(names)}"
    return facts


def _rendering() -> tuple[dict[str, str], list[Finding]]:
    chosen = os.environ.get("MUJOCO_GL")
    failures = {backend: compat.rendering_failure(backend) for backend in dict.fromkeys([*filter(None, [chosen]), *compat.GL_BACKENDS])}
    facts = {f"MUJOCO_GL={backend}": "renders" if reason is None else f"does not render: {reason}" for backend, reason in failures.items()}
    works = [backend for backend, reason in failures.items() if reason is None]
    if chosen and chosen not in works:
        remedy = f"unset MUJOCO_GL to use {works[0]}" if works else "unset MUJOCO_GL, and install a backend"
        return facts, [Finding(Severity.ERROR, "OpenGL", f"MUJOCO_GL={chosen} cannot render here", remedy)]
    if not works:
        install = " or ".join(f"apt-get install {packages}" for packages in compat.GL_BACKENDS.values())
        return facts, [Finding(Severity.ERROR, "OpenGL", "no backend renders here", f"on Debian or Ubuntu: {install}")]
    return facts, []
