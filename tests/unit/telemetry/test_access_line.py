"""What the access line of a request says, and at which level."""

import json
import logging

import pytest

from gomodel.config.load import from_environ
from gomodel.telemetry import access_line
from gomodel.telemetry.access_line import access, fields, severity, shown, write
from gomodel.telemetry.counters import Telemetry
from gomodel.telemetry.record import Phase

from .records import ended


@pytest.fixture
def counters() -> Telemetry:
    return Telemetry(from_environ({}))


LEVELS = [
    (logging.INFO, {}),
    (logging.INFO, {"status": 304}),
    (logging.INFO, {"status": 404, "reason": "model_not_found"}),
    (logging.INFO, {"status": 400, "reason": ""}),
    (logging.INFO, {"status": 499, "ended_by": "client", "reason": "disconnected"}),
    (logging.INFO, {"status": 200, "ended_by": "client", "reason": "write_timeout"}),
    (logging.INFO, {"status": 408, "ended_by": "client", "reason": "request_timeout"}),
    (logging.INFO, {"status": 505, "reason": "http_version_not_supported"}),
    (logging.WARNING, {"status": 200, "ended_by": "upstream", "reason": "connection_terminated"}),
    (logging.WARNING, {"status": 200, "ended_by": "gomodel", "reason": "shutdown"}),
    (logging.WARNING, {"status": 502, "ended_by": "upstream", "reason": "connection_refused"}),
    (logging.WARNING, {"status": 500, "reason": ""}),
    (logging.WARNING, {"status": 503, "reason": "circuit_open"}),
    (logging.WARNING, {"status": 503, "reason": "draining"}),
    (logging.WARNING, {"status": 503, "ended_by": "gomodel", "reason": "aborted_by_operator"}),
    (logging.ERROR, {"status": 500, "reason": "internal_error"}),
    (logging.ERROR, {"status": 200, "ended_by": "gomodel", "reason": "internal_error"}),
    (logging.ERROR, {"status": 503, "reason": "connection_limit"}),
    (logging.ERROR, {"status": 503, "reason": "spool_full"}),
]


@pytest.mark.parametrize(("level", "known"), LEVELS)
def test_the_level_of_a_line_says_who_has_to_act(level, known):
    assert severity(ended(**known), polled=False) == level


POLLED_LEVELS = [
    (logging.DEBUG, {"status": 200}),
    (logging.DEBUG, {"status": 304}),
    (logging.DEBUG, {"status": 503, "route": "/health/ready"}),
    (logging.INFO, {"status": 401, "reason": "invalid_api_key"}),
    (logging.INFO, {"status": 499, "ended_by": "client", "reason": "disconnected"}),
    (logging.WARNING, {"status": 503, "reason": "draining"}),
    (logging.ERROR, {"status": 500, "reason": "internal_error"}),
]


@pytest.mark.parametrize(("level", "known"), POLLED_LEVELS)
def test_what_monitors_ask_again_and_again_is_for_debugging_until_it_fails(level, known):
    assert severity(ended(**known), polled=True) == level


def test_a_line_has_what_the_contract_promises(counters, caplog):
    caplog.set_level(logging.INFO, logger="gomodel.access")
    record = ended(
        bytes_in=10,
        bytes_out=30,
        first_byte=100.25,
        waits_for="engine",
        gateway_s=0.4,
        client_s=0.1,
        retries=1,
        ended_by="upstream",
        reason="connection_terminated",
        phase=Phase.DATA,
        trace="00-ab-cd-01",
    )
    counters.finish(record, "m", 102.0)
    [line] = caplog.records
    assert (line.name, line.levelno, line.levelname) == ("gomodel.access", logging.WARNING, "WARNING")
    assert line.getMessage() == ""
    assert vars(line)["fields"] == {
        "request_id": "r-1",
        "client": "192.0.2.1",
        "method": "POST",
        "route": "/v1/completions",
        "instance": "vllm",
        "model": "m",
        "status": 200,
        "bytes_in": 10,
        "bytes_out": 30,
        "first_byte_ms": 250.0,
        "duration_ms": 2000.0,
        "engine_ms": 1500.0,
        "gateway_ms": 400.0,
        "client_ms": 100.0,
        "ended_by": "upstream",
        "phase": "data",
        "reason": "connection_terminated",
        "retries": 1,
        "traceparent": "00-ab-cd-01",
    }


def test_lines_of_several_requests_share_nothing(counters, caplog):
    caplog.set_level(logging.INFO, logger="gomodel.access")
    counters.finish(ended(id="r-1"), "m", 101.0)
    counters.finish(ended(id="r-2"), "m", 101.0)
    assert [vars(line)["fields"]["request_id"] for line in caplog.records] == ["r-1", "r-2"]
    assert caplog.records[0].created <= caplog.records[1].created


def test_a_request_that_ended_by_itself_is_blamed_on_nobody():
    assert not {"ended_by", "phase", "reason", "retries", "traceparent"} & fields(ended(), 1.0).keys()


@pytest.mark.parametrize("name", ["model", "trace"])
def test_what_a_client_sent_is_cut_to_a_length_that_a_line_can_bear(name):
    line = fields(ended(**{name: "x" * (1 << 20)}), 1.0)
    assert len(json.dumps(line)) < 1000
    assert shown("x" * 200) == "x" * 200


def test_there_is_no_line_when_nobody_wants_it(counters, monkeypatch):
    monkeypatch.setattr(access, "handle", pytest.fail)
    monkeypatch.setattr(access, "level", logging.WARNING)
    access.manager._clear_cache()
    counters.finish(ended(), "m", 101.0)
    access.manager._clear_cache()


def test_a_stream_that_was_broken_off_is_seen_at_warn_too(counters, caplog):
    caplog.set_level(logging.WARNING, logger="gomodel.access")
    counters.finish(ended(ended_by="upstream", reason="connection_terminated", phase=Phase.DATA), "m", 101.0)
    counters.finish(ended(ended_by="client", reason="disconnected", phase=Phase.DATA), "m", 101.0)
    [line] = caplog.records
    assert vars(line)["fields"]["reason"] == "connection_terminated"


def test_of_a_crowd_one_line_a_second_is_written_and_says_how_many_more_there_were(caplog, monkeypatch):
    caplog.set_level(logging.DEBUG, logger="gomodel.access")
    times = [100.0, 100.1, 100.9, 101.0, 101.1, 105.0, 107.0]
    monkeypatch.setattr(access_line, "_crowd", access_line.Crowd())
    monkeypatch.setattr(access_line, "monotonic", iter(times).__next__)
    crowd, other = ended(status=503, reason="connection_limit"), ended(status=503, reason="spool_full")
    for _ in times:
        write(crowd, 0.0, polled=False)
        write(other, 0.0, polled=False)
    said = [vars(line)["fields"] for line in caplog.records]
    assert [each.get("suppressed") for each in said if each["reason"] == "connection_limit"] == [None, 2, 1, None]
    assert len([each for each in said if each["reason"] == "spool_full"]) == 7
