"""Milliseconds in which a policy turns one observation into one chunk of actions, image encoder included.

Checkpoints and numbers of flow steps take turns, in one thread, on the first observation of an episode, through robomimic's own rollout
policy.

    python scripts/benchmark_chunk.py MLP.pth CHIUNET.pth
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--flow-steps", nargs="+", type=int, default=[1, 2, 4, 10])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--chunks", type=int, default=10, help="in each round")
    arguments = parser.parse_args()
    import robomimic_frozen
    from robomimic_frozen.simulation.gl import select_gl_backend

    select_gl_backend()
    robomimic_frozen.register()
    from robomimic_frozen.evaluation.episodes import Rollouts

    torch.set_num_threads(1)
    cases = [(checkpoint, steps) for checkpoint in arguments.checkpoints for steps in arguments.flow_steps]
    rollouts = [Rollouts(checkpoint, [f"algo.flow_steps={steps}"]) for checkpoint, steps in cases]
    observations = [each.env.reset() for each in rollouts]
    milliseconds: list[list[float]] = [[] for _ in cases]
    for _ in range(arguments.rounds):
        for each, observation, found in zip(rollouts, observations, milliseconds, strict=True):
            start = time.perf_counter()
            for _ in range(arguments.chunks):
                each.policy.start_episode()
                each.policy(ob=observation)
            found.append(1000 * (time.perf_counter() - start) / arguments.chunks)
    print("| checkpoint | flow steps | one chunk | quartiles |")
    print("|---|---|---|---|")
    for (checkpoint, steps), found in zip(cases, milliseconds, strict=True):
        lower, median, upper = statistics.quantiles(found, n=4)
        print(f"| {checkpoint.name} | {steps} | {median:.1f} ms | {lower:.1f}-{upper:.1f} |")


if __name__ == "__main__":
    main()
