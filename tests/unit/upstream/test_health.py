"""What failures and answers make of an instance's health."""

import logging

import pytest

from gomodel.upstream.health import DRAIN_DOUBT_S, DRAINING, KEY_REFUSED, MISSES, Health, State
from gomodel.upstream.other_scheme import SPEAKS_PLAIN_HTTP, SPEAKS_TLS


@pytest.fixture
def health() -> Health:
    return Health("vllm-test")


@pytest.fixture
def up(health: Health) -> Health:
    health.alive(health.failures)
    return health


def test_nothing_is_known_at_first(health):
    assert (health.state, health.settled, health.code) == (State.UNKNOWN, False, "")


def test_a_probe_that_is_answered_makes_it_up(health):
    health.alive(health.failures)
    assert (health.state, health.settled) == (State.UP, True)


def test_a_request_that_is_answered_makes_it_up(health):
    health.ok(health.failures)
    assert (health.state, health.settled) == (State.UP, True)


@pytest.mark.parametrize(
    "code", ["connection_refused", "dns_error", "tls_certificate_error", "engine_dead", "destination_unavailable"]
)
def test_a_failure_that_leaves_no_doubt_counts_at_once(up, code):
    up.failed(code)
    assert (up.state, up.settled, up.code) == (State.DOWN, False, code)


@pytest.mark.parametrize("code", ["connection_timeout", "http_response_timeout", "connection_terminated"])
def test_slowness_is_forgiven_until_it_lasts(up, code):
    for _ in range(MISSES - 1):
        up.failed(code)
        assert (up.state, up.settled) == (State.UP, False)
    up.failed(code)
    assert up.state is State.DOWN


@pytest.mark.parametrize("code", [SPEAKS_TLS, SPEAKS_PLAIN_HTTP])
def test_that_it_speaks_the_other_scheme_is_what_a_probe_finds_out_and_takes_back(up, code):
    up.failed(code, probe=True)
    for failure in ("connection_terminated", "connection_timeout", "connection_refused"):
        up.failed(failure)
        assert (up.state, up.code, up.other_scheme) == (State.DOWN, code, True)
    up.failed("connection_refused", probe=True)
    assert (up.state, up.code, up.other_scheme) == (State.DOWN, "connection_refused", False)
    up.failed(code, probe=True)
    up.alive(up.failures)
    up.failed("connection_refused")
    assert up.code == "connection_refused"


def test_an_answer_between_slow_ones_starts_the_count_anew(up):
    for _ in range(MISSES * 2):
        up.failed("http_response_timeout")
        assert up.state is State.UP
        up.ok(up.failures)
    assert up.settled


def test_an_answer_to_what_began_before_the_last_failure_says_nothing(up):
    began = up.failures
    up.failed("connection_refused")
    up.ok(began)
    up.alive(began)
    assert up.state is State.DOWN
    up.ok(up.failures)
    assert up.state is State.UP


def test_of_several_failures_the_last_one_counts(up):
    began = []
    for _ in range(3):
        began.append(up.failures)
        up.failed("connection_refused")
    for earlier in began:
        up.ok(earlier)
        assert up.state is State.DOWN
    up.ok(up.failures)
    assert up.state is State.UP


def test_slowness_is_forgiven_before_anything_is_known_too(health):
    for _ in range(MISSES - 1):
        health.failed("connection_timeout")
        assert health.state is State.UNKNOWN
    health.failed("connection_timeout")
    assert health.state is State.DOWN


def test_the_last_error_is_kept_after_recovery(up):
    up.failed("connection_refused")
    up.alive(up.failures)
    assert (up.state, up.code) == (State.UP, "connection_refused")


