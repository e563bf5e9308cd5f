"""When a breaker lets a request through, by its own rules alone: no sockets, and a clock that is a number."""

import itertools
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.config.settings import BreakerConfig
from gomodel.upstream.breaker import Admission, Breaker


def breaker(failures: int = 3, successes: int = 1, timeout_s: float = 10.0) -> Breaker:
    config = BreakerConfig(failure_threshold=failures, success_threshold=successes, timeout_s=timeout_s)
    return Breaker(config, "vllm-test")


def end(admission: Admission | None, verdict: str, now: float) -> None:
    """A request leaves the breaker with a verdict, or with "none"."""
    assert admission is not None
    with admission:
        if verdict == "success":
            admission.succeeded(now)
        elif verdict == "failure":
            admission.failed(now, "connection_refused")


def fail(it: Breaker, now: float) -> None:
    end(it.admit(now), "failure", now)


def opened(at: float = 0.0, **options: int) -> Breaker:
    """A breaker that opened at a time."""
    made = breaker(**{"failures": 1, **options})
    while made.closed:
        fail(made, at)
    return made


def test_it_opens_at_the_threshold_and_not_before():
    it = breaker(failures=3)
    for now in (1.0, 2.0):
        fail(it, now)
        assert it.admit(now)
        assert it.retry_after_s(now) == 0
    fail(it, 3.0)
    assert not it.admit(3.0)
    assert not it.candidate(3.0)


def test_only_failures_in_a_row_count():
    it = breaker(failures=2)
    for now in range(10):
        fail(it, now)
        end(it.admit(now), "success", now)
    assert it.closed


def test_a_request_without_a_verdict_changes_nothing():
    it = breaker(failures=2)
    fail(it, 0.0)
    for _ in range(10):
        end(it.admit(0.0), "none", 0.0)
    fail(it, 0.0)
    assert not it.closed


def test_an_exception_leaves_no_verdict_and_passes():
    it = opened(0.0)
    trial = it.admit(10.0)
    with pytest.raises(KeyError), trial:
        raise KeyError
    assert it.admit(10.0), "a trial that was given up makes room for the next at once"


@pytest.mark.parametrize(("now", "wait_s"), [(100.0, 10.0), (105.0, 5.0), (109.9, 0.1), (110.0, 0.0), (500.0, 0.0)])
def test_it_says_how_long_it_stays_open(now, wait_s):
    it = opened(100.0)
    assert it.retry_after_s(now) == pytest.approx(wait_s)
    assert it.candidate(now) == (wait_s == 0)


def test_each_timeout_lets_one_trial_through_however_long_the_one_before_takes():
    it = opened(0.0)
    assert not it.admit(9.9)
    assert it.candidate(10.0)
    assert it.candidate(10.0), "asking changes nothing"
    for now in (10.0, 20.0, 35.0):
        assert it.admit(now).trial
        for later in (now, now + 1.0, now + 9.9):
            assert not it.admit(later)
            assert not it.candidate(later)
            assert it.retry_after_s(later) == pytest.approx(now + 10.0 - later)


def test_a_trial_that_succeeds_closes_it():
    it = opened(0.0)
    end(it.admit(10.0), "success", 10.0)
    assert it.closed
    assert not it.admit(10.0).trial
    assert it.admit(10.0)


def test_a_slow_trial_that_succeeds_closes_it_although_a_later_one_failed():
    it = opened(0.0)
    slow = it.admit(10.0)
    end(it.admit(20.0), "failure", 21.0)
    end(slow, "success", 22.0)
    assert it.closed


def test_after_closing_the_count_begins_anew():
    it = opened(0.0, failures=2)
    end(it.admit(10.0), "success", 10.0)
    fail(it, 12.0)
    assert it.closed


def test_a_trial_that_fails_keeps_it_open_for_another_timeout():
    it = opened(0.0)
    end(it.admit(10.0), "failure", 12.0)
    assert not it.admit(21.9)
    assert it.retry_after_s(12.0) == pytest.approx(10.0)
    assert it.admit(22.0)


def test_a_trial_that_succeeded_with_its_head_may_fail_later_as_any_other_request():
    it = opened(0.0, failures=2)
    trial = it.admit(10.0)
    with trial:
        trial.succeeded(10.0)
        trial.failed(11.0, "connection_terminated")
    assert it.closed
    fail(it, 12.0)
    assert not it.closed


