"""Whom a request waits for in which phase, and how long it has waited for whom."""

import pytest

from gomodel.telemetry.record import CLIENT, ENGINE, GATEWAY, Phase, Record

WAITS = [
    (Phase.REQUEST, CLIENT),
    (Phase.QUEUE, GATEWAY),
    (Phase.CONNECT, ENGINE),
    (Phase.HEAD, ENGINE),
    (Phase.DATA, ENGINE),
    (Phase.WRITE, CLIENT),
    (Phase.DONE, GATEWAY),
]


def test_every_phase_is_somebodys():
    assert [phase for phase, _ in WAITS] == list(Phase)


@pytest.mark.parametrize(("phase", "whom"), WAITS, ids=str)
def test_the_time_in_a_phase_is_that_of_whom_it_waits_for(phase, whom):
    record = Record("POST", "192.0.2.1", 10.0)
    record.enter(phase, 11.0, None)
    assert record.waits_for == whom
    record.wait_for(ENGINE, 14.0)
    assert (record.gateway_s, record.client_s) == (1.0 + 3.0 * (whom == GATEWAY), 3.0 * (whom == CLIENT))


def test_a_request_waits_for_the_gateway_until_more_of_its_body_is_asked_for():
    record = Record("POST", "192.0.2.1", 10.0)
    record.enter(Phase.REQUEST, 12.0, None)
    record.enter(Phase.REQUEST, 15.0, None)
    record.wait_for(GATEWAY, 16.0)
    record.enter(Phase.HEAD, 16.5, None)
    record.wait_for(ENGINE, 20.0)
    assert (record.gateway_s, record.client_s) == (2.5, 4.0)
