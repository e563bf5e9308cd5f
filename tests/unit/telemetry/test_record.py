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


def test_the_time_of_the_engine_is_nobody_elses():
    record = Record("POST", "192.0.2.1", 10.0)
    for now, phase in ((11.0, Phase.HEAD), (13.0, Phase.DATA), (16.0, Phase.DONE), (16.5, Phase.DONE)):
        record.enter(phase, now, None)
    assert (record.gateway_s, record.client_s) == (1.5, 0.0)


def test_a_phase_has_its_beginning_and_its_owner():
    class Owner:
        def overdue(self, phase):
            """Never here."""

    record, owner = Record("POST", "192.0.2.1", 10.0), Owner()
    assert (record.phase, record.since, record.owner) == (Phase.REQUEST, 10.0, None)
    record.enter(Phase.HEAD, 11.0, owner)
    assert (record.phase, record.since, record.owner) == (Phase.HEAD, 11.0, owner)
    record.enter(Phase.DONE, 12.0, None)
    assert (record.phase, record.since, record.owner) == (Phase.DONE, 12.0, None)


def test_the_first_word_on_an_early_end_stands():
    record = Record("POST", "192.0.2.1", 10.0)
    assert (record.ended_by, record.reason) == ("", "")
    record.blame("upstream", "502")
    record.blame("client", "left")
    record.abort("total_timeout")
    assert (record.ended_by, record.reason) == ("upstream", "502")


def test_an_abort_cancels_the_task_once_and_is_the_gateways():
    class Task:
        cancelled = 0

        def cancel(self):
            self.cancelled += 1
            return True

    task = Task()
    record = Record("POST", "192.0.2.1", 10.0, task=task)
    for reason in ("draining", "total_timeout"):
        record.abort(reason)
    assert (record.ended_by, record.reason, record.aborted, task.cancelled) == ("gomodel", "draining", "draining", 1)
    without = Record("POST", "192.0.2.1", 10.0)
    without.abort("draining")
    assert (without.ended_by, without.reason, without.aborted) == ("gomodel", "draining", "")
