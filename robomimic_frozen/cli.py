"""The `robomimic-frozen` command. Only the chosen subcommand loads torch or robomimic, and no `--help` does."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from robomimic_frozen.cli_flags import (
    COMMANDS,
    CONFIG,
    NEXT_OBS,
    PARSER,
    SET,
    TASK,
    command,
    executor_flags,
    executor_of,
    flag,
    refuse,
    require_positive,
)
from robomimic_frozen.data.lerobot.dataset import PREFIX
from robomimic_frozen.data.sources import RELEASED, default_view, find_source
from robomimic_frozen.errors import ConfigError, RobomimicFrozenError
from robomimic_frozen.integration.registration import register
from robomimic_frozen.utils.files import already_there, new_file, require_writable
from robomimic_frozen.utils.hub import repository_in
from robomimic_frozen.utils.parallel import ThisProcess
from robomimic_frozen.utils.urls import exists, is_url, upload_to


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 or what the command says, or 1 after an error, which is printed as one line.

    It is 1 without a word where nobody reads stdout any longer, as in `robomimic-frozen info CKPT | head -1`.
    """
    try:
        try:
            return _run(sys.argv[1:] if argv is None else list(argv))
        finally:
            sys.stdout.flush()  # here, and not when Python ends
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        return 1


def _run(words: list[str]) -> int:
    # With robomimic's own --agent, `eval` has robomimic's own flags.
    stock_eval = words[:1] == ["eval"] and any(word.partition("=")[0] == "--agent" for word in words)
    arguments, rest = PARSER.parse_known_args([_STOCK_EVAL, *words[1:]] if stock_eval else words)
    if rest and not stock_eval:
        PARSER.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.stock_flags = rest
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        return arguments.run(arguments) or 0
    except RobomimicFrozenError as error:
        print(f"robomimic-frozen {words[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"robomimic-frozen {words[0]}: interrupted", file=sys.stderr)
        return 130


@command("quickstart", "demonstrations -> training -> rollouts, in minutes",
    "Make scripted demonstrations of a task, train a policy on frozen ImageNet features with robomimic's own train.py, roll it out in "
    "parallel, as `eval` does, and sum up in OUT/summary.json.",
    TASK,
    flag("--out", "folder for all results (runs/quickstart/TASK)", type=Path),
    flag("--demos", "demonstrations to train on (as the task says: 24 of lift, 30 of can and square)", type=int),
    flag("--rollouts", "rollouts to judge the policy by (%(default)s)", 10),
    flag("--seed", "of demonstrations and training (%(default)s)", 0),
    flag("--workers", "processes that make demonstrations and roll out", os.cpu_count()))  # fmt: skip
def _quickstart(arguments: Namespace) -> None:
    require_positive(arguments, "demos", "rollouts", "workers")
    register()
    from robomimic_frozen.study.quickstart import quickstart

    out = arguments.out or Path("runs", "quickstart", arguments.task)
    quickstart(out, arguments.task, arguments.demos, arguments.rollouts, arguments.seed, arguments.workers)


@command("demos", "scripted demonstrations as a robomimic dataset",
    "Make a robomimic HDF5 file of successful demonstrations by scripted operators of different skill.",
    TASK,
    flag("--out", "file to write (TASK_demos.hdf5)", type=Path),
    flag("--num", "demonstrations (%(default)s)", 60),
    flag("--seed", "the same seed gives the same file (%(default)s)", 0),
    flag("--workers", "parallel processes (all cores)", os.cpu_count()),
    flag("--cameras", "cameras to record (those of the task)", nargs="+", metavar="NAME"),
    flag("--image-size", "height and width of images in pixels (84, or what the task of a plugin says)", type=int),
    NEXT_OBS)  # fmt: skip
def _demos(arguments: Namespace) -> None:
    from robomimic_frozen.data.demos import generate_demos

    out = arguments.out or Path(f"{arguments.task}_demos.hdf5")
    require_writable(out.parent)
    how = {"camera_names": arguments.cameras, "image_size": arguments.image_size, "next_obs": arguments.next_obs, "task": arguments.task}
    summary = generate_demos(out, arguments.num, arguments.seed, arguments.workers, **how)
    print(f"{summary.path}: {summary.num_demos} demonstrations, {summary.num_frames} frames, of {summary.attempts} attempts")


_RENDERING: Final = ("cameras", "next_obs", "absolute_actions", "check")


@command("data", "image dataset of robomimic's released demonstrations, or of your own; LeRobot datasets, both ways",
    "Render the observations of raw demonstrations with robomimic's environment, in parallel, as its dataset_states_to_obs.py does. "
    "Released ones are downloaded from the Hugging Face hub first. Or convert LeRobot datasets (v3) to robomimic's HDF5, and the other way "
    "round. What is interrupted goes on where it stopped.",
    flag("source", f"{', '.join(RELEASED)}, or a raw HDF5 file of robomimic or of robosuite's teleoperation, also by URL; lerobot:DIR or "
         "lerobot:OWNER/NAME of the hub; with --to-lerobot any HDF5 file of robomimic", metavar="SOURCE"),
    flag("--out", "file to write, also at a URL (NAME_image.hdf5 here, or NAME.hdf5 of lerobot:)"),
    flag("--cameras", "cameras to render (those of robomimic's own image datasets)", nargs="+", metavar="NAME"),
    flag("--image-size", "height and width of images in pixels (84; 240 of ToolHang; what they are of lerobot:)", type=int),
    NEXT_OBS,
    flag("--absolute-actions", "also store where actions send the arm: actions_abs, and its parts in action_dict", False),
    flag("--check", "compare a sample of the file, new or old, with frames rendered again", False),
    flag("--to-lerobot", "write SOURCE as a LeRobot dataset to this folder, which must be new", type=Path, metavar="DIR"),
    ("--map", {"help": "of LeRobot, either way: which keys of a demo a feature is, where the table of docs/datasets.md is not right; "
               "FEATURE= leaves it out; repeatable", "action": "append", "default": [], "metavar": "FEATURE=KEY[+KEY...]"}),
    flag("--float32", "with --to-lerobot: write numbers as float32, which LeRobot's own policies need", False),
    flag("--fps", "with --to-lerobot: steps per second (as the file says)", type=int),
    *executor_flags())  # fmt: skip
def _data(arguments: Namespace) -> None:
    require_positive(arguments, "workers", "image_size", "fps")  # before a download
    if arguments.to_lerobot is not None:
        refuse(arguments, "is of no use with --to-lerobot", "out", "image_size", *_RENDERING)
        _write_lerobot(arguments)
        return
    refuse(arguments, "is of use with --to-lerobot only", "float32", "fps")
    if arguments.source.startswith(PREFIX):
        refuse(arguments, "is of no use with lerobot:", *_RENDERING)
        _read_lerobot(arguments)
    else:
        refuse(arguments, "is of use with lerobot: or --to-lerobot only", "map")
        _render(arguments)


def _render(arguments: Namespace) -> None:
    from robomimic_frozen.data.raw_file import read_raw_file
    from robomimic_frozen.data.rendering import View, check_images, render_dataset

    source = arguments.source
    out = arguments.out or f"{source.replace('-', '_') if source in RELEASED else Path(source).stem}_image.hdf5"
    is_made = exists(out)
    if is_made and not arguments.check:
        raise already_there(out)
    raw = read_raw_file(find_source(source))
    cameras, image_size = default_view(raw.env_meta["env_name"])
    view = View(tuple(arguments.cameras or cameras), arguments.image_size or image_size, arguments.next_obs, arguments.absolute_actions)
    with executor_of(arguments) as executor:
        if not is_made:
            with upload_to(out) as path:
                render_dataset(raw, path, view, executor)
            print(f"{out}: {len(raw.steps)} demonstrations, {sum(raw.steps.values())} frames of {', '.join(view.cameras)}")
        if arguments.check:
            print(f"{out}: {check_images(raw, out, executor)} frames are what is rendered again")


def _read_lerobot(arguments: Namespace) -> None:
    from robomimic_frozen.data.lerobot.dataset import require_libraries
    from robomimic_frozen.data.lerobot.keys import parse_overrides

    require_libraries()
    from robomimic_frozen.data.lerobot.reading import read_lerobot

    out = arguments.out or f"{Path(arguments.source.removeprefix(PREFIX)).resolve().name}.hdf5"
    if exists(out):
        raise already_there(out)
    with executor_of(arguments) as executor, upload_to(out) as path:
        found = read_lerobot(arguments.source, path, parse_overrides(arguments.map), arguments.image_size, executor)
    steps = sum(episode.length for episode in found.episodes)
    print(f"{out}: {len(found.episodes)} demonstrations, {steps} frames, {found.fps:g} per second")
    if found.env_args is None:
        print("There is no environment to roll out in: train with --set experiment.rollout.enabled=false")


def _write_lerobot(arguments: Namespace) -> None:
    from robomimic_frozen.data.lerobot.dataset import require_libraries
    from robomimic_frozen.data.lerobot.keys import parse_overrides

    if arguments.source.startswith(PREFIX):
        raise ConfigError(f"{arguments.source} is a LeRobot dataset already; give an HDF5 file, or leave out --to-lerobot")
    require_libraries()
    from robomimic_frozen.data.lerobot.writing import write_lerobot

    out, how = arguments.to_lerobot, (parse_overrides(arguments.map), arguments.float32, arguments.fps)
    with executor_of(arguments) as executor:
        written = write_lerobot(arguments.source, out, *how, executor)
    print(f"{out}: {written.episodes} episodes, {written.frames} frames of {', '.join(written.features)}")


@command("train", "robomimic's train.py, with --set and an honest exit status",
    "Run robomimic's scripts/train.py. Relative paths are relative to the current folder, existing runs are kept, and the exit status "
    "is 1 when the run failed.",
    *CONFIG,
    flag("--name", "name of the experiment"),
    flag("--debug", "a few steps only, to see whether it runs", False),
    flag("--resume", "go on with an interrupted run, after its last epoch (--dataset if that was moved)", type=Path, metavar="RUN_DIR"),
    flag("--init-from", "start from this policy's weights: a checkpoint, a run, or hf://OWNER/NAME (algo.init_from)", metavar="CKPT"),
    allow_abbrev=False)  # fmt: skip
def _train(arguments: Namespace) -> None:
    register()
    from robomimic_frozen.integration.training import train

    asked = arguments.config, arguments.algo, arguments.name
    if arguments.resume and any((*asked, arguments.init_from)):
        raise ConfigError("--resume takes its config from the run; leave out --config, --algo, --name and --init-from")
    start = [f"algo.init_from={json.dumps(arguments.init_from)}"] if arguments.init_from else []
    train(*asked, arguments.dataset, arguments.debug, [*start, *arguments.set], arguments.resume)


@command("eval", "parallel rollouts of checkpoints, all from the same seeds",
    "Roll out checkpoints from the same seeds, in parallel, rendering only what the policies look at. An interrupted evaluation goes on "
    "where it stopped. With --agent CKPT it is robomimic's scripts/run_trained_agent.py, and every flag of that works (--n_rollouts N, "
    "--horizon H, --video_path FILE, ...), besides --set.",
    flag("checkpoints", "a checkpoint, its path, URL or hf://OWNER/NAME, or the folder of a run for all of its", nargs="+", metavar="CKPT"),
    flag("--episodes", "of each checkpoint (%(default)s)", 50),
    flag("--horizon", "steps of an episode (as the checkpoint's config says)", type=int),
    flag("--seed", "of the first episode; the next has the next (%(default)s)", 0),
    flag("--out", "folder for results (%(default)s)", Path("runs/eval")),
    flag("--videos", "how many episodes of each to record (%(default)s)", 0),
    SET,
    *executor_flags(),
    allow_abbrev=False)  # fmt: skip
def _eval(arguments: Namespace) -> None:
    require_positive(arguments, "episodes")
    require_writable(arguments.out)
    with executor_of(arguments) as executor:
        from robomimic_frozen.evaluation.evaluate import as_table, evaluate, require_results

        how_long = arguments.episodes, arguments.horizon
        of_each = arguments.seed, arguments.out, arguments.videos
        summaries = evaluate(arguments.checkpoints, *how_long, executor, *of_each, overrides=arguments.set)
    print(as_table(summaries))
    require_results(summaries, arguments.out)


_STOCK_EVAL: Final = "eval --agent"


@command(_STOCK_EVAL, "robomimic's run_trained_agent.py", None, SET, allow_abbrev=False, add_help=False)
def _stock_eval(arguments: Namespace) -> None:
    register()
    from robomimic_frozen.integration.rollouts import roll_out_stock

    roll_out_stock(arguments.stock_flags, arguments.set)


@command("plot", "loss and success curves of training runs",
    "Draw the loss and the success rate of any robomimic runs, of its own algorithms, too, from their TensorBoard logs.",
    flag("runs", "folder of a run, or of several", nargs="+", type=Path, metavar="RUN"),
    flag("--out", "picture to write: .png, .svg or .pdf (%(default)s)", Path("runs/curves.png")))  # fmt: skip
def _plot(arguments: Namespace) -> None:
    from robomimic_frozen.evaluation.history import plot_histories, read_histories

    require_writable(arguments.out.parent)
    plot_histories(read_histories(arguments.runs), arguments.out)
    print(arguments.out)


@command("study", "compare configurations: training, rollouts, report",
    "Train and roll out every configuration of a study file with every number of demonstrations and every seed, each within the same "
    "budget; then write OUT/report.html. What is done already, with the same code and data, is not done again.",
    flag("plan", "what to compare, in YAML or JSON (see docs/studies.md)", type=Path, metavar="FILE"),
    flag("--out", "folder for results (%(default)s)", Path("runs/study")),
    flag("--only", "only the runs with this in their name, as in 'frozen, 10 demonstrations, seed 1'", "", metavar="TEXT"),
    *executor_flags())  # fmt: skip
def _study(arguments: Namespace) -> None:
    register()
    from robomimic_frozen.study.plan import read_plan
    from robomimic_frozen.study.report import write_report
    from robomimic_frozen.study.study import run_study
    from robomimic_frozen.study.training import StudyError

    require_writable(arguments.out)
    try:
        with executor_of(arguments) as executor:
            here = arguments.executor == "local"  # one run at a time, so that each has the machine for itself
            of_runs, rollout_workers = (ThisProcess(), executor.workers) if here else (executor, executor.threads or 1)
            run_study(read_plan(arguments.plan), arguments.out, of_runs, rollout_workers, arguments.only)
    except StudyError:
        with contextlib.suppress(ConfigError):  # none is finished
            print(write_report(arguments.out, with_films=True))
        raise
    print(write_report(arguments.out, with_films=True))


@command("report", "write the report of a study again",
    "Write report.html and the figures of a study, finished or not, from the results in its folder.",
    flag("folder", "--out of robomimic-frozen study", type=Path, metavar="DIR"),
    flag("--no-films", "without pictures of episodes, which are rolled out again for them", False))  # fmt: skip
def _report(arguments: Namespace) -> None:
    from robomimic_frozen.study.report import write_report

    print(write_report(arguments.folder, not arguments.no_films))


@command("precompute", "extract the cached features ahead of training",
    "Extract the features that training with this config would extract first. An interrupted extraction goes on where it stopped.",
    *CONFIG, *executor_flags("none but this process"), allow_abbrev=False)  # fmt: skip
def _precompute(arguments: Namespace) -> None:
    with executor_of(arguments, in_this_process=True) as executor:
        register()
        from robomimic_frozen.integration.training import precompute

        precompute(arguments.config, arguments.algo, arguments.dataset, arguments.set, executor)


_CACHE: Final = COMMANDS.add_parser(
    "cache", help="list, verify or prune the cached features", description="What lies in the feature cache."
).add_subparsers(dest="action", required=True, metavar="ACTION")
_DIR: Final = flag("--dir", "folder of the caches, or for list their URL (~/.cache/robomimic_frozen)")


@command("list", "size, age and purpose of each cache", None, _DIR, among=_CACHE)
@command("verify", "check the checksums, extract a sample again and compare", None, _DIR,
    flag("--dataset", "the HDF5 file, if it was moved since", type=Path), among=_CACHE)  # fmt: skip
@command("prune", "remove what is unfinished or damaged", None, _DIR,
    flag("--unused-days", "also what was not used for so long; 0 for all", type=float, metavar="DAYS"),
    flag("--dry-run", "only say what would be removed", False), among=_CACHE)  # fmt: skip
def _cache(arguments: Namespace) -> None:
    from robomimic_frozen.features import inventory

    if arguments.action == "list":
        inventory.print_entries(arguments.dir)
    elif arguments.dir is not None and is_url(arguments.dir):
        copies = f"{arguments.action} a folder that has copies of them"
        raise ConfigError(f"{arguments.dir} is a URL, of which caches are only listed; {copies}")
    elif arguments.action == "verify":
        inventory.print_verification(arguments.dir, arguments.dataset)
    else:
        inventory.print_pruned(arguments.dir, arguments.unused_days, arguments.dry_run)


@command("info", "what a checkpoint holds", "Algorithm, dataset, parameters and backbone of a checkpoint.",
    flag("checkpoint", "a checkpoint, its path, URL or hf://OWNER/NAME", metavar="CKPT"),
    flag("--config", "print the whole config of its run as JSON instead", False))  # fmt: skip
def _info(arguments: Namespace) -> None:
    from robomimic_frozen.policies.checkpoints import describe_checkpoint, read_checkpoint

    if arguments.config:
        print(read_checkpoint(arguments.checkpoint, "CKPT")["config"])
        return
    for name, value in describe_checkpoint(arguments.checkpoint):
        print(f"{name:23} {value}")


@command("push", "share a policy on the Hugging Face hub",
    "Share the policy of a checkpoint as a repository of the Hugging Face hub, as safetensors and JSON, with a page that says how well it "
    "does in rollouts. Those are as `eval` makes them, and what is done already is not done again. No path or name of this machine is "
    "shared. Log in before: hf auth login, or HF_TOKEN.",
    flag("checkpoint", "a checkpoint, or the folder of a run for its newest", metavar="CKPT"),
    flag("repo", "OWNER/NAME, made where it is not there", metavar="REPO"),
    flag("--episodes", "to roll out for the page; 0 for none (%(default)s)", 50),
    flag("--seed", "of the first episode; the next has the next (%(default)s)", 0),
    flag("--out", "folder for results (%(default)s)", Path("runs/eval")),
    flag("--private", "make a repository that only you see", False),
    *executor_flags())  # fmt: skip
def _push(arguments: Namespace) -> None:
    if arguments.episodes:
        require_positive(arguments, "episodes")
    require_writable(arguments.out)
    with executor_of(arguments) as executor:
        register()
        from robomimic_frozen.deployment.publishing import push

        how = arguments.episodes, arguments.seed, arguments.out, executor, arguments.private
        print(push(arguments.checkpoint, arguments.repo, *how))


@command("fetch", "a checkpoint of a policy that was shared on the Hugging Face hub",
    "Fetch a policy that `push` has shared, and write it as a checkpoint for robomimic's own scripts. The commands of this package take "
    "hf://OWNER/NAME themselves.",
    flag("repo", "hf://OWNER/NAME, or hf://OWNER/NAME@REVISION", metavar="REPO"),
    flag("--out", "file to write (NAME.pth here)", type=Path))  # fmt: skip
def _fetch(arguments: Namespace) -> None:
    from robomimic_frozen.policies.hub import fetch_policy

    name, _ = repository_in(arguments.repo)
    out = arguments.out or Path(f"{name.rpartition('/')[2]}.pth")
    with new_file(out) as beside:
        shutil.copyfile(fetch_policy(arguments.repo), beside)
    print(out)


@command("export", "a policy as one graph for other runtimes",
    "Write encoder and policy of an fbc_frozen checkpoint as one graph, raw observations and noise in, a chunk of actions out, and compare "
    "it with the policy (docs/robot.md).",
    flag("checkpoint", "a checkpoint, its path, URL or hf://OWNER/NAME, or the folder of a run for its newest", metavar="CKPT"),
    flag("--format", "onnx, or torch for what torch.export.load reads (%(default)s)", "onnx", choices=("onnx", "torch")),
    flag("--out", "file to write (NAME.onnx or NAME.pt2 here)", type=Path))  # fmt: skip
def _export(arguments: Namespace) -> None:
    from robomimic_frozen.deployment.export import FORMATS, export_policy

    out = arguments.out or Path(f"{Path(arguments.checkpoint).stem}{FORMATS[arguments.format]}")
    with new_file(out) as beside:
        difference = export_policy(arguments.checkpoint, beside, arguments.format)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, differs from the policy by {difference:.1g} at most")


@command("doctor", "what is wrong with the installation, a dataset or a checkpoint, and what to do",
    "Without FILE, check the installation: versions, imports, OpenGL, weights, cache. With FILE, read all of a dataset or a checkpoint "
    "and say what is wrong with it. Nothing is changed or downloaded. The exit status is 0 for nothing but notes, 1 for warnings, 2 for "
    "errors.",
    flag("files", "a dataset (HDF5) or a checkpoint (.pth), its path or URL, or hf://OWNER/NAME", nargs="*", metavar="FILE"),
    flag("--config", "config JSON that the datasets should fit"),
    flag("--json", "print JSON", False))  # fmt: skip
def _doctor(arguments: Namespace) -> int:
    from robomimic_frozen.doctor.examine import examine_files
    from robomimic_frozen.doctor.findings import Examination, as_json, as_text, exit_status
    from robomimic_frozen.doctor.installation import examine_installation, versions

    if arguments.config and not arguments.files:
        raise ConfigError("--config is what a dataset should fit; give the dataset, too")
    with contextlib.redirect_stdout(sys.stderr):  # robomimic and robosuite print when they are imported
        if arguments.files:
            examinations = [*examine_files(arguments.files, arguments.config), Examination("installation", versions(), [])]
        else:
            examinations = [examine_installation()]
    print(as_json(examinations) if arguments.json else as_text(examinations))
    return exit_status(examinations)


if __name__ == "__main__":
    sys.exit(main())
