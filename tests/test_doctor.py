"""`robomimic-frozen doctor` on good, damaged and hostile files, and on this installation."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from policies import ACTION_DIM, CAMERAS, OBS_SHAPES, SmallBackbone, change_setting, make_config, make_policy
from robomimic.config import config_factory
from small_datasets import IMAGE, POSITION, STEPS, write_dataset
from test_two_stages import save

from robomimic_frozen import cli
from robomimic_frozen.doctor import installation
from robomimic_frozen.doctor.examine import examine_file, examine_files
from robomimic_frozen.doctor.findings import Examination, Finding, Severity, as_text, exit_status
from robomimic_frozen.policies.states import with_networks
from robomimic_frozen.utils.files import sha256_of
from robomimic_frozen.utils.machine import PACKAGES

OFFLINE = Path(__file__).parent.parent / "configs" / "lift_mh_offline.json"
NOTE, WARNING, ERROR = Severity


def replace(group, key, change):
    values = change(group[key][()])
    del group[key]
    group[key] = values


def in_each(key, change):
    def damage(data, file):
        for demo in data.values():
            replace(demo, key, change)

    return damage


def in_one(key, change, demo="demo_1"):
    return lambda data, file: replace(data[demo], key, change)


def with_nan(values):
    values[1, 0] = np.nan
    return values


def delete(*paths):
    def damage(data, file):
        for path in paths:
            del file[path]

    return damage


def set_attribute(path, name, value):
    def damage(data, file):
        file[path].attrs[name] = value

    return damage


def put(path, value):
    def damage(data, file):
        if path in file:
            del file[path]
        file[path] = value

    return damage


def copy_of_demo_0(data, file):
    file.copy(data["demo_0"], data, "demo_3")
    data.attrs["total"] = 4 * STEPS


def group_for_actions(data, file):
    del data["demo_1/actions"]
    data.create_group("demo_1/actions")


def in_a_group(data, file):
    for demo in data.values():
        demo.create_group("obs/camera")


def unwritten(data, file):
    del data["demo_0/actions"]
    data["demo_0"].create_dataset("actions", (2**40, 7), "f8", chunks=(1024, 7))


ENV_ARGS = {"env_name": "Lift", "env_version": "1.4.1", "type": 1, "env_kwargs": CAMERAS}
OBS = f"obs/{IMAGE}"
DAMAGE = {
    "no data": (delete("data"), ERROR, "^data: is missing"),
    "no demos": (delete("data/demo_0", "data/demo_1", "data/demo_2"), ERROR, "^data: has no demos"),
    "no env_args": (lambda data, file: data.attrs.pop("env_args"), ERROR, "env_args: is missing"),
    "env_args that are no JSON": (set_attribute("data", "env_args", "{"), ERROR, "env_args: is not JSON"),
    "env_args without a name": (set_attribute("data", "env_args", '{"type": 1, "env_kwargs": {}}'), ERROR, "lacks env_name"),
    "another robosuite": (set_attribute("data", "env_args", json.dumps(ENV_ARGS)), WARNING, "is of robosuite 1.4.1, and .* installed"),
    "a wrong total": (set_attribute("data", "total", 13), WARNING, "total: is 13, and the demos have 12 steps"),
    "an odd name": (lambda data, file: data.move("demo_1", "first"), ERROR, "first: is not called demo_N"),
    "no num_samples": (lambda data, file: data["demo_1"].attrs.pop("num_samples"), ERROR, "demo_1: has no attribute num_samples"),
    "num_samples in words": (set_attribute("data/demo_1", "num_samples", "four"), ERROR, "demo_1: has a num_samples that is no whole"),
    "a demo of no steps": (set_attribute("data/demo_1", "num_samples", 0), ERROR, "demo_1: has no steps"),
    "too many steps": (in_one("actions", lambda x: np.repeat(x, 2, 0)), WARNING, "actions of demo_1: is longer.*8 steps, num_samples is 4"),
    "no actions": (delete("data/demo_1/actions"), ERROR, "demo_1: has no actions"),
    "NaN in actions": (in_one("actions", with_nan), ERROR, "actions of demo_1: holds NaN.*1 numbers"),
    "NaN in states": (in_each("states", with_nan), ERROR, "states of demo_0 and 2 others: holds NaN"),
    "infinity": (in_one(f"obs/{POSITION}", lambda x: np.where(x > x.min(), x, np.inf)), ERROR, f"obs/{POSITION} of demo_1: holds NaN"),
    "large actions": (in_each("actions", lambda x: 5 * x), WARNING, "actions of demo_0 and 2 others: leave \\[-1, 1\\]"),
    "flat actions": (in_each("actions", lambda x: x[:, 0]), ERROR, "actions of .*: are not \\[T, action dim\\]"),
    "channels first": (in_each(OBS, lambda x: x.transpose(0, 3, 1, 2)), ERROR, f"{OBS} of demo_0 and 2 others: has channels first"),
    "grey images": (in_each(OBS, lambda x: x[..., 0]), ERROR, "is no sequence of RGB images"),
    "images of int64": (in_each(OBS, lambda x: x.astype(int)), ERROR, "is int64, not uint8"),
    "images cut to 0 and 1": (in_each(OBS, lambda x: x // 128), ERROR, "holds only 0 and 1"),
    "black images": (in_one(OBS, np.zeros_like), ERROR, f"{OBS} of demo_1: is black in every frame"),
    "a black frame": (in_one(OBS, lambda x: x * np.arange(STEPS)[:, None, None, None].astype(bool)), WARNING, "are black.*1 of 4 frames"),
    "a still image": (in_one(OBS, lambda x: np.repeat(x[:1], STEPS, 0)), WARNING, "shows the same image at every step"),
    "images of two sizes": (in_one(OBS, lambda x: x[:, :6, :6]), ERROR, "demo_1: is uint8 \\[6, 6, 3\\], and uint8 \\[8, 8, 3\\] in"),
    "two types": (in_one("states", np.float32), WARNING, "states of demo_1: is float32 \\[5\\], and float64"),
    "an observation that one demo lacks": (delete(f"data/demo_1/obs/{POSITION}"), ERROR, f"obs/{POSITION} of demo_1: is missing"),
    "no observations": (delete(*(f"data/demo_{i}/obs" for i in range(3))), WARNING, "has no observations at all"),
    "a copy": (copy_of_demo_0, WARNING, "demo_3: has the actions and states of an earlier demo .demo_3 is demo_0"),
    "an empty filter key": (put("mask/best", np.array([], dtype="S6")), WARNING, "filter key best: names no demos"),
    "a demo named twice": (put("mask/best", np.array([b"demo_0", b"demo_0"])), ERROR, "filter key best: names demos twice .1 of 2 names"),
    "a padded name": (put("mask/best", np.array([b"demo_0 "])), ERROR, "filter key best: names 'demo_0 ', which the file does not have"),
    "a filter key of numbers": (put("mask/best", [0, 1]), ERROR, "mask/best: is int64 \\[2\\], not a list of names"),
    "train in valid": (put("mask/valid", np.array([b"demo_0", b"demo_2"])), WARNING, "filter key train: shares demo_0 with valid"),
    "an external link": (put("data/demo_1", h5py.ExternalLink("gone.hdf5", "/x")), ERROR, "demo_1: is a link to /x of gone.hdf5, which"),
    "a broken link": (put(f"data/demo_1/{OBS}", h5py.SoftLink("/gone")), ERROR, "is a link to /gone, which leads nowhere"),
    "a group for an array": (group_for_actions, ERROR, "actions of demo_1: is a group where an array belongs"),
    "nested observations": (in_a_group, WARNING, "obs/camera of demo_0 and 2 others: is a group; what is nested"),
    "an array for a group": (put("data/demo_1/obs", [1, 2]), ERROR, "obs of demo_1: is an array where a group belongs"),
    "words for numbers": (put("data/demo_1/rewards", "words"), ERROR, "rewards of demo_1: is no sequence of numbers"),
    "an array that was never written": (unwritten, ERROR, "actions of demo_0: was made, but never or not wholly written"),
}

def lines(examination):
    return [f"{finding.where}: {finding.what} ({finding.detail})" for finding in examination.findings]


@pytest.fixture
def small(tmp_path):
    return write_dataset(tmp_path / "small.hdf5")


def test_a_flawless_dataset_has_no_findings(small):
    examination = examine_file(small)
    assert examination.findings == []
    assert examination.facts["demos"] == "3, of 4 to 4 steps, median 4"
    assert examination.facts[OBS] == "uint8 [8, 8, 3]"
    assert examination.facts["filter keys"] == "train (2), valid (1)"


def test_demos_may_have_any_name_that_robomimic_sorts(small):
    with h5py.File(small, "a") as file:
        file.move("data/demo_1", "data/traj_1")
        put("mask/train", np.array([b"demo_0", b"traj_1"]))(file["data"], file)
    assert examine_file(small).findings == []


@pytest.mark.fault("a dataset with something wrong in it, given to `doctor`", "found, and where")
@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found_where_it_is(case, small):
    damage, severity, words = DAMAGE[case]
    with h5py.File(small, "a") as file:
        damage(file["data"], file)
    before = sha256_of(small)
    examination = examine_file(small)
    found = [line for line in lines(examination) if re.search(words, line)]
    assert len(found) == 1, lines(examination)
    assert max(finding.severity for finding in examination.findings) == severity
    assert all(finding.remedy for finding in examination.findings)
    assert sha256_of(small) == before


def without_images(data, file):
    for demo in data.values():
        for key in [key for key in demo["obs"] if key.endswith("_image")]:
            del demo[f"obs/{key}"]


NORMALISED = in_each(OBS, lambda x: (x / 255).astype(np.float32))
OF_THE_ISSUE = {
    "good": (lambda data, file: None, 0, ""),
    "without images": (without_images, 1, "obs: has no image observations.*robomimic-frozen data FILE renders them"),
    "truncated demo": (in_one(OBS, lambda x: x[:-5]), 2, f"{OBS} of demo_1: is shorter than num_samples says: the demo is truncated"),
    "filter key naming a missing demo": (put("mask/best", np.array([b"demo_1", b"demo_99"])), 2, "filter key best: names 'demo_99', which"),
    "normalised images": (NORMALISED, 2, f"{OBS} of demo_0 and 3 others: is float32, and normalised .*robomimic itself divides by 255"),
}


@pytest.mark.sim
@pytest.mark.parametrize("case", OF_THE_ISSUE)
def test_real_demonstrations_with_one_thing_wrong(case, lift_dataset, tmp_path, capfd):
    damage, status, words = OF_THE_ISSUE[case]
    path = Path(shutil.copy(lift_dataset, tmp_path / "lift.hdf5"))
    with h5py.File(path, "a") as file:
        damage(file["data"], file)
    before = sha256_of(path)
    assert cli.main(["doctor", str(path)]) == status
    printed = " ".join(capfd.readouterr().out.split())
    assert re.search(words, printed), printed
    assert f"errors: {int(status == 2)}, warnings: {int(status == 1)}, notes: 0" in printed
    assert f"torch {importlib.metadata.version('torch')} " in printed
    assert sha256_of(path) == before


@pytest.mark.fault("a dataset cut off or overwritten at random, given to `doctor`", "a finding, no traceback, the file as it was", times=60)
def test_damaged_bytes_end_in_a_finding_and_never_in_a_traceback(small, tmp_path, capfd):
    whole, rng = small.read_bytes(), np.random.default_rng(0)
    paths = []
    for index in range(60):
        damaged = bytearray(whole)
        if index % 2:
            del damaged[int(rng.integers(len(whole))) :]
        else:
            for place in rng.integers(len(whole), size=40):
                damaged[place] = rng.integers(256)
        paths.append(tmp_path / f"{index}.hdf5")
        paths[-1].write_bytes(damaged)
    before = [sha256_of(path) for path in paths]
    examinations = examine_files(paths, None, patience=10)
    assert [examination.subject for examination in examinations] == list(map(str, paths))
    assert all(exit_status([examination]) == ERROR for examination in examinations[1::2])
    assert not any("if that finds nothing" in finding.remedy for examination in examinations for finding in examination.findings)
    assert [sha256_of(path) for path in paths] == before
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.fault("a dataset in which HDF5 hangs, given to `doctor`", "given up, with a finding that says so")
def test_a_file_that_hangs_hdf5_does_not_hang_the_doctor(small, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (small, write_dataset(tmp_path / "good.hdf5")):
        with h5py.File(path, "a") as file:
            # Of no simulator, which would be imported meanwhile.
            set_attribute("data", "env_args", json.dumps({**ENV_ARGS, "type": 4}))(file["data"], file)
    with h5py.File(small, "a") as file:
        put("data/demo_1", h5py.ExternalLink("fifo", "/x"))(file["data"], file)
    hung, good = examine_files([small, path], None, patience=1)
    assert lines(hung) == [": gives no answer within 1 s when it is read ()"]
    assert [finding.where for finding in good.findings] == ["env_args"]


@pytest.mark.parametrize("name", ["absent.hdf5", ".", "page.hdf5"])
def test_what_is_no_dataset_is_an_error(name, tmp_path):
    (tmp_path / "page.hdf5").write_text("<html>404</html>")
    assert exit_status([examine_file(tmp_path / name)]) == ERROR


MISFITS = {
    "absent obs key": ({"observation.modalities.obs.rgb": ["front_image"]}, ERROR, "no obs key 'front_image'"),
    "crop larger than the images": ({}, ERROR, "crop_shape \\[76, 76\\] is larger than the image \\[8, 8\\]"),
    "little crop": ({}, WARNING, "crop_shape \\[4, 4\\] shows 25% of an image of \\[8, 8\\]"),
    "absent filter key": ({"train.hdf5_filter_key": "best"}, ERROR, "no filter key 'best'"),
    "longer than the demos": ({"train.pad_seq_length": False}, ERROR, "demo_0 has 4 steps, and training takes sequences of 16"),
    "padded": ({}, NOTE, "sequences of 16 steps, and the shortest demo has 4: its last action is repeated"),
    "larger batches than the demos": ({"train.batch_size": 13}, ERROR, "batch_size is 13, and the training demos have 12 sequences"),
    "absent array": ({"train.dataset_keys": ["actions", "actions_abs"]}, WARNING, "'actions_abs'.*robomimic puts zeros"),
    "horizon shorter than the demos": ({"experiment.rollout.horizon": 3}, WARNING, "rollouts after 3 steps, and the longest demo takes"),
    "absent next_obs": ({"train.hdf5_load_next_obs": True}, ERROR, "has no next_obs key"),
    "unknown setting": ({"train.sed": 3}, ERROR, "train.sed|sed"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_a_config_is_found(case, small, tmp_path):
    changes, severity, words = MISFITS[case]
    crop = {"crop larger than the images": [76, 76], "little crop": [4, 4]}.get(case, [6, 6])
    core = "observation.encoder.rgb.core_kwargs"
    modalities = "observation.modalities.obs"
    config = json.loads(OFFLINE.read_text())
    keys = {f"{modalities}.rgb": [IMAGE], f"{modalities}.low_dim": [POSITION]}
    settings = {f"{core}.augment": "crops", f"{core}.crop_shape": crop, **keys, "train.batch_size": 4, **changes}
    for path, value in settings.items():
        change_setting(config, path, value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    examination = examine_file(small, str(tmp_path / "config.json"))
    assert any(re.search(f"^config: .*{words}", line) for line in lines(examination)), lines(examination)
    assert exit_status([examination]) == severity


@pytest.fixture(scope="module")
def policy():
    return make_policy()


def save_checkpoint(policy, path, **changes):
    shapes = {"all_shapes": OBS_SHAPES, "ac_dim": ACTION_DIM, "all_obs_keys": list(OBS_SHAPES)}
    metadata = {**ENV_ARGS, "env_version": importlib.metadata.version("robosuite")}
    return save(policy, path, **{"shape_metadata": shapes, "env_metadata": metadata, **changes})


def diverged(policy):
    def with_a_nan(nets):
        name = next(name for name, value in nets.items() if isinstance(value, torch.Tensor) and value.is_floating_point())
        return {**nets, name: torch.full_like(nets[name], torch.nan)}

    return with_networks(policy.serialize(), with_a_nan)


BAD_CHECKPOINTS = {
    "diverged": (lambda policy: {"model": diverged(policy)}, ERROR, "have NaN or infinite weights .1 of"),
    "unknown algorithm": (lambda policy: {"algo_name": "fbc_fluid"}, ERROR, "algorithm: is 'fbc_fluid', which is not known here"),
    "other networks": (lambda policy: {"model": {"policy.x": torch.zeros(1)}}, ERROR, "policy: cannot be made from it"),
    "config that is no JSON": (lambda policy: {"config": "{"}, ERROR, "is not a robomimic checkpoint"),
    "another robosuite": (lambda policy: {"env_metadata": ENV_ARGS}, WARNING, "is of robosuite 1.4.1"),
    "images of another size": (
        lambda policy: {
            "env_metadata": {**ENV_ARGS, "env_kwargs": {"camera_names": "agentview", "camera_heights": 84, "camera_widths": 84}}
        },
        ERROR,
        r"env_metadata: its environment gives agentview_image as .3, 84, 84., and the policy takes .3, 32, 32.",
    ),
    "no environment": (lambda policy: {"env_metadata": {}}, ERROR, "env_metadata: lacks env_name"),
}


def test_a_good_checkpoint_has_no_findings(policy, tmp_path):
    examination = examine_file(save_checkpoint(policy, tmp_path / "good.pth"))
    assert examination.findings == []
    assert examination.facts["algorithm"] == "fbc_frozen"


@pytest.mark.parametrize("case", BAD_CHECKPOINTS)
def test_what_is_wrong_with_a_checkpoint_is_found(case, policy, tmp_path):
    changes, severity, words = BAD_CHECKPOINTS[case]
    examination = examine_file(save_checkpoint(policy, tmp_path / "bad.pth", **changes(policy)))
    assert any(re.search(words, line) for line in lines(examination)), lines(examination)
    assert exit_status([examination]) == severity


def test_weights_that_a_checkpoint_only_refers_to_are_named_and_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.save(SmallBackbone.backbone.build().state_dict(), tmp_path / "weights.pth")
    config = make_config()
    config.algo.checkpoint.frozen_weights = "reference"
    config.observation.encoder.rgb.core_kwargs.update({"pretrained_encoder": True, "weights": str(tmp_path / "weights.pth")})
    path = save_checkpoint(make_policy(config), tmp_path / "referring.pth")
    examination = examine_file(path)
    assert exit_status([examination]) == NOTE and "refers to the weights of small" in examination.findings[0].what
    (tmp_path / "weights.pth").unlink()
    assert exit_status([examine_file(path)]) == ERROR


def test_a_truncated_checkpoint_is_an_error(policy, tmp_path):
    path = save_checkpoint(policy, tmp_path / "whole.pth")
    for share in (0, 0.3, 0.9):
        (tmp_path / "half.pth").write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        assert exit_status([examine_file(tmp_path / "half.pth")]) == ERROR


def test_a_checkpoint_that_would_execute_something_does_not(policy, tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"algo_name": Malicious()}, tmp_path / "malicious.pth")
    assert exit_status([examine_file(tmp_path / "malicious.pth")]) == ERROR
    # robomimic evaluates the names of some classes.
    config = config_factory("bc")
    config.observation.modalities.obs.rgb = ["agentview_image"]
    hostile = f"__import__('os').mkdir({str(tmp_path / 'executed')!r})"
    with config.unlocked():
        core_kwargs = {"backbone_class": "ResNet18Conv", "backbone_kwargs": {"pretrained": False}, "pool_class": hostile}
        config.observation.encoder.rgb.core_kwargs = core_kwargs
    path = save_checkpoint(policy, tmp_path / "evaluated.pth", algo_name="bc", config=config.dump())
    assert any("which robomimic would evaluate as Python" in line for line in lines(examine_file(path)))
    assert not (tmp_path / "executed").exists()


BAD_PAIRS = {
    "mujoco": ("3.11.0", "mujoco: 3.11.0 does not go with robomimic_frozen"),
    "numpy": ("2.2.0", "numpy: 2.2.0 does not go with robomimic_frozen"),
    "robosuite": ("1.5.1", "robosuite: 1.5.1 does not go with robomimic_frozen"),
    "torchvision": ("0.20.0", "torchvision: 0.20.0 was built for another torch"),
    "torch": ("2.4.0", "torchvision: .* was built for another torch than 2.4.0, which goes with torchvision 0.19"),
    "robomimic": (None, "robomimic: is not installed, and robomimic_frozen needs it"),
}


def test_the_versions_of_this_installation_go_together():
    assert list(installation.bad_pairs()) == []


@pytest.mark.parametrize("package", BAD_PAIRS)
def test_a_bad_pair_of_versions_is_found(package, monkeypatch):
    version, words = BAD_PAIRS[package]
    installed = importlib.metadata.version

    def patched(name):
        if name == package and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version if name == package else installed(name)

    monkeypatch.setattr(importlib.metadata, "version", patched)
    assert any(re.search(words, line) for line in lines(Examination("", {}, list(installation.bad_pairs()))))


def test_a_python_that_is_too_new_is_found(monkeypatch):
    monkeypatch.setattr(platform, "python_version", lambda: "3.13.1")
    assert [finding.where for finding in installation.bad_pairs()] == ["python"]


@pytest.mark.sim
def test_this_installation_is_looked_at_and_told_in_json(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("MUJOCO_GL", "broken")
    status = cli.main(["doctor", "--json"])
    report = json.loads(capfd.readouterr().out)
    (examination,) = report["examinations"]
    facts = examination["facts"]
    for package in PACKAGES:
        assert facts[package] == importlib.metadata.version(package)
    assert facts["autoload"] == "active"
    assert facts["extra offline"] == facts["extra export"] == "installed" and "extra test" not in facts
    assert facts["hub"].startswith("https://huggingface.co, ")
    assert facts["MUJOCO_GL=broken"].startswith("does not render")
    assert "renders" in (facts["MUJOCO_GL=egl"], facts["MUJOCO_GL=osmesa"])
    assert facts["weights of resnet18"] == "not here"
    assert Path(facts["weights of efficientnet_lite0"]).is_file()
    assert not list(tmp_path.rglob("*.pth"))
    assert status == report["status"] == 2
    assert "MUJOCO_GL=broken cannot render here" in [finding["what"] for finding in examination["findings"]]


def test_autoload_that_is_switched_off_and_a_package_that_cannot_be_imported_are_noticed(monkeypatch):
    monkeypatch.setenv("ROBOMIMIC_FROZEN_AUTOLOAD", "0")
    monkeypatch.setattr(installation, "_MODULES", ("robomimic.algo", "no_such_package"))
    examination = installation.examine_installation()
    broken, switched_off = examination.findings
    assert broken.where == "no_such_package" and "ModuleNotFoundError" in broken.what and broken.severity == ERROR
    assert switched_off.severity == NOTE and examination.facts["autoload"] == "switched off by ROBOMIMIC_FROZEN_AUTOLOAD=0"


def test_the_report_sends_nothing_to_the_terminal_that_a_hostile_file_has_in_its_names():
    finding = Finding(WARNING, "demo_\x1b[31m\udcff\n", "is é", "rename it")
    printed = as_text([Examination("file", {"size": "1"}, [finding])])
    assert "demo_\\x1b[31m\\udcff\\n: is é" in printed
    assert printed.startswith("```text\n") and "warnings: 1" in printed


def test_a_config_without_a_dataset_is_refused(capfd):
    assert cli.main(["doctor", "--config", str(OFFLINE)]) == 1
    assert "give the dataset, too" in capfd.readouterr().err
