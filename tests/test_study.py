"""A study: what is compared is planned in a file, run once, and told in a report."""

import contextlib
import dataclasses
import json
import re
import subprocess
import time
from pathlib import Path

import filelock
import h5py
import imageio.v3 as iio
import numpy as np
import pytest
import yaml
from robomimic_versions import IS_0_5

import robomimic_frozen
from robomimic_frozen import cli
from robomimic_frozen.errors import ConfigError, DatasetError, RobomimicFrozenError
from robomimic_frozen.study.plan import Budget, read_plan
from robomimic_frozen.study.report import write_figures, write_report
from robomimic_frozen.study.results import Results, read_numbers, read_results
from robomimic_frozen.study.study import filter_key, link_demonstrations, run_study
from robomimic_frozen.study.training import StudyError
from robomimic_frozen.utils.files import sha256_of
from robomimic_frozen.utils.parallel import ThisProcess
from robomimic_frozen.utils.ray_cluster import RayCluster

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs" / "lift_mh_offline.json"


def content(dataset, **changes):
    """A study of two configurations that is as short as a study can be."""
    kwargs = "observation.encoder.rgb.core_kwargs"
    short = {"train.batch_size": 2, "algo.feature_cache.cached_crops": 1, f"{kwargs}.emb_dim": 8, "algo.network_kwargs.hidden_dims": [8]}
    return {
        "title": "Frozen <or> not",
        "dataset": str(dataset),
        "configurations": {
            "frozen": {"config": str(CONFIG), "set": short},
            "trained": {"config": str(CONFIG), "set": {**short, f"{kwargs}.freeze_encoder": False}},
        },
        "demos": [2],
        "seeds": [1],
        "budget": {"steps": 2},
        "evaluation": {"episodes": 1, "horizon": 2},
        "checkpoints": 2,
        **changes,
    }


@pytest.fixture
def write_plan(tmp_path):
    robomimic_frozen.register()

    def write(**values):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.mark.sim
def test_a_study_is_run_once_reported_and_never_mixed_with_results_of_other_settings(lift_dataset, write_plan, tmp_path, monkeypatch):
    # A process for each of six evaluations would take longer than they do.
    for module in ("study.study", "evaluation.films"):
        monkeypatch.setattr(f"robomimic_frozen.{module}.Processes", lambda workers: ThisProcess())
    out = tmp_path / "out"
    plan = read_plan(write_plan(**content(lift_dataset)))
    run_study(plan, out, ThisProcess(), 1)
    results = read_results(out)
    assert [(run["configuration"], run["demos"], run["seed"]) for run in results.runs] == [("frozen", 2, 1), ("trained", 2, 1)]
    frozen, trained = results.runs
    assert frozen["extraction_seconds"] > 0 == trained["extraction_seconds"]
    assert frozen["trainable"] < frozen["parameters"] and trained["trainable"] == trained["parameters"]
    for run in results.runs:
        assert [checkpoint["steps"] for checkpoint in run["checkpoints"]] == [1, 2]
        assert [checkpoint["sha256"] for checkpoint in run["checkpoints"]] == [sha256_of(out / each["file"]) for each in run["checkpoints"]]
        assert run["checkpoints"][0]["seconds"] < run["checkpoints"][1]["seconds"]
        assert all((checkpoint["episodes"], checkpoint["mean_steps"]) == (1, 2) for checkpoint in run["checkpoints"])

    before = {path: path.stat().st_mtime_ns for path in out.rglob("model_epoch_*.pth")}
    run_study(plan, out, ThisProcess(), 1)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("model_epoch_*.pth")}
    check_report(write_report(out, with_films=True))

    def fail(*_):
        raise StudyError("it broke")

    # Another budget: what was found with the first one counts no more, and stays.
    monkeypatch.setattr("robomimic_frozen.study.study.train", fail)
    with pytest.raises(StudyError, match="2 of 2 runs failed, first frozen, 2 demonstrations, seed 1: it broke"):
        run_study(plan.model_copy(update={"budget": Budget(steps=3)}), out, ThisProcess(), 1)
    with pytest.raises(ConfigError, match="no run of the study .* is finished yet"):
        read_results(out)
    run_study(plan, out, ThisProcess(), 1)
    assert read_results(out).runs == results.runs


@pytest.mark.sim
def test_runs_of_a_study_go_side_by_side_on_ray(lift_dataset, write_plan, tmp_path, capfd):
    plan = read_plan(write_plan(**content(lift_dataset, seeds=[1, 2], checkpoints=1)))
    frozen_only = plan.model_copy(update={"configurations": {"frozen": plan.configurations["frozen"]}})
    with contextlib.closing(RayCluster(2)) as cluster:
        run_study(frozen_only, tmp_path / "out", cluster, rollout_workers=1)
    results = read_results(tmp_path / "out")
    assert [(run["seed"], run["checkpoints"][-1]["episodes"]) for run in results.runs] == [(1, 1), (2, 1)]
    printed = capfd.readouterr().err
    assert "[2 of 2] frozen, 2 demonstrations, seed" in printed and "done" in printed


