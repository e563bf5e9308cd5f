"""When a breaker lets a request through, by its own rules alone: no sockets, and a clock that is a number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.breaker import Breaker
from gomodel.config import BreakerConfig


def breaker(failures: int = 3, successes: int = 1, timeout_s: float = 10.0) -> Breaker:
    return Breaker(BreakerConfig(failure_threshold=failures, success_threshold=successes, timeout_s=timeout_s))


def opened(at: float = 0.0, **options: int) -> Breaker:
    """A breaker that opened at a time."""
    made = breaker(failures=1, **options)
    made.failure(at, probe=False)
    assert not made.closed
    return made


def test_it_opens_at_the_threshold_and_not_before():
    it = breaker(failures=3)
    for now in (1.0, 2.0):
        it.failure(now, probe=False)
        assert it.admit(now)
        assert it.retry_after_s(now) == 0
    it.failure(3.0, probe=False)
    assert not it.admit(3.0)
    assert not it.candidate(3.0)


def test_only_failures_in_a_row_count():
    it = breaker(failures=2)
    for now in range(10):
        it.failure(now, probe=False)
        it.success(probe=False)
    assert it.closed


def test_a_request_without_a_verdict_changes_nothing():
    it = breaker(failures=2)
    it.failure(0.0, probe=False)
    for _ in range(10):
        it.abandon(probe=False)
    it.failure(0.0, probe=False)
    assert not it.closed


@pytest.mark.parametrize(("now", "wait_s"), [(100.0, 10.0), (105.0, 5.0), (109.9, 0.1), (110.0, 0.0), (500.0, 0.0)])
def test_it_says_how_long_it_stays_open(now, wait_s):
    it = opened(100.0)
    assert it.retry_after_s(now) == pytest.approx(wait_s)
    assert it.candidate(now) == (wait_s == 0)


def test_after_the_timeout_one_probe_passes_and_no_other_until_it_ends():
    it = opened(0.0)
    assert not it.admit(9.9)
    assert it.candidate(10.0)
    assert it.candidate(10.0), "asking changes nothing"
    assert it.admit(10.0)
    for now in (10.0, 11.0, 1000.0):
        assert not it.admit(now)
        assert not it.candidate(now)


def test_a_probe_that_succeeds_closes_it():
    it = opened(0.0)
    it.admit(10.0)
    it.success(probe=True)
    assert it.closed
    assert it.admit(10.0)
    assert it.admit(10.0)


def test_after_closing_the_count_begins_anew():
    it = breaker(failures=2, timeout_s=1.0)
    for now in (0.0, 0.0):
        it.failure(now, probe=False)
    it.admit(1.0)
    it.success(probe=True)
    it.failure(2.0, probe=False)
    assert it.closed


def test_a_probe_that_fails_opens_it_for_another_timeout():
    it = opened(0.0)
    it.admit(10.0)
    it.failure(12.0, probe=True)
    assert not it.admit(21.9)
    assert it.retry_after_s(12.0) == pytest.approx(10.0)
    assert it.admit(22.0)


def test_a_probe_whose_client_left_makes_room_for_the_next_at_once():
    it = opened(0.0)
    it.admit(10.0)
    it.abandon(probe=True)
    assert it.admit(10.0)


def test_several_probes_in_a_row_must_succeed_when_so_configured():
    it = opened(0.0, successes=3)
    for _ in range(2):
        assert it.admit(10.0)
        it.success(probe=True)
        assert not it.closed
    # A failure in between, and the count begins anew.
    it.admit(10.0)
    it.failure(10.0, probe=True)
    for _ in range(3):
        assert not it.closed
        assert it.admit(20.0)
        it.success(probe=True)
    assert it.closed


@pytest.mark.parametrize("probing", [False, True])
@pytest.mark.parametrize("end", ["success", "failure", "abandon"])
def test_what_began_before_it_opened_neither_closes_it_nor_frees_the_probes_place(probing, end):
    it = opened(0.0)
    if probing:
        assert it.admit(10.0)
    if end == "failure":
        it.failure(15.0, probe=False)
    else:
        getattr(it, end)(probe=False)
    assert not it.closed
    assert it.retry_after_s(10.0) == 0, "nor keeps it open for longer"
    assert it.admit(15.0) is not probing


ACTS = st.sampled_from(["admit", "success", "failure", "abandon", "wait"])


@given(acts=st.lists(ACTS, max_size=60), failures=st.integers(1, 4), successes=st.integers(1, 3))
def test_while_open_at_most_one_request_is_on_its_way_and_it_never_locks_up(acts, failures, successes):
    it, now = breaker(failures, successes, timeout_s=10.0), 0.0
    running: list[bool] = []  # of each request on its way: whether it is a probe
    for act in acts:
        if act == "admit":
            is_probe, may = not it.closed, it.candidate(now)
            assert it.admit(now) is may
            if may:
                running.append(is_probe)
        elif act == "wait":
            now += 10.0
        elif running:
            probe = running.pop(0)
            if act == "failure":
                it.failure(now, probe=probe)
            else:
                getattr(it, act)(probe=probe)
        assert sum(running) <= 1
    for probe in running:
        it.abandon(probe=probe)
    assert it.admit(now + 10.0)
