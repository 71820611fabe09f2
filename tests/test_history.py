"""What a training run shows: its scalars, and curves of them."""

import json

import pytest
import torch
from policies import make_batch, make_policy
from tensorboardX import SummaryWriter

from robomimic_frozen import cli
from robomimic_frozen.evaluation.history import losses, read_histories, success_rates


@pytest.fixture
def make_run(tmp_path):
    """The folder of a run as robomimic leaves it."""

    def make(name, scalars, steps_per_epoch=100):
        folder = tmp_path / "experiment" / name
        with SummaryWriter(str(folder / "logs" / "tb")) as writer:
            for tag, values in scalars.items():
                for epoch, value in enumerate(values, start=1):
                    writer.add_scalar(tag, value, epoch)
        (folder / "config.json").write_text(json.dumps({"experiment": {"epoch_every_n_steps": steps_per_epoch}}))
        return folder

    return make


def test_losses_and_success_rates_are_found_among_the_scalars_of_any_run(make_run):
    run = make_run(
        "1",
        {
            "Train/Loss": [2, 1],
            "Valid/Loss": [3, 2],
            "Train/Critic/Critic1_Loss": [5, 4],
            "Train/Policy_Grad_Norms": [1, 1],
            "Rollout/Success_Rate/Lift-v1": [0, 0.5],
            "Rollout/Success_Rate/Lift-v1-mean": [0, 0.25],
            "Timing_Stats/Train_Epoch": [0.5, 1],
        },
    )
    (history,) = read_histories([run])
    assert history.name == "experiment/1"
    assert losses(history) == {"Train/Loss": {1: 2, 2: 1}, "Valid/Loss": {1: 3, 2: 2}, "Train/Critic/Critic1_Loss": {1: 5, 2: 4}}
    assert success_rates(history) == {"Lift-v1": {1: 0, 2: 0.5}}


def test_what_a_resumed_run_logged_again_counts(make_run):
    make_run("1", {"Train/Loss": [3, 2]})
    (history,) = read_histories([make_run("1", {"Train/Loss": [3, 1]})])
    assert losses(history) == {"Train/Loss": {1: 3, 2: 1}}


@pytest.mark.parametrize("name", ["curves.png", "curves.svg"])
def test_all_runs_of_a_folder_are_drawn(name, make_run, tmp_path):
    make_run("1", {"Train/Loss": [2, 1], "Rollout/Success_Rate/Lift": [0, 1]})
    make_run("2", {"Train/Loss": [2, -1]}, steps_per_epoch=None)
    assert cli.main(["plot", str(tmp_path), "--out", str(tmp_path / "new" / name)]) == 0
    picture = (tmp_path / "new" / name).read_bytes()
    assert picture.startswith(b"\x89PNG") or (b"experiment/1" in picture and b"success rate" in picture)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs"], "runs holds no TensorBoard logs of a robomimic run"),
        (["experiment", "--out", "curves.txt"], "curves.txt is no picture; choose a name that ends in .png, .svg, .pdf"),
    ],
)
def test_bad_input_is_one_line(arguments, words, make_run, tmp_path, monkeypatch, capfd):
    make_run("1", {"Train/Loss": [2, 1]})
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plot", *arguments]) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["experiment"]


def test_training_reports_speed_learning_rate_gradients_and_decay():
    policy = make_policy()
    policy.set_train()
    for _ in range(3):
        log = policy.log_info(policy.train_on_batch(make_batch(policy), epoch=1))
    assert {"Loss", "Policy_Grad_Norms", "EMA_Decay", "Steps_Per_Second", "Optimizer/policy0_lr"} <= log.keys()
    assert log["EMA_Decay"] == pytest.approx(1 - 4**-0.75)
    assert log["Steps_Per_Second"] > 0
    policy.on_epoch_end(1)
    policy.set_eval()
    with torch.no_grad():
        validation = policy.log_info(policy.train_on_batch(make_batch(policy), epoch=1, validate=True))
    assert "Steps_Per_Second" not in validation and "Loss" in validation