def test_only_the_first_verdict_of_a_trial_is_one_of_a_trial():
    it = opened(0.0, successes=2)
    trial = it.admit(10.0)
    with trial:
        trial.succeeded(10.0)
        trial.failed(10.0, "connection_terminated")
    assert it.candidate(10.0)
    end(it.admit(10.0), "success", 10.0)
    assert it.closed


def test_a_trial_counts_once_though_it_succeeds_with_its_head_and_at_its_end():
    it = opened(0.0, successes=2)
    trial = it.admit(10.0)
    with trial:
        trial.succeeded(10.0)
        trial.succeeded(10.5)
    assert not it.closed
    end(it.admit(11.0), "success", 11.0)
    assert it.closed


def test_the_end_of_a_trial_ends_the_row_of_failures_since_its_head():
    it = opened(0.0, failures=2)
    trial = it.admit(10.0)
    with trial:
        trial.succeeded(10.0)
        fail(it, 11.0)
        trial.succeeded(12.0)
    fail(it, 13.0)
    assert it.closed


def test_it_tells_what_failed_last_and_when():
    it = breaker(failures=2)
    assert it.cause == ""
    for began, now, cause in ((1.0, 2.0, "connection_timeout"), (3.0, 4.0, "502"), (14.0, 15.0, "dns_error")):
        with it.admit(began) as admission:
            admission.failed(now, cause)
        assert (it.cause, it.failed_at) == (cause, now)


def test_a_success_matters_only_after_a_failure_and_after_a_probe_closed_it():
    it = breaker(failures=2)
    assert not it.doubted
    fail(it, 0.0)
    assert it.doubted
    end(it.admit(1.0), "success", 1.0)
    assert not it.doubted
    fail(it, 2.0)
    fail(it, 2.0)
    it.probed(4.0, began=3.0)
    assert it.doubted
    end(it.admit(5.0), "success", 5.0)
    assert not it.doubted
    fail(it, 6.0)
    fail(it, 6.0)
    end(it.admit(16.0), "success", 16.0)
    assert not it.doubted


@pytest.fixture
def overtaken() -> tuple[Breaker, Admission]:
    """A breaker of two failures that another trial closed, one failure since, and a trial that is not over."""
    it = opened(0.0, failures=2)
    slow = it.admit(10.0)
    assert slow is not None
    end(it.admit(20.0), "success", 20.0)
    fail(it, 21.0)
    return it, slow


def test_a_trial_that_fails_when_another_closed_it_is_one_more_failure(overtaken, caplog):
    it, slow = overtaken
    end(slow, "failure", 22.0)
    assert not it.closed
    assert it.retry_after_s(22.0) == pytest.approx(10.0)
    assert caplog.messages[-1].endswith("next try in 10 s: connection_refused")


@pytest.mark.parametrize("times", [1, 2])  # with its head, and when all of it was there
def test_a_trial_that_succeeds_when_another_closed_it_ends_the_row_of_failures(overtaken, times, caplog):
    caplog.set_level(logging.INFO, logger="gomodel")
    it, slow = overtaken
    with slow:
        for _ in range(times):
            slow.succeeded(22.0)
    assert not caplog.messages, "it was closed already"
    fail(it, 23.0)
    assert it.closed
    fail(it, 24.0)
    assert not it.closed


def test_other_settings_count_from_now_on_and_what_was_counted_stays():
    it = breaker(failures=3)
    fail(it, 0.0)
    it.configure(BreakerConfig(failure_threshold=2, success_threshold=2, timeout_s=5.0))
    fail(it, 1.0)
    assert not it.closed
    assert it.candidate(6.0)
    for now in (6.0, 7.0):
        assert not it.closed
        end(it.admit(now), "success", now)
    assert it.closed


def test_several_trials_in_a_row_must_succeed_when_so_configured():
    it = opened(0.0, successes=3)
    for _ in range(2):
        end(it.admit(10.0), "success", 10.0)
        assert not it.closed
    # A failure in between, and the count begins anew.
    end(it.admit(10.0), "failure", 10.0)
    for _ in range(3):
        assert not it.closed
        end(it.admit(20.0), "success", 20.0)
    assert it.closed