class TestDrain:
    @pytest.fixture
    def draining(self, up: Health) -> Health:
        up.failed(DRAINING)
        return up

    def test_begins_at_once(self, draining):
        assert (draining.state, draining.settled) == (State.DRAINING, False)

    def test_does_not_end_with_a_probe_that_is_answered(self, draining):
        draining.alive(draining.failures)
        assert draining.state is State.DRAINING

    def test_ends_with_a_probe_that_is_answered_long_after_anything_was_refused(self, draining):
        draining.failed_at -= DRAIN_DOUBT_S + 1
        draining.alive(draining.failures)
        assert draining.state is State.UP

    def test_does_not_end_with_a_stream_that_began_before_it(self, draining):
        draining.ok(draining.failures - 1)
        assert draining.state is State.DRAINING

    def test_ends_with_a_request_that_was_answered(self, draining):
        draining.ok(draining.failures)
        assert draining.state is State.UP

    def test_ends_when_the_server_is_gone_and_back(self, draining):
        draining.failed("connection_refused")
        assert draining.state is State.DOWN
        draining.alive(draining.failures)
        assert draining.state is State.UP

    def test_ends_when_the_server_is_gone_without_a_refusal(self, draining):
        for _ in range(MISSES):
            draining.failed("http_response_timeout")
        assert draining.state is State.DOWN


def test_each_change_is_logged_once(up, caplog):
    caplog.set_level(logging.INFO, logger="gomodel")
    for _ in range(3):
        up.failed("connection_refused")
    for _ in range(3):
        up.alive(up.failures)
    up.failed(DRAINING)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "Instance vllm-test is down: connection_refused"),
        ("INFO", "Instance vllm-test is up"),
        ("WARNING", "Instance vllm-test is shutting down"),
    ]


def test_whoever_waits_is_told_of_a_fall_once(up):
    falls = []
    up.on_fall = lambda: falls.append(up.state)
    up.failed("http_response_timeout")
    assert falls == []
    up.failed("connection_refused")
    up.failed("connection_refused")
    assert falls == [State.DOWN]


def test_the_time_of_a_state_is_that_of_the_change(up):
    up.failed("connection_refused")
    since = up.since
    up.failed("connection_refused")
    assert up.since == since
    assert up.failed_at >= since


class TestKey:
    def test_that_is_refused_and_accepted_again_is_told_once_each(self, up, caplog):
        caplog.set_level(logging.INFO, logger="gomodel")
        falls = []
        up.on_fall = lambda: falls.append(up.key_refused)
        for _ in range(2):
            up.refuse_key()
        assert (up.state, up.settled, up.key_refused, falls) == (State.UP, False, True, [True])
        up.alive(up.failures)
        assert not up.settled  # it lives, and is to be asked soon again
        for _ in range(2):
            up.accept_key()
        up.alive(up.failures)
        assert (up.state, up.settled, up.key_refused) == (State.UP, True, False)
        refused, accepted = caplog.messages
        assert refused.startswith("Instance vllm-test refuses the key of the gateway")
        assert refused.endswith("Set VLLM_TEST_API_KEY to its key")
        assert accepted == "Instance vllm-test accepts the key of the gateway again"

    def test_can_be_refused_where_nobody_waits_for_a_fall(self, up):
        up.refuse_key()
        assert (up.key_refused, up.code) == (True, KEY_REFUSED)

    def test_the_time_of_a_refusal_is_that_of_the_first(self, up):
        up.refuse_key()
        at = up.key_refused_at
        assert up.since <= at == up.failed_at
        up.refuse_key()
        assert up.key_refused_at == at


@pytest.mark.parametrize(
    ("events", "said"),
    [
        (["refuse_key", "accept_key", "accept_key"], ["refuses", "accepts the key of the gateway again"]),
        (["refuse_key", "change_key", "accept_key", "accept_key"], ["refuses", "accepts the key of the gateway now"]),
        (["refuse_key", "change_key", "change_key", "accept_key"], ["refuses", "accepts the key of the gateway now"]),
        (["refuse_key", "change_key", "refuse_key", "accept_key"], ["refuses", "refuses", "again"]),
        (["change_key", "accept_key"], []),
        (["accept_key"], []),
    ],
)
def test_what_becomes_of_a_key_is_logged_once(up, caplog, events, said):
    caplog.set_level(logging.INFO, logger="gomodel")
    for each in events:
        getattr(up, each)()
    assert len(caplog.messages) == len(said)
    assert all(part in message for part, message in zip(said, caplog.messages, strict=True))
