import importlib
import importlib.util
import os
import subprocess
import sys
import warnings

import pytest

from robomimic_frozen import _autoload


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The name of a module that is importable, not yet imported, and counts its executions."""
    name = f"fake_module_{os.getpid()}_{len(list(tmp_path.iterdir()))}"
    (tmp_path / f"{name}.py").write_text("executions = globals().get('executions', 0) + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield name
    sys.modules.pop(name, None)


def test_the_action_surrounds_the_execution_of_the_module(fake):
    seen = []

    def around(load):
        seen.append(hasattr(sys.modules[fake], "executions"))
        load()
        seen.append(sys.modules[fake].executions)

    _autoload.watch(fake, around)
    module = importlib.import_module(fake)
    assert seen == [False, 1]
    assert module.executions == 1


def test_it_happens_once_also_when_the_module_is_reloaded(fake):
    calls = []
    finders = len(sys.meta_path)
    _autoload.watch(fake, lambda load: (calls.append(fake), load()))
    module = importlib.import_module(fake)
    importlib.reload(module)
    assert calls == [fake]
    assert module.executions == 2
    assert len(sys.meta_path) == finders


def test_looking_for_the_module_neither_triggers_nor_spoils_it(fake):
    calls = []
    _autoload.watch(fake, lambda load: (calls.append(fake), load()))
    assert importlib.util.find_spec(fake) is not None
    assert not calls
    importlib.import_module(fake)
    assert calls == [fake]


def test_two_watches_of_one_module_both_run(fake):
    calls = []
    _autoload.watch(fake, lambda load: (load(), calls.append("first")))
    _autoload.watch(fake, lambda load: (load(), calls.append("second")))
    assert importlib.import_module(fake).executions == 1
    assert sorted(calls) == ["first", "second"]


def test_a_failing_action_warns_and_the_module_is_imported_all_the_same(fake):
    def fail():
        raise RuntimeError("out of order")

    _autoload._after(fake, fail)
    with pytest.warns(UserWarning, match="could not register itself with robomimic: RuntimeError: out of order"):
        assert importlib.import_module(fake).executions == 1


def test_an_error_of_the_module_itself_passes_through_untouched(tmp_path, fake):
    (tmp_path / f"{fake}.py").write_text("raise KeyError('its own')")
    _autoload._after(fake, lambda: pytest.fail("the action must not run"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError, match="its own"):
            importlib.import_module(fake)


def test_a_module_that_does_not_exist_stays_absent(fake):
    _autoload.watch("no_such_module_anywhere", lambda load: load())
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_anywhere")


PARTS = [
    "robomimic.algo", "robomimic.config", "robomimic.utils.file_utils", "robomimic.utils.train_utils", "robomimic.utils.env_utils",
]  # fmt: skip


@pytest.mark.parametrize("first", PARTS)
def test_whatever_part_of_robomimic_comes_first_the_algorithm_is_known_in_the_end(first):
    script = (
        f"import {first}\n"
        "from robomimic.config import config_factory\n"
        "assert config_factory('fbc_frozen').algo_name == 'fbc_frozen'\n"
        "from robomimic.algo.algo import REGISTERED_ALGO_FACTORY_FUNCS as algos\n"
        "assert 'fbc_frozen' in algos\n"
        "import robomimic.utils.file_utils as files, robomimic.utils.train_utils as training, robomimic.utils.env_utils as environments\n"
        "patched = [files.policy_from_checkpoint, training.dataset_factory, training.save_model, environments.wrap_env_from_config]\n"
        "assert all(hasattr(function, '__wrapped__') for function in patched)\n"
        "import sys\n"
        "import robomimic.envs.env_robosuite\n"
        "assert 'mujoco_py' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error::UserWarning:robomimic_frozen", "-c", script], check=True)