@pytest.mark.parametrize("trying", [False, True])
@pytest.mark.parametrize("verdict", ["success", "failure", "none"])
def test_what_began_before_it_opened_neither_closes_it_nor_makes_room(trying, verdict):
    it = breaker(failures=1)
    before = it.admit(0.0)
    fail(it, 0.0)
    if trying:
        assert it.admit(10.0)
    end(before, verdict, 15.0)
    assert not it.closed
    assert it.candidate(15.0) is not trying, "nor keeps it open for longer"


class TestProbes:
    def test_one_that_began_after_it_opened_closes_it(self):
        it = opened(5.0)
        it.probed(6.5, began=6.0)
        assert it.closed
        assert it.retry_after_s(6.5) == 0

    @pytest.mark.parametrize("began", [4.0, 5.0])
    def test_one_that_began_before_says_nothing(self, began):
        it = opened(5.0)
        it.probed(6.5, began=began)
        assert not it.closed

    def test_nor_does_one_that_began_before_a_trial_failed(self):
        it = opened(0.0)
        end(it.admit(10.0), "failure", 12.0)
        it.probed(12.5, began=11.0)
        assert not it.closed
        it.probed(13.5, began=13.0)
        assert it.closed

    def test_what_a_probe_closed_opens_at_the_first_failure_and_then_waits_for_a_request(self):
        """As behind a live /health whose engine is dead: requests know better."""
        it = opened(0.0, failures=5)
        it.probed(2.0, began=1.0)
        assert it.closed
        fail(it, 3.0)
        assert not it.closed
        for now in (4.0, 5.0, 6.0):
            it.probed(now, began=now)
            assert not it.closed
        end(it.admit(13.0), "success", 13.0)
        assert it.closed
        for now in (14.0, 15.0, 16.0, 17.0):
            fail(it, now)
        assert it.closed, "a trial gives back the whole threshold"

    def test_the_first_success_confirms_what_a_probe_said(self):
        it = opened(0.0, failures=2)
        it.probed(2.0, began=1.0)
        end(it.admit(3.0), "success", 3.0)
        fail(it, 4.0)
        assert it.closed
        fail(it, 5.0)
        it.probed(7.0, began=6.0)
        assert it.closed, "and the next probe is believed again"

    def test_as_many_as_trials_are_needed(self):
        it = opened(0.0, successes=2)
        it.probed(2.0, began=1.0)
        assert not it.closed
        it.probed(4.0, began=3.0)
        assert it.closed

    def test_change_nothing_while_it_is_closed(self):
        it = breaker(failures=2)
        fail(it, 0.0)
        it.probed(1.0, began=0.5)
        fail(it, 2.0)
        assert not it.closed


def test_opening_and_closing_are_each_logged_once(caplog):
    caplog.set_level(logging.INFO, logger="gomodel")
    it = opened(100.0, failures=2)
    for now in (110.0, 120.0):
        end(it.admit(now), "failure", now)
    end(it.admit(130.0), "success", 132.5)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Instance vllm-test: circuit open, next try in 10 s: connection_refused"),
        ("INFO", "Instance vllm-test: circuit closed after 32.5 s"),
    ]


ACTS = st.sampled_from(["admit", "success", "failure", "none", "wait", "probe"])


@given(acts=st.lists(ACTS, max_size=60), failures=st.integers(1, 4), successes=st.integers(1, 3))
def test_it_never_locks_up_and_lets_no_more_through_than_one_each_timeout(acts, failures, successes):
    it, now = breaker(failures, successes, timeout_s=10.0), 0.0
    running: list[Admission] = []
    trials: list[float] = []  # begun while none of them had ended and it stayed open
    for act in acts:
        if act == "admit":
            may, was_closed = it.candidate(now), it.closed
            admission = it.admit(now)
            assert (admission is not None) is may
            if admission is not None:
                assert admission.trial is not was_closed
                running.append(admission)
                if admission.trial:
                    trials.append(now)
        elif act == "wait":
            now += 5.0
        elif act == "probe":
            it.probed(now, began=now)
            trials.clear()
        elif running:
            end(running.pop(0), act, now)
            trials.clear()
        assert all(later - earlier >= 10.0 for earlier, later in itertools.pairwise(trials))
    for admission in running:
        end(admission, "none", now)
    assert it.admit(now + 10.0)
