"""Shares a policy on the Hugging Face hub, with a page that says how well it does in rollouts."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from robomimic_frozen.deployment.card import Result, write_card
from robomimic_frozen.deployment.loading import load_policy
from robomimic_frozen.evaluation.evaluate import evaluate, finished_episodes, require_results
from robomimic_frozen.evaluation.films import film_strip
from robomimic_frozen.policies.checkpoints import environments_in, find_checkpoint, read_checkpoint
from robomimic_frozen.policies.portable import write_portable
from robomimic_frozen.simulation.environments import can_be_rolled_out
from robomimic_frozen.utils.hub import hub_errors_named, repository_in
from robomimic_frozen.utils.parallel import Executor

logger = logging.getLogger(__name__)

_PICTURE: Final = "rollout.jpg"


def push(place: str | Path, repo: str, episodes: int, seed: int, out: Path, executor: Executor, private: bool = False) -> str:
    """Share the policy of a checkpoint as the repository `repo` of the hub, in one commit, and return the address of its page.

    Rights are looked at first, then the policy is rolled out where that is not done yet, then all is uploaded. Of the machine no path
    is shared, and no name.

    Args:
        place: the checkpoint, or the folder of a run for its newest.
        repo: OWNER/NAME, made where it is not there; also as hf://OWNER/NAME.
        episodes: to roll out for the page; 0 for none.
        seed: of the first episode.
        out: folder of results, as that of `eval`; what is there already is not done again.
        private: whether a repository that is made is one.

    Raises:
        ConfigError: it is no checkpoint, or cannot be rolled out here; `repo` is written otherwise.
        EpisodesFailedError: every episode ended in an error.
        RemoteFileError: nobody is logged in, or may not write there, or the network fails.
    """
    from huggingface_hub import HfApi

    repo, _ = repository_in(repo)
    path = find_checkpoint(place, "CKPT")
    checkpoint = read_checkpoint(path, "CKPT")
    policy = load_policy(path, "cpu")
    hub = HfApi()
    with hub_errors_named(f"{repo} cannot be written to", "log in with a token that may write: hf auth login"):
        if hub.whoami().get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise ValueError("the token may only read")
    why_not = "no episodes were asked for"
    if episodes and not can_be_rolled_out(environments_in(checkpoint)[0]):
        episodes, why_not = 0, "there is no environment of its task"
        logger.info("not rolled out: %s", why_not)
    result, strip = _roll_out(path, checkpoint, episodes, seed, out, executor) if episodes else (None, None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_portable(checkpoint, folder)
        if strip is not None:
            shutil.copy(strip, folder / _PICTURE)
        picture = None if strip is None else _PICTURE
        write_card(folder / "README.md", repo, path, checkpoint, policy.observations, result, why_not, picture)
        with hub_errors_named(f"{repo} could not be written", "check your rights and the network, and run again"):
            hub.create_repo(repo, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Policy of robomimic_frozen")
    return f"{hub.endpoint}/{repo}"


def _roll_out(
    path: Path, checkpoint: Mapping[str, Any], episodes: int, seed: int, out: Path, executor: Executor
) -> tuple[Result, Path]:
    """Return how a policy does, and a picture of an episode: of the first success, or where there is none, of the first one."""
    horizon = json.loads(checkpoint["config"])["experiment"]["rollout"]["horizon"]
    summaries = evaluate([path], episodes, horizon, executor, seed, out, num_videos=0)
    require_results(summaries, out)
    ended = [each for each in finished_episodes(path, episodes, horizon, seed, out) if each["error"] is None]
    shown = next((each for each in ended if each["success"]), ended[0])
    return Result(summaries[0], seed, horizon), film_strip(path, shown, out / "videos")
