"""What is declared; the .pth: where it is, what it does, what it costs, and that it goes."""

import ast
import importlib.metadata
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import robomimic_frozen

ROOT = Path(__file__).parent.parent
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "robomimic_frozen.pth", "robomimic_frozen")
KNOWN = "from robomimic.config import config_factory; import robomimic.algo; print(config_factory('fbc_frozen').algo_name)"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the project, so that building leaves the real one clean."""
    folder = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    return next(folder.glob("*.whl"))


class Environment:
    """A virtual environment that sees everything installed here except this package."""

    def __init__(self, folder):
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        self.site_packages = Path(self.output("import sysconfig; print(sysconfig.get_path('purelib'))"))
        borrowed = folder / "borrowed"
        borrowed.mkdir()
        # One folder, or with scripts/test_robomimic_master.sh several, of which the first counts.
        for path in (path for folder in sys.path if folder.endswith("site-packages") for path in Path(folder).iterdir()):
            if "robomimic_frozen" not in path.name and path.suffix != ".pth" and not (borrowed / path.name).exists():
                (borrowed / path.name).symlink_to(path)
        (self.site_packages / "borrowed.pth").write_text(f"{borrowed}\n")

    def output(self, script, **variables):
        result = subprocess.run(
            [self.python, "-c", script], env={**os.environ, **variables}, cwd=self.python.parent, check=True,
            capture_output=True, text=True,
        )
        return result.stdout.strip()

    def own_files(self):
        return [path.name for path in self.site_packages.iterdir() if "robomimic_frozen" in path.name]


def pip(python, *arguments):
    command = [sys.executable, "-m", "pip", "--python", python, *arguments, "-q"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def environment(request, source, wheel, tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp(request.param))
    arguments = [wheel] if request.param == "wheel" else ["--no-build-isolation", "-e", source]
    pip(environment.python, "install", "--no-deps", *arguments)
    return environment


def imported_packages(folder):
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield node.module.partition(".")[0]


def test_the_wheel_has_the_version_of_the_package_and_declares_what_is_imported(wheel):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))).decode()
    assert f"\nVersion: {robomimic_frozen.__version__}\n" in metadata
    needed = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    declared = {canonicalize_name(Requirement(line).name) for line in needed}
    packages = importlib.metadata.packages_distributions()
    for name in set(imported_packages(ROOT / "robomimic_frozen")) - sys.stdlib_module_names - {"robomimic_frozen"}:
        assert declared & set(map(canonicalize_name, packages[name])), f"{name} is imported and not declared in setup.py"


def test_the_wheel_carries_the_pth_at_its_root_and_records_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("robomimic_frozen.pth") == (ROOT / "robomimic_frozen.pth").read_bytes()
        record = next(name for name in archive.namelist() if name.endswith("RECORD"))
        assert "robomimic_frozen.pth,sha256=" in archive.read(record).decode()


def test_an_installation_makes_robomimic_know_the_algorithm(environment):
    assert environment.output(KNOWN).endswith("fbc_frozen")


@pytest.mark.parametrize("environment", ["wheel"], indirect=True)  # an editable installation has the same .pth
def test_the_switch_turns_it_off_and_explicit_registration_still_works(environment):
    script = (
        "from robomimic.config.base_config import get_all_registered_configs as known\n"
        "import robomimic.algo; print('fbc_frozen' in known())\n"
        f"import robomimic_frozen; robomimic_frozen.register(); {KNOWN}"
    )
    assert environment.output(script, ROBOMIMIC_FROZEN_AUTOLOAD="0").splitlines()[-2:] == ["False", "fbc_frozen"]
    script = "import robomimic_frozen; robomimic_frozen.register(); " + KNOWN
    assert environment.output(script, ROBOMIMIC_FROZEN_AUTOLOAD="0").endswith("fbc_frozen")


def test_an_interpreter_without_robomimic_pays_under_two_milliseconds_and_loads_nothing_else(wheel, tmp_path):
    environment = Environment(tmp_path / "environment")
    pip(environment.python, "install", "--no-deps", wheel)
    line = (environment.site_packages / "robomimic_frozen.pth").read_text()
    timed = (
        "import sys, time; before = set(sys.modules); start = time.process_time()\n"
        f"{line}\n"
        "print(time.process_time() - start, *sorted(set(sys.modules) - before))"
    )
    # -S keeps the interpreter from running the line itself; os is loaded in every ordinary one.
    path = f"import os, sys; sys.path.append({str(environment.site_packages)!r})"
    command = [environment.python, "-S", "-c", f"{path}\n{timed}"]
    # Elsewhere than in the project, whose sources would be imported and compiled instead.
    runs = [
        subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split()
        for _ in range(20)
    ]
    assert runs[0][1:] == ["robomimic_frozen", "robomimic_frozen._autoload"]
    assert min(float(run[0]) for run in runs) < 2e-3


def test_a_half_removed_package_neither_breaks_nor_prints(wheel, tmp_path):
    environment = Environment(tmp_path / "environment")
    pip(environment.python, "install", "--no-deps", wheel)
    shutil.rmtree(environment.site_packages / "robomimic_frozen")
    result = subprocess.run([environment.python, "-c", "pass"], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_uninstalling_leaves_nothing_behind(kind, source, wheel, tmp_path):
    environment = Environment(tmp_path / "environment")
    arguments = [wheel] if kind == "wheel" else ["--no-build-isolation", "-e", source]
    pip(environment.python, "install", "--no-deps", *arguments)
    assert "robomimic_frozen.pth" in environment.own_files()
    pip(environment.python, "uninstall", "-y", "robomimic_frozen")
    assert environment.own_files() == []
    assert environment.output("print('quiet')") == "quiet"
    assert not list((environment.python.parent).glob("robomimic-frozen*"))
