"""What the documents name exists (files they link to, functions of the walk, tests of the examples); tables say what was measured."""

import json
import re
import runpy
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from policies import OBS_SHAPES, make_config, make_policy
from test_two_stages import save

import robomimic_frozen
from robomimic_frozen.study.plan import read_plan

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("configs/*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(document):
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_walk_of_one_image_names_functions_that_exist_none_twice():
    walk = re.findall(r"^\d+\. `([\w.]+)` in `([\w/]+\.py)`", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert 10 <= len(walk) <= 15 and len(set(walk)) == len(walk)
    for name, file in walk:
        *owner, function = name.split(".")
        source = (ROOT / "robomimic_frozen" / file).read_text()
        assert re.search(rf"^ *def {function}\(", source, re.MULTILINE), (name, file)
        assert all(re.search(rf"^class {each}\b", source, re.MULTILINE) for each in owner), (name, file)


def test_the_examples_of_contributing_name_tests_that_exist():
    examples = re.findall(r"`(test_\w+)` in\s+`(tests/\w+\.py)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(examples) >= 5
    assert [name for name, file in examples if f"def {name}(" not in (ROOT / file).read_text()] == []


def test_tables_of_results_are_what_the_studies_numbers_say():
    table = runpy.run_path(str(ROOT / "scripts" / "results_tables.py"))["table"]
    studies = [file for file in (ROOT / "docs" / "results").glob("*.json") if "plan" in json.loads(file.read_text())]
    document = (ROOT / "docs" / "results.md").read_text()
    assert studies and [file.name for file in studies if table(file) not in document] == []


def test_numbers_of_a_study_are_of_the_settings_in_its_file():
    """So that a later default cannot change what a committed study trains."""
    numbers = {file.stem: json.loads(file.read_text()) for file in (ROOT / "docs" / "results").glob("*.json")}
    plans = {name: each["plan"] for name, each in numbers.items() if "plan" in each}
    read = {name: read_plan(ROOT / "configs" / "studies" / f"{name}.yaml").model_dump(mode="json") for name in plans}
    for plan in (*plans.values(), *read.values()):
        plan.pop("dataset")
        for configuration in plan["configurations"].values():
            configuration["config"] = Path(configuration["config"]).name
    assert plans and plans == read


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_configuration_of_a_study_loads_and_names_what_is_read_and_how_it_is_augmented(file):
    robomimic_frozen.register()
    for configuration in read_plan(file).configurations.values():
        configuration.load()
        assert {f"observation.encoder.rgb.core_kwargs.{each}" for each in ("feature_stage", "pool", "augment")} <= configuration.set.keys()


def code_blocks(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / document).read_text(), re.MULTILINE | re.DOTALL)


class Robot:
    """Moves to where an action sends it, at once, and takes note of when."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.place = np.zeros(3)
        robots.append(self)

    def observe(self) -> dict[str, np.ndarray]:
        image = np.random.default_rng(len(self.times)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        return {"agentview_image": image, "robot0_eef_pos": self.place}

    def execute(self, action: np.ndarray) -> None:
        assert action.shape == (7,) and np.isfinite(action).all()
        self.times.append(time.monotonic())
        self.place = self.place + 0.01 * action[:3]


robots: list[Robot] = []


def test_the_loop_of_the_document_drives_a_robot_at_its_rate(tmp_path, monkeypatch, capsys):
    save(make_policy(make_config(horizon=8, act_steps=4)), tmp_path / "policy.pth", shape_metadata={"all_shapes": OBS_SHAPES, "ac_dim": 7})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "my_robot", types.SimpleNamespace(Robot=Robot))
    loop = code_blocks("robot.md")[0]
    assert len(loop.strip().splitlines()) <= 15
    exec(compile(loop.replace("range(400)", "range(30)"), "docs/robot.md", "exec"), {})
    (robot,) = robots
    assert len(robot.times) == 30
    assert robot.times[-1] - robot.times[0] >= 28 / 20  # never faster than 20 Hz, but for one step
    assert "a chunk took 0." in capsys.readouterr().out
