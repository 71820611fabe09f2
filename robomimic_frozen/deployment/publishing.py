"""Shares a policy on the Hugging Face hub, with a page that says how well it does in rollouts."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robomimic_frozen.deployment.card import Result, write_card
from robomimic_frozen.deployment.loading import load_policy
from robomimic_frozen.errors import ConfigError
from robomimic_frozen.evaluation.evaluate import evaluate, finished_episodes, require_results
from robomimic_frozen.evaluation.films import film_strip
from robomimic_frozen.integration.environments import check_can_be_rolled_out
from robomimic_frozen.policies.checkpoints import find_checkpoint, loadable, read_checkpoint
from robomimic_frozen.policies.portable import DESCRIPTION, write_portable
from robomimic_frozen.utils.hub import hub_errors_named, repository_in
from robomimic_frozen.utils.parallel import Executor

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

_PICTURE: Final = "rollout.jpg"


def push(place: str | Path, repo: str, episodes: int, seed: int, out: Path, executor: Executor, private: bool = False) -> str:
    """Share the policy of a checkpoint as the repository `repo` of the hub, in one commit, and return the address of its page.

    Who is logged in and what the repository holds is looked at first; then the policy is rolled out where that is not done yet; then all is
    uploaded. Places of files are not shared, but for the names of these.

    Args:
        place: the checkpoint, or the folder of a run for its newest.
        repo: OWNER/NAME, made where it is not there; also as hf://OWNER/NAME.
        episodes: to roll out for the page; 0 for none.
        seed: of the first episode.
        out: folder of results, as that of `eval`; what is there already is not done again.
        private: whether a repository that is made is one.

    Raises:
        ConfigError: it is no checkpoint; `repo` is written otherwise, holds something else, or is public though `private`.
        EpisodesFailedError: every episode ended in an error.
        RemoteFileError: nobody is logged in, or may not write there, or the network fails.
    """
    from huggingface_hub import HfApi

    repo, revision = repository_in(repo)
    if revision is not None:
        raise ConfigError(f"{repo}@{revision} is a revision, and what is pushed becomes the newest one; leave out @{revision}")
    path = find_checkpoint(place, "CKPT")
    checkpoint = read_checkpoint(path, "CKPT")
    policy = load_policy(path, "cpu")
    hub = HfApi()
    with hub_errors_named(f"{repo} cannot be written to", "log in (hf auth login, or HF_TOKEN) with a token that may write"):
        is_new = _look_at(hub, repo, private)
    why_not = "no episodes were asked for"
    if episodes:
        try:
            check_can_be_rolled_out(repo, loadable(checkpoint, f"checkpoint {place}"))
        except ConfigError as error:
            episodes, why_not = 0, str(error).removeprefix(f"{repo}: ").partition(";")[0]
            logger.info("not rolled out: %s", why_not)
    result, strip = _roll_out(path, episodes, seed, out, executor) if episodes else (None, None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_portable(checkpoint, folder)
        if strip is not None:
            shutil.copy(strip, folder / _PICTURE)
        picture = None if strip is None else _PICTURE
        write_card(folder / "README.md", repo, path, checkpoint, policy.observations, result, why_not, picture)
        with hub_errors_named(f"{repo} could not be written", "check your rights and the network, and run again: rollouts are kept"):
            hub.create_repo(repo, private=private, exist_ok=True)
            try:
                hub.upload_folder(repo_id=repo, folder_path=folder, commit_message="Policy of robomimic_frozen")
            except Exception:
                if is_new:
                    hub.delete_repo(repo)
                raise
    return f"{hub.endpoint}/{repo}"


def _look_at(hub: HfApi, repo: str, private: bool) -> bool:
    """Return whether a repository is still to be made. Raises ConfigError if it is of something else, or not as private as is asked."""
    from huggingface_hub.utils import RepositoryNotFoundError

    if hub.whoami().get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError("the token may only read")
    try:
        found = hub.model_info(repo)
    except RepositoryNotFoundError:
        return True
    files = {each.rfilename for each in found.siblings or ()} - {".gitattributes"}
    if files and DESCRIPTION not in files:
        raise ConfigError(f"{repo} holds something else than a policy of this package ({min(files)}); choose another name")
    if private and not found.private:
        raise ConfigError(f"{repo} is there, and public; make it private on its page, or leave out --private")
    return False


def _roll_out(path: Path, episodes: int, seed: int, out: Path, executor: Executor) -> tuple[Result, Path]:
    """Return how a policy does, and a picture of an episode: of the first success, or where there is none, of the first one."""
    summaries = evaluate([path], episodes, None, executor, seed, out, num_videos=0)
    require_results(summaries, out)
    ended = [each for each in finished_episodes(path, episodes, None, seed, out) if each["error"] is None]
    shown = next((each for each in ended if each["success"]), ended[0])
    return Result(summaries[0], seed, shown["horizon"]), film_strip(path, shown, out / "videos")