@pytest.mark.sim
def test_a_study_that_does_not_fit_its_budget_stops_after_calibration_before_any_run(lift_dataset, write_plan, tmp_path):
    plan = read_plan(write_plan(**content(lift_dataset, budget={"seconds": 0.001}, seeds=[1, 2])))
    words = r"1 of 1 runs failed, first frozen, .*: 0 gradient steps fit into the budget, .*features took \d+ s, a step .* s.; raise"
    with pytest.raises(StudyError, match=words):
        run_study(plan, tmp_path, ThisProcess(), 1, only="frozen")
    (calibration,) = tmp_path.glob("shared/*/calibration.json")
    assert json.loads(calibration.read_text())["seconds_per_step"] > 0
    features = tmp_path.glob("shared/frozen-2_demos-*/features/*/metadata.json")
    assert sum(json.loads(file.read_text())["seconds"] for file in features) > 0
    assert not (tmp_path / "runs").exists()


def check_report(path):
    html = path.read_text()
    assert "<h1>Frozen &lt;or&gt; not</h1>" in html
    assert html.count("data:image/png;base64,") == 5
    assert html.count("data:image/jpeg;base64,") == 2  # both fail after two steps
    assert "failure after 2 steps" in html
    assert "robomimic-frozen train --config runs/frozen-2_demos-seed_1-" in html
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert len(list((path.parent / "figures").glob("*.png"))) == 5
    numbers = json.loads((path.parent / "results.json").read_text())
    assert [len(run["checkpoints"]) for run in numbers["runs"]] == [2, 2] and numbers["environment"]["packages"]["robomimic"]


@pytest.mark.sim
@pytest.mark.fault("training of a study killed", "the study goes on after its last epoch")
@pytest.mark.skipif(IS_0_5, reason="robomimic 0.5 keeps a state of its own, and the study begins the run again")
def test_training_that_was_killed_goes_on_and_saves_what_the_plan_says(lift_dataset, write_plan, tmp_path, monkeypatch):
    monkeypatch.setattr("robomimic_frozen.study.study.Processes", lambda workers: ThisProcess())
    plan = content(lift_dataset, budget={"steps": 120}, checkpoints=[20, 60, 120])
    del plan["configurations"]["trained"]
    plan, out = read_plan(write_plan(**plan)), tmp_path / "out"
    run_process = subprocess.run

    def killed(command, **kwargs):
        if "train" not in command:
            return run_process(command, **kwargs)
        process = subprocess.Popen(command, **kwargs)
        while process.poll() is None and not list(out.glob("runs/*/training/*/resume.pth")):
            time.sleep(0.01)
        process.kill()
        return subprocess.CompletedProcess(command, process.wait())

    monkeypatch.setattr("robomimic_frozen.study.training.subprocess.run", killed)
    with pytest.raises(StudyError, match="training failed"):
        run_study(plan, out, ThisProcess(), 1)
    (state,) = out.glob("runs/*/training/*/resume.pth")
    monkeypatch.setattr("robomimic_frozen.study.training.subprocess.run", run_process)
    run_study(plan, out, ThisProcess(), 1)
    assert [path.parent for path in out.glob("runs/*/training/*/resume.pth")] == [state.parent]
    (run,) = read_results(out).runs
    assert [checkpoint["steps"] for checkpoint in run["checkpoints"]] == [20, 60, 120]


def test_demonstrations_are_drawn_from_the_filter_keys_of_a_plan(lift_dataset, write_plan, tmp_path):
    plan = read_plan(write_plan(**content(lift_dataset, demos=[2], filter_keys=["better", "okay"])))
    link_demonstrations(plan, tmp_path / "linked.hdf5")
    with h5py.File(tmp_path / "linked.hdf5") as linked, h5py.File(lift_dataset) as original:
        assert set(linked[f"mask/{filter_key(2)}"][()]) <= {*original["mask/better"], *original["mask/okay"]}
    plan = read_plan(write_plan(**content(lift_dataset, demos=[9], filter_keys=["better", "okay"])))
    with pytest.raises(DatasetError, match=r"has \d demonstrations under better, okay; the study asks for 9"):
        link_demonstrations(plan, tmp_path / "more.hdf5")


