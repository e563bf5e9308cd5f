"""An event that comes alone is timed, counted and written as it came."""

from types import SimpleNamespace

import pytest

from gomodel.relay import event_flow
from gomodel.relay.event_flow import EventFlow
from gomodel.telemetry.histogram import Histogram
from gomodel.telemetry.record import Record

CHUNKS = [b"17\r\ndata: %d of the events\n\n\r\n" % number for number in range(4)]
PAYLOADS = [chunk[4:-2] for chunk in CHUNKS]


def flowing(monkeypatch, times):
    monkeypatch.setattr(event_flow, "monotonic", iter(times).__next__)
    written = []
    client = SimpleNamespace(transport=SimpleNamespace(write=written.append))
    record, gaps = Record("POST", "192.0.2.1", 100.0), Histogram()
    return EventFlow(record, gaps, client), record, gaps, client, written


def test_each_is_written_as_it_came_and_counted(monkeypatch):
    flow, record, gaps, _, written = flowing(monkeypatch, [100.002, 100.022, 107.022])
    record.bytes_out, record.events = 7, 1
    for chunk in CHUNKS[:3]:
        assert flow.takes(chunk)
    assert all(one is other for one, other in zip(written, CHUNKS, strict=False))
    assert (record.bytes_out, record.events, record.since) == (7 + sum(map(len, PAYLOADS[:3])), 4, 107.022)
    assert [at for at, count in enumerate(gaps.counts) if count] == [1, 4, 12]
    assert round(gaps.sum, 6) == 7.022


def test_the_payloads_of_the_last_two_are_there_once(monkeypatch):
    flow, *_ = flowing(monkeypatch, [101.0] * 4)
    assert flow.taken() == (b"", b"")
    assert flow.takes(CHUNKS[0])
    assert flow.taken() == (b"", PAYLOADS[0])
    for chunk in CHUNKS[1:]:
        assert flow.takes(chunk)
    assert flow.last is CHUNKS[3]
    assert flow.taken() == (PAYLOADS[2], PAYLOADS[3])
    assert (flow.last, flow.taken()) == (b"", (b"", b""))


def test_for_a_client_that_has_left_it_is_counted_all_the_same(monkeypatch):
    flow, record, _, client, written = flowing(monkeypatch, [101.0])
    client.transport = None
    assert flow.takes(CHUNKS[0])
    assert (written, record.events) == ([], 1)


@pytest.mark.parametrize("data", [CHUNKS[0][:-1], CHUNKS[0] + CHUNKS[1], b"0\r\n\r\n", b"", b"16" + CHUNKS[0][2:]])
def test_what_is_no_chunk_or_more_than_one_is_left_alone(monkeypatch, data):
    flow, record, gaps, _, written = flowing(monkeypatch, [])
    assert not flow.takes(data)
    assert (written, record.events, sum(gaps.counts), flow.last) == ([], 0, 0, b"")


def test_a_size_in_upper_case_is_one_as_well(monkeypatch):
    flow, record, _, _, written = flowing(monkeypatch, [101.0] * 4)
    payload = b"x" * 0xAB
    chunks = [b"%x\r\n%b\r\n" % (0xAB, payload), b"%X\r\n%b\r\n" % (0xAB, payload)]
    for chunk in chunks * 2:
        assert flow.takes(chunk)
    assert (written, record.bytes_out) == (chunks * 2, 4 * 0xAB)
