"""Chunks that are computed while the one before is executed."""

import contextlib
import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest
import torch
from policies import make_config, make_policy
from test_load_policy import loaded, observed

from robomimic_frozen.deployment import asynchronous as asynchronous_module
from robomimic_frozen.deployment.asynchronous import AsynchronousPolicy
from robomimic_frozen.errors import ConfigError, ObservationError

HORIZON, ACT_STEPS = 8, 4


class Planned:
    """Plans whose actions say which one they are of and which step of it, and which are there when the test says so."""

    def __init__(self, policy) -> None:
        self.count, self.ready, self.given = 0, threading.Semaphore(0), []
        policy.sample_chunks = self

    def __call__(self, stacked, generators, goals):
        number, self.count = self.count, self.count + 1
        self.given.append(stacked[0]["robot0_eef_pos"])
        if number:
            assert self.ready.acquire(timeout=10)
        return (100.0 * number + torch.arange(HORIZON))[None, :, None].expand(1, HORIZON, 7)


@pytest.fixture
def planned():
    policy = loaded(make_policy(make_config(horizon=HORIZON, act_steps=ACT_STEPS)))
    return policy, Planned(policy)


def run(policy, plans, steps, there_after):
    """Act so many steps; a plan is there so many steps after it was asked for."""
    actions, asked = [], plans.count
    for _ in range(steps):
        if policy._next is not None and policy._place - policy._asked_at == there_after:
            plans.ready.release()
            while not policy._next.done():
                time.sleep(0.001)
        actions.append(float(policy.act(observed())[0]))
    assert plans.count > asked
    return actions


def test_what_has_passed_of_the_next_chunk_is_skipped(planned):
    policy, plans = planned
    actions = run(AsynchronousPolicy(policy, "skip"), plans, 12, there_after=2)
    # Asked for at step 4, there at step 6, which is its third.
    assert actions == [0, 1, 2, 3, 4, 5, 102, 103, 104, 105, 202, 203]


def test_the_next_chunk_fades_in_over_what_is_left_of_the_present_one(planned):
    policy, plans = planned
    asynchronous = AsynchronousPolicy(policy, "blend")
    actions = run(asynchronous, plans, 10, there_after=2)
    assert actions[:6] == [0, 1, 2, 3, 4, 5]
    # Steps 6 and 7 are left: a third and two thirds of the new chunk.
    np.testing.assert_allclose(actions[6:8], [6 * 2 / 3 + 102 / 3, 7 / 3 + 103 * 2 / 3], rtol=1e-6)
    assert actions[8] == 104
    assert asynchronous.delay == 2 and asynchronous.waits == 0


def test_a_network_that_is_too_slow_is_waited_for_and_asked_earlier_from_then_on(monkeypatch):
    # By a clock of its own: a step takes 1 s, and a chunk takes 3 s, where the horizon leaves one step.
    policy = loaded(make_policy(make_config(horizon=HORIZON, act_steps=HORIZON - 1)))
    now, asked = [0.0], []
    monkeypatch.setattr(asynchronous_module.time, "perf_counter", lambda: now[0])
    asynchronous = AsynchronousPolicy(policy, "skip")

    class Slow:
        """A chunk that is there 3 s after it was asked for."""

        def __init__(self) -> None:
            self.there_at = now[0] + 3
            asked.append(asynchronous._place)

        def done(self):
            return now[0] >= self.there_at

        def result(self):
            now[0] = max(now[0], self.there_at)
            return torch.zeros(HORIZON, 7)

    monkeypatch.setattr(asynchronous._thread, "submit", lambda *_: Slow())
    for _ in range(40):
        asynchronous.act(observed())
        now[0] += 1
    assert asked[0] == 7 and set(asked[1:]) == {5}
    assert asynchronous.waits == 1 and asynchronous.delay == 3


def test_with_no_time_to_lose_it_acts_as_the_policy_does():
    policy = loaded(make_policy(make_config(horizon=HORIZON, act_steps=HORIZON)))
    expected = [policy.act(observed(step)) for step in range(HORIZON)]
    asynchronous = AsynchronousPolicy(policy)
    for _ in range(2):
        # Before the last one a next chunk is asked for, and may be there at once.
        np.testing.assert_array_equal([asynchronous.act(observed(step)) for step in range(HORIZON - 1)], expected[:-1])
        assert asynchronous.latency > 0
        asynchronous.reset()


def test_a_reset_forgets_what_was_being_computed(planned):
    policy, plans = planned
    asynchronous = AsynchronousPolicy(policy, "skip")
    for _ in range(ACT_STEPS + 1):
        asynchronous.act(observed())
    plans.ready.release(2)
    asynchronous.reset()
    assert asynchronous.act(observed())[0] == 200
    assert asynchronous.delay == 0


def test_an_error_in_the_background_is_raised_where_one_acts(planned):
    policy, plans = planned
    asynchronous = AsynchronousPolicy(policy)
    for _ in range(ACT_STEPS):
        asynchronous.act(observed())
    policy.sample_chunks = lambda *_: plans.ready.acquire() / 0
    asynchronous.act(observed())
    plans.ready.release()
    wait([asynchronous._next])
    with pytest.raises(ZeroDivisionError):
        asynchronous.act(observed())
    policy.sample_chunks = plans
    assert asynchronous.act(observed())[0] == ACT_STEPS + 1  # the present chunk goes on


def test_where_the_next_chunk_has_failed_and_the_present_one_is_used_up_a_new_one_is_computed():
    policy = loaded(make_policy(make_config(horizon=HORIZON, act_steps=HORIZON)))
    sample, asynchronous = policy.sample_chunks, AsynchronousPolicy(policy)
    for step in range(HORIZON):
        policy.sample_chunks = sample if step < HORIZON - 1 else lambda *_: 1 / 0
        with contextlib.suppress(ZeroDivisionError):  # there at once, perhaps
            asynchronous.act(observed(step))
    with contextlib.suppress(ZeroDivisionError):
        asynchronous.act(observed())
    policy.sample_chunks = sample
    assert [asynchronous.act(observed()).shape for _ in range(3)] == [(7,)] * 3


def test_what_it_cannot_do_is_one_line(planned):
    policy, _ = planned
    with pytest.raises(ConfigError, match="overlap is 'mix'; choose 'blend' or 'skip'"):
        AsynchronousPolicy(policy, "mix")
    with pytest.raises(ObservationError, match="is a batch, .*; load a policy for each"):
        AsynchronousPolicy(policy).act(observed(0, 2))
