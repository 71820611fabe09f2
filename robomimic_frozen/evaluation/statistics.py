"""What a number of episodes says about a policy."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest


@dataclasses.dataclass(frozen=True)
class Episode:
    """How an episode went. An episode that ended in an error is neither a success nor a failure.

    Attributes:
        seed: of the environment and of the policy's random numbers.
        success: whether the task was solved; None after an error.
        steps: of the environment.
        total_reward: the sum of its rewards.
        seconds: from its first reset on.
        error: what went wrong, or None.
    """

    seed: int
    success: bool | None
    steps: int
    total_reward: float
    seconds: float
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Summary:
    """What the episodes of one checkpoint come to.

    Attributes:
        episodes: that ended, in success or failure.
        successes: of those.
        errors: how many episodes ended in an error; they count as neither.
        success_rate: None without episodes, as are the next ones.
        interval: of the success rate, with 95 % confidence.
        mean_steps, mean_return, steps_per_second: of an episode.
    """

    checkpoint: str
    episodes: int
    successes: int
    errors: int
    success_rate: float | None
    interval: tuple[float, float] | None
    mean_steps: float | None
    mean_return: float | None
    steps_per_second: float | None


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a success rate (Wilson 1927)."""
    interval = binomtest(successes, episodes).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def summarize(checkpoint: str, episodes: Sequence[Mapping[str, Any]]) -> Summary:
    """Return the summary of episodes as their files hold them."""
    ended = [episode for episode in episodes if episode["error"] is None]
    successes = sum(episode["success"] for episode in ended)
    if not ended:
        return Summary(checkpoint, 0, 0, len(episodes), None, None, None, None, None)
    return Summary(
        checkpoint=checkpoint,
        episodes=len(ended),
        successes=successes,
        errors=len(episodes) - len(ended),
        success_rate=successes / len(ended),
        interval=wilson_interval(successes, len(ended)),
        mean_steps=statistics.mean(episode["steps"] for episode in ended),
        mean_return=statistics.mean(episode["total_reward"] for episode in ended),
        steps_per_second=sum(episode["steps"] for episode in ended) / sum(episode["seconds"] for episode in ended),
    )


def as_table(summaries: Sequence[Summary]) -> str:
    """Return a table in Markdown, a row for each checkpoint."""
    lines = ["| checkpoint | success | 95 % | episodes | errors | steps | return | steps/s |", "|---|---|---|---|---|---|---|---|"]
    for summary in summaries:
        if summary.success_rate is None or summary.interval is None:
            lines.append(f"| {summary.checkpoint} | - | - | 0 | {summary.errors} | - | - | - |")
            continue
        low, high = summary.interval
        lines.append(
            f"| {summary.checkpoint} | {summary.success_rate:.2f} | {low:.2f}-{high:.2f} | {summary.episodes} | {summary.errors} | "
            f"{summary.mean_steps:.1f} | {summary.mean_return:.2f} | {summary.steps_per_second:.1f} |"
        )
    return "\n".join(lines)
