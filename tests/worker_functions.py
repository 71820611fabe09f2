"""What workers do in the tests; a module of its own, because each worker imports it."""

import operator
import os

from robomimic_frozen.errors import ConfigError


def die_or_raise():
    def run(index):
        if index == 1:
            os._exit(7)
        if index == 2:
            raise ValueError("physics is unstable")
        return index * 10

    return run


def raise_config_error():
    raise ConfigError("no such thing")


def threads_of_a_rollout_worker():
    import torch

    from robomimic_frozen.evaluation.evaluate import _make_runner

    _make_runner([], rendering_threads=2)
    return lambda index: torch.get_num_threads()


def logged(folder, build):
    """What `build` gives, and files that tell which tasks were begun and done."""
    compute = build()

    def run(index):
        with (folder / f"begun_{index}").open("a") as file:
            file.write("once ")
        result = compute(index)
        (folder / f"done_{index}").touch()
        return result

    return run


def lengths_of(source, _):
    return source.lengths()


def dying_builds(folder, count):
    """The first builds die: the very first at its first task, `count` - 1 others at once."""
    number = len(list(folder.iterdir()))
    (folder / f"build_{number}").touch()
    if 0 < number < count:
        os._exit(9)
    return operator.neg if number else os._exit
