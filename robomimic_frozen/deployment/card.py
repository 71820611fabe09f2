"""The page of a shared policy: what it does, how well, what it is made of, and the commands that use it and repeat its result."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from robomimic_frozen.encoders.backbones import get_backbone
from robomimic_frozen.encoders.core import FrozenResNetCore
from robomimic_frozen.encoders.spec import EncoderSpec, settings_in
from robomimic_frozen.evaluation.evaluate import Summary
from robomimic_frozen.policies.checkpoints import describe, environments_in
from robomimic_frozen.policies.portable import shareable_config
from robomimic_frozen.utils.files import sha256_of
from robomimic_frozen.utils.machine import PACKAGES, code_version, installed_version

_TEMPLATE: Final = Path(__file__).parent / "templates" / "card.md.j2"


@dataclass(frozen=True)
class Result:
    """How a policy did in rollouts."""

    summary: Summary
    seed: int  # of the first episode; the next has the next
    horizon: int  # in steps


def write_card(
    path: Path, repo: str, place: Path, checkpoint: Mapping[str, Any], observations: Mapping[str, Sequence[int]], result: Result | None,
    why_not: str, picture: str | None,
) -> None:  # fmt: skip
    """Write the page, in the Markdown of the hub, of what is shared as `repo`.

    Args:
        place: file of the checkpoint.
        checkpoint: its content.
        observations: obs key -> shape of what it looks at.
        result: of its rollouts; None where there are none, for the reason `why_not`.
        picture: name of a picture beside the page; None for none.
    """
    config, metadata = json.loads(checkpoint["config"]), environments_in(checkpoint)[0]
    shared = shareable_config(config)
    task = str(metadata["env_name"])
    robots = metadata["env_kwargs"].get("robots", [])
    card = ModelCard.from_template(
        ModelCardData(
            library_name="robomimic",
            pipeline_tag="robotics",
            tags=["robomimic", "robomimic_frozen", "imitation-learning", str(checkpoint["algo_name"])],
            model_name=repo.rpartition("/")[2],
            eval_results=None if result is None else [EvalResult("robotics", task, task, "success_rate", result.summary.success_rate)],
        ),
        template_path=str(_TEMPLATE),
        repo=repo, name=repo.rpartition("/")[2], task=task, robots=robots if isinstance(robots, str) else ", ".join(robots),
        observations={key: list(shape) for key, shape in observations.items()}, result=result, why_not=why_not, picture=picture,
        facts=[*describe({**checkpoint, "config": json.dumps(shared)}, place), *_facts(config)], licences=_licences(config),
        config=json.dumps(shared, indent=2),
    )  # fmt: skip
    card.save(path)


def _facts(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (what, its value) of the data that a policy was trained on, and of what it was rolled out with."""
    data = config["train"]["data"]
    for entry in data if isinstance(data, list) else [{"path": data}]:
        dataset = Path(str(entry["path"]))
        sha256 = sha256_of(dataset) if dataset.is_file() else "not known: it was not at hand when this was shared"
        yield f"sha256 of {dataset.name}", sha256
    versions = {"python": platform.python_version(), **{name: str(installed_version(name)) for name in PACKAGES}}
    yield "shared with", ", ".join(f"{name} {version}" for name, version in versions.items())
    yield "revision of robomimic_frozen", code_version()


def _licences(config: Mapping[str, Any]) -> dict[str, str | None]:
    """Return backbone -> licence of its pretrained weights, None where that is not known, of those that a policy contains."""
    encoder = config["observation"].get("encoder", {}).get("rgb", {})
    settings = settings_in(encoder["core_kwargs"]) if encoder.get("core_class") == FrozenResNetCore.__name__ else []
    pretrained = [each for each in settings if each.get("pretrained_encoder", EncoderSpec.pretrained_encoder)]
    names = dict.fromkeys(each.get("rgb_model_name", EncoderSpec.rgb_model_name) for each in pretrained)
    return {name: get_backbone(name).licence for name in names}