def test_links_make_nested_sets_of_training_demonstrations(lift_dataset, write_plan, tmp_path):
    link_demonstrations(read_plan(write_plan(**content(lift_dataset, demos=[2, 3]))), tmp_path / "linked.hdf5")
    with h5py.File(tmp_path / "linked.hdf5") as linked, h5py.File(lift_dataset) as original:
        small, large, train = (
            set(mask[()]) for mask in (linked[f"mask/{filter_key(2)}"], linked[f"mask/{filter_key(3)}"], original["mask/train"])
        )
        assert len(small) == 2 and len(large) == 3 and small < large <= train
        assert linked["data"].attrs["env_args"] == original["data"].attrs["env_args"]
        np.testing.assert_array_equal(linked["data/demo_1/actions"], original["data/demo_1/actions"])
    assert (tmp_path / "linked.hdf5").stat().st_size < 100_000
    with pytest.raises(DatasetError, match="has 3 demonstrations for training; the study asks for 4"):
        link_demonstrations(read_plan(write_plan(**content(lift_dataset, demos=[2, 4]))), tmp_path / "more.hdf5")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sedes": [1]}, "unknown key 'sedes' in the file; the nearest one is 'seeds'"),
        ({"budget": {"minutes": 1}}, "unknown key 'minutes' in budget"),
        ({"budget": {"steps": 1, "seconds": 1}}, "budget takes either seconds or steps"),
        ({"budget": {"steps": 0}}, "budget.steps is 0; choose a whole number from 1 on"),
        ({"budget": {"seconds": -1}}, "budget.seconds is -1; choose a number above 0"),
        ({"configurations": {}}, "configurations is {}, where key: value pairs belong"),
        ({"configurations": {"a": {"set": {}}}}, "configurations.a lacks 'config'"),
        ({"demos": [5, 5]}, "demos is .5, 5.; give one or more, none twice"),
        ({"demos": ["many"]}, "demos.0. is 'many'; choose a whole number"),
        ({"seeds": []}, "seeds is ..; give one or more"),
        ({"checkpoints": [1, 3]}, "checkpoints is .1, 3.; numbers of steps rise, and end with budget.steps"),
        ({"checkpoints": [7, 15], "budget": {"steps": 15}}, "checkpoints is .7, 15.; choose multiples of one number from 20 on"),
        ({"checkpoints": 3, "budget": {"steps": 2}}, "checkpoints is 3; a checkpoint takes a step at least"),
        ({"checkpoints": "many"}, "checkpoints is 'many'; choose a whole number"),
        ({"evaluation": {"episodes": 1.5}}, "evaluation.episodes is 1.5; choose a whole number"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes, words, write_plan):
    with pytest.raises(ConfigError, match=words):
        read_plan(write_plan(**content("lift.hdf5", **changes)))


@pytest.mark.parametrize(
    ("changes", "only", "words"),
    [
        ({"task": "can"}, "", r"lift.hdf5 is of Lift, and the study's task is can \(PickPlaceCan\); correct either"),
        ({"task": "lfit"}, "", "there is no task 'lfit'; did you mean 'lift'"),
        ({"demos": [2, 100]}, "", r"has \d+ demonstrations .*; the study asks for 100"),
        ({}, "thawed", "no run of the study has 'thawed' in its name; the first is 'frozen, 2 demonstrations, seed 1'"),
    ],
)
def test_a_study_that_does_not_fit_its_data_is_refused_before_any_run(changes, only, words, lift_dataset, write_plan, tmp_path):
    plan = read_plan(write_plan(**content(lift_dataset, **changes)))
    with pytest.raises(RobomimicFrozenError, match=words):
        run_study(plan, tmp_path / "out", ThisProcess(), 1, only)
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize("text", ["[1, 2]", "title: [", "", "\x00"])
def test_what_is_no_plan_is_refused_in_one_line(text, tmp_path, capfd):
    (tmp_path / "study.yaml").write_text(text)
    assert cli.main(["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out")]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("robomimic-frozen study")]
    assert "study.yaml" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.fault("two studies that write to one folder", "the second one says so in one line")
def test_two_studies_do_not_write_to_one_folder(write_plan, tmp_path):
    plan = read_plan(write_plan(**content("lift.hdf5")))
    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match="another study is writing to"):
        run_study(plan, tmp_path, ThisProcess(), 1)


def test_seconds_to_a_success_rate_are_those_of_the_first_checkpoint_of_all_seeds_together_that_has_it(tmp_path):
    def run(name, seed, *points):
        checkpoints = [
            {"steps": 1, "seconds": seconds, "success_rate": successes / 10, "successes": successes, "episodes": 10, "errors": 0}
            for seconds, successes in points
        ]
        return {"configuration": name, "demos": 5, "seed": seed, "checkpoints": checkpoints}

    runs = (run("frozen", 1, (10, 4), (20, 9)), run("frozen", 2, (12, 6), (22, 6)), run("trained", 1, (600, 0), (900, 6)))
    results = Results(tmp_path, {"plan": {"configurations": {"frozen": {}, "trained": {}}, "checkpoints": 2}}, runs)
    assert results.seconds_to(0.5) == {("frozen", 5): 11, ("trained", 5): 900}
    assert results.seconds_to(0.8) == {("frozen", 5): None, ("trained", 5): None}


@pytest.mark.parametrize("study", ["can_from_pixels", "can_readouts"])
def test_figures_of_a_report_have_room_for_long_names(study, tmp_path):
    results = dataclasses.replace(read_numbers(ROOT / "docs" / "results" / f"{study}.json"), folder=tmp_path)
    figures = {name: iio.imread(path) for name, path in write_figures(results).items()}
    assert figures and [name for name, pixels in figures.items() if pixels[:, [0, -1]].min() < 255 or pixels[[0, -1]].min() < 255] == []


def test_a_folder_without_a_study_has_no_report(tmp_path, capfd):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert "is not the folder of a study" in capfd.readouterr().err
