"""Episodes per minute of `robomimic-frozen eval` and of robomimic's own run_trained_agent.py, on the same checkpoint.

Both commands are timed whole, starting up included, one after the other on an idle machine; then outcomes are compared seed by
seed with those of robomimic's own `rollout` in environments made with these seeds.

    python scripts/benchmark_eval.py runs/quickstart/lift/trained/quickstart/*/models/model_epoch_12.pth
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# The last bits of an action depend on how many threads compute it; `eval` always takes one.
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--horizon", type=int, default=200)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--compare", type=int, default=10, help="seeds whose outcomes are compared (%(default)s)")
    parser.add_argument("--stock-outcomes", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stock_outcomes:
        print_stock_outcomes(arguments.checkpoint, arguments.horizon, arguments.compare)
        return
    from robomimic_frozen.simulation.gl import select_gl_backend

    select_gl_backend()  # for robomimic's script, too
    length = ["--horizon", str(arguments.horizon)]
    ours, episodes = time_ours(arguments, length)
    stock = min(time_stock(arguments, length, os.environ), time_stock(arguments, length, ONE_THREAD))
    stock_speed = f"{60 * arguments.episodes / stock:6.1f} episodes/minute ({stock:.1f} s; the faster of one and all threads)"
    print(f"robomimic's run_trained_agent.py {stock_speed}")
    print(f"robomimic-frozen eval            {60 * arguments.episodes / ours:6.1f} episodes/minute ({ours:.1f} s)")
    print(f"ratio                            {stock / ours:6.1f}")
    command = [sys.executable, __file__, str(arguments.checkpoint), *length, "--compare", str(arguments.compare), "--stock-outcomes"]
    compared = json.loads(subprocess.run(command, env=ONE_THREAD, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    same = sum(episodes[seed] == tuple(outcome) for seed, outcome in enumerate(compared))
    print(f"same success and steps           {same} of {len(compared)} seeds")


def time_ours(arguments: argparse.Namespace, length: list[str]) -> tuple[float, dict[int, tuple[bool, int]]]:
    """Seconds, and seed -> (success, steps)."""
    with tempfile.TemporaryDirectory() as out:
        ours = (sys.executable, "-m", "robomimic_frozen.cli", "eval")
        command = [*ours, arguments.checkpoint, "--episodes", arguments.episodes, "--workers", arguments.workers]
        seconds = timed([*map(str, command), *length, "--out", out], os.environ)
        episodes = [json.loads(file.read_text()) for file in Path(out).rglob("seed_*.json")]
    return seconds, {episode["seed"]: (episode["success"], episode["steps"]) for episode in episodes}


def time_stock(arguments: argparse.Namespace, length: list[str], environment: dict[str, str]) -> float:
    command = [sys.executable, "-m", "robomimic.scripts.run_trained_agent", "--agent", str(arguments.checkpoint)]
    return timed([*command, "--n_rollouts", str(arguments.episodes), *length, "--seed", "0"], environment)


def timed(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def print_stock_outcomes(checkpoint: Path, horizon: int, seeds: int) -> None:
    """[success, steps] of each seed as a line of JSON."""
    import robomimic.utils.file_utils as FileUtils
    from robomimic.scripts.run_trained_agent import rollout

    import robomimic_frozen

    robomimic_frozen.register()
    outcomes = []
    with contextlib.redirect_stdout(sys.stderr):
        policy, content = FileUtils.policy_from_checkpoint(ckpt_path=str(checkpoint))
        for seed in range(seeds):
            content["env_metadata"]["env_kwargs"]["seed"] = seed
            env, _ = FileUtils.env_from_checkpoint(ckpt_dict=content)
            stats, _ = rollout(policy, env, horizon)
            outcomes.append([bool(stats["Success_Rate"]), stats["Horizon"]])
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
