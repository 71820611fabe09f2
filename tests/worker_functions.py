"""What workers do in the tests; a module of its own, because each worker imports it."""

import os
import uuid

from robomimic_frozen.errors import ConfigError
from robomimic_frozen.utils.files import fingerprint


def die_or_raise(index):
    if index == 1:
        os._exit(7)
    if index == 2:
        raise ValueError("physics is unstable")
    return index * 10


def raise_config_error(_):
    raise ConfigError("no such thing")


def die_at_first(folder, count, index):
    """Die, as long as fewer than `count` workers have."""
    if len(list(folder.iterdir())) < count:
        (folder / uuid.uuid4().hex).touch()
        os._exit(9)
    return -index


def logged(folder, function, item):
    """What `function` gives, and a file that tells that this item was begun."""
    with (folder / f"begun_{fingerprint(item)[:16]}").open("a") as file:
        file.write("once ")
    return function(item)


def threads_of_a_rollout_worker(_):
    import torch

    from robomimic_frozen.evaluation.evaluate import _set_up_worker

    _set_up_worker(rendering_threads=2)
    return torch.get_num_threads()


def lengths_of(source, _):
    return source.lengths()
