"""What the demos of a dataset tell of one another, and all of them together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from robomimic_frozen.doctor.demo import OBSERVATIONS, Demo
from robomimic_frozen.doctor.findings import Finding, Severity, some_of
from robomimic_frozen.doctor.judgement import is_image


def compare(demos: Sequence[Demo]) -> Iterator[Finding]:
    """What is wrong with the demos beside one another."""
    yield from _missing_keys(demos)
    yield from _differing_layouts(demos)
    yield from _duplicates(demos)
    yield from _missing_images(demos)


def _missing_keys(demos: Sequence[Demo]) -> Iterator[Finding]:
    for key in dict.fromkeys(key for demo in demos for key in demo.keys if key != "actions"):
        without = [demo.name for demo in demos if demo.keys and key not in demo.keys]
        if without:
            severity = Severity.ERROR if key.startswith(OBSERVATIONS) else Severity.WARNING
            remedy = "leave these demos out with a filter key, or convert the file again"
            yield Finding(severity, f"{key} of {some_of(without)}", "is missing, and other demos have it", remedy)


def _differing_layouts(demos: Sequence[Demo]) -> Iterator[Finding]:
    for key in dict.fromkeys(key for demo in demos for key in demo.contents):
        contents = {demo.name: demo.contents[key] for demo in demos if key in demo.contents}
        (usual, _), *others = Counter((content.shape[1:], content.dtype) for content in contents.values()).most_common()
        for shape, dtype in (other for other, _ in others):
            which = [name for name, content in contents.items() if (content.shape[1:], content.dtype) == (shape, dtype)]
            severity = Severity.WARNING if shape == usual[0] else Severity.ERROR
            what = f"is {dtype} {list(shape)}, and {usual[1]} {list(usual[0])} in other demos"
            yield Finding(severity, f"{key} of {some_of(which)}", what, "convert all demos in the same way, or keep them in separate files")


def _duplicates(demos: Sequence[Demo]) -> Iterator[Finding]:
    first: dict[tuple[str | None, ...], str] = {}
    repeated: dict[str, str] = {}
    for demo in demos:
        if "actions" in demo.contents:
            content = tuple(demo.contents[key].sha256 if key in demo.contents else None for key in ("actions", "states"))
            original = first.setdefault(content, demo.name)
            if original != demo.name:
                repeated[demo.name] = original
    if repeated:
        detail = ", ".join(f"{name} is {original}" for name, original in itertools.islice(repeated.items(), 3))
        remedy = "leave the copies out with a filter key; one in train and one in valid make validation worthless"
        yield Finding(Severity.WARNING, some_of(list(repeated)), "has the actions and states of an earlier demo", remedy, detail)


def _missing_images(demos: Sequence[Demo]) -> Iterator[Finding]:
    if any(is_image(key, content) for demo in demos for key, content in demo.contents.items()):
        return
    has_observations = any(key.startswith(OBSERVATIONS) for demo in demos for key in demo.keys)
    what = "has no image observations, only low-dimensional ones" if has_observations else "has no observations at all"
    has_states = any("states" in demo.keys for demo in demos)
    remedy = "robomimic-frozen data FILE renders them" if has_states else "there are no states to render them from; get another file"
    yield Finding(Severity.WARNING, "obs", what, remedy)
