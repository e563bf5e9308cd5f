"""What is counted of a request, and under which labels."""

from types import SimpleNamespace

import pytest

from gomodel.config.load import from_environ
from gomodel.telemetry import counters as module
from gomodel.telemetry.counters import ChunkGaps, Telemetry
from gomodel.telemetry.histogram import SECONDS, Histogram
from gomodel.telemetry.record import CLIENT, ENGINE, GATEWAY, Phase
from gomodel.telemetry.usage import Usage

from .records import ended


@pytest.fixture
def counters() -> Telemetry:
    return Telemetry(from_environ({}))


def test_a_duration_falls_into_the_first_bucket_that_holds_it():
    histogram = Histogram()
    for value in (0.0, SECONDS[0], SECONDS[0] + 1e-9, SECONDS[-1], SECONDS[-1] + 1):
        histogram.observe(value)
    assert (histogram.counts[0], histogram.counts[1], histogram.counts[-2], histogram.counts[-1]) == (2, 1, 1, 1)
    assert len(histogram.counts) == len(SECONDS) + 1
    assert histogram.sum == pytest.approx(1201.002)


def test_the_gaps_of_servers_that_are_gone_still_count_and_once() -> None:
    gaps = ChunkGaps()
    first, second, other = gaps.begin("a"), gaps.begin("a"), gaps.begin("b")
    for each, value in ((first, 1.0), (second, 2.0), (other, 4.0)):
        each.observe(value)
    for _ in "once", "again":
        gaps.end("a", second)
    gaps.end("never", Histogram())
    assert {name: (total.sum, sum(total.counts)) for name, total in gaps.totals()} == {"a": (3.0, 2), "b": (4.0, 1)}
    gaps.end("a", first)
    first.observe(8.0)
    assert {name: total.sum for name, total in gaps.totals()} == {"a": 3.0, "b": 4.0}


class TestFinish:
    def test_counts_a_request_its_bytes_and_its_times(self, counters):
        record = ended(bytes_in=10, bytes_out=30, first_byte=100.2)
        counters.finish(record, "m", 102.0)
        counters.finish(record, "m", 102.0)
        assert counters.requests["vllm", "/v1/completions", "m", 200].count == 2
        traffic = counters.traffic["vllm"]
        assert (traffic.request_bytes, traffic.response_bytes) == (20, 60)
        latency = counters.latency["vllm", "/v1/completions"]
        assert (latency.duration.sum, sum(latency.duration.counts)) == (4.0, 2)
        assert (latency.first_byte.sum, sum(latency.first_byte.counts)) == (pytest.approx(0.4), 2)

    def test_keeps_the_first_bytes_of_streams_apart_from_those_of_whole_answers(self, counters):
        counters.finish(ended(first_byte=100.5, streamed=True), "m", 102.0)
        counters.finish(ended(first_byte=101.5), "m", 102.0)
        latency = counters.latency["vllm", "/v1/completions"]
        assert (latency.first_byte_streamed.sum, latency.first_byte.sum) == (0.5, 1.5)
        assert latency.duration.sum == 4.0

    def test_counts_no_first_byte_where_there_was_none(self, counters):
        counters.finish(ended(status=502), "m", 101.0)
        assert sum(counters.latency["vllm", "/v1/completions"].first_byte.counts) == 0

    def test_models_and_codes_of_one_route_share_its_histograms(self, counters):
        for model, status in (("m", 200), ("m", 400), ("other", 200)):
            counters.finish(ended(status=status), model, 101.0)
        assert len(counters.requests) == 3
        assert sum(counters.latency["vllm", "/v1/completions"].duration.counts) == 3

    def test_counts_who_ended_it_and_in_which_phase(self, counters):
        counters.finish(ended(ended_by="client", phase=Phase.DATA), "m", 101.0)
        counters.finish(ended(), "m", 101.0)
        assert counters.aborted == {("client", Phase.DATA): 1}

    def test_counts_by_what_a_home_was_named_and_what_became_of_it(self, counters):
        for known in ({"named_by": "session", "affinity": "home"}, {"named_by": "session"}, {"affinity": "home"}):
            counters.finish(ended(**known), "m", 101.0)
        assert counters.affinity == {("session", "home"): 1, ("session", "none"): 1}

    def test_makes_no_more_series_than_the_limit_whatever_the_lists_hold(self, counters, monkeypatch):
        monkeypatch.setattr(module, "MAX_SERIES", 3)
        for number in range(10):
            counters.finish(ended(), f"adapter-{number}", 101.0)
        models = {model: series.count for (_, _, model, _), series in counters.requests.items()}
        assert models == {"adapter-0": 1, "adapter-1": 1, "adapter-2": 1, "other": 7}
        assert counters.traffic.keys() == {"vllm"}

    @pytest.mark.parametrize(
        ("known", "waits"),
        [
            ({"gateway_s": 0.0005}, {GATEWAY: 0.0005, ENGINE: 9.9995}),
            ({"gateway_s": SECONDS[0]}, {GATEWAY: SECONDS[0], ENGINE: 10.0 - SECONDS[0]}),
            ({"gateway_s": 0.3}, {GATEWAY: 0.3, ENGINE: 9.7}),
            ({"waits_for": GATEWAY, "waits_since": 107.0}, {GATEWAY: 3.0, ENGINE: 7.0}),
            ({"waits_for": CLIENT, "waits_since": 104.0, "gateway_s": 1.0}, {GATEWAY: 1.0, ENGINE: 3.0, CLIENT: 6.0}),
            ({"client_s": 2.0, "gateway_s": 1.0}, {GATEWAY: 1.0, ENGINE: 7.0, CLIENT: 2.0}),
            ({"tried": False, "gateway_s": 4.0}, {GATEWAY: 4.0}),
            ({"tried": False, "gateway_s": 4.0, "client_s": 6.0}, {GATEWAY: 4.0, CLIENT: 6.0}),
            ({"tried": False, "instance": "", "gateway_s": 4.0}, {}),
            ({"tried": False, "instance": "", "gateway_s": 4.0, "client_s": 6.0}, {CLIENT: 6.0}),
            ({"status": 101, "gateway_s": 4.0}, {}),
            ({"status": 101, "gateway_s": 4.0, "client_s": 6.0}, {}),
        ],
    )
    def test_says_for_whom_a_request_waited_how_long(self, counters, known, waits):
        counters.finish(ended(**{"tried": True, "waits_for": ENGINE, **known}), "m", 110.0)
        for whom, found in counters.waits.items():
            expected = Histogram()
            if whom in waits:
                expected.observe(waits[whom])
            assert (whom, found.counts, found.sum) == (whom, expected.counts, pytest.approx(expected.sum))

    @pytest.mark.parametrize(("ended_by", "metered", "wasted"), [
        ("client", True, [(10.0, True)]), ("client", False, [(10.0, False)]), ("upstream", True, []), ("", True, []),
    ])  # fmt: skip
    def test_hands_on_what_was_done_for_a_client_who_left(self, counters, monkeypatch, ended_by, metered, wasted):
        seen = []
        monkeypatch.setattr(counters.waste, "add", lambda record, seconds, metered: seen.append((seconds, metered)))
        counters.finish(ended(ended_by=ended_by), "m", 110.0, metered=metered)
        assert seen == wasted

    @pytest.mark.parametrize(
        ("known", "polled", "wanted", "written"),
        [
            ({"status": 200}, False, False, False),
            ({"status": 399}, False, False, False),
            ({"status": 200}, False, True, True),
            ({"status": 400}, False, False, True),
            ({"status": 503}, False, False, True),
            ({"status": 200, "ended_by": "client"}, False, False, True),
            ({"status": 200}, True, False, True),
        ],
    )
    def test_writes_a_line_of_what_went_wrong_and_of_the_rest_where_it_is_wanted(
        self, counters, monkeypatch, known, polled, wanted, written
    ):
        lines = []
        monkeypatch.setattr(module.access_line.access, "isEnabledFor", lambda level: wanted)
        monkeypatch.setattr(module.access_line, "write", lambda _, seconds, polled: lines.append((seconds, polled)))
        counters.finish(ended(**known), "m", 110.0, polled=polled)
        assert lines == [(10.0, polled)] * written


class TestSpending:
    def test_is_summed_by_instance_model_and_key(self, counters):
        for usage in (Usage(5, 2), Usage(7, 1, 3), Usage(audio_s=1.5), None):
            counters.finish(ended(usage=usage), "m", 102.0, metered=True)
        counters.finish(ended(usage=Usage(1), instance="b"), "m", 102.0)
        (each, other) = (counters.spending[name, "m", ""] for name in ("vllm", "b"))
        assert (each.known, each.unknown, each.prompt, each.completion) == (3, 1, 12, 3)
        assert (each.cached, each.measured, each.audio_s, each.seconds) == (3, 7, 1.5, 8.0)
        assert (other.known, other.unknown, other.prompt) == (1, 0, 1)

    @pytest.mark.parametrize(
        ("known", "counts"),
        [
            ({"status": 200}, True),
            ({"status": 400}, False),
            ({"status": 499, "ended_by": "client", "phase": Phase.HEAD}, True),
            ({"status": 499, "ended_by": "client", "phase": Phase.QUEUE}, False),
            ({"status": 504, "ended_by": "upstream", "phase": Phase.HEAD}, True),
            ({"status": 502, "ended_by": "upstream", "phase": Phase.CONNECT}, False),
        ],
    )
    def test_is_unknown_where_an_instance_worked_and_did_not_say(self, counters, known, counts):
        counters.finish(ended(**known), "m", 101.0, metered=True)
        assert [each.unknown for each in counters.spending.values()] == [1] * counts
        counters.finish(ended(**known), "m", 101.0, metered=False)
        assert sum(each.unknown for each in counters.spending.values()) == counts

    def test_has_no_more_rows_than_the_limit(self, counters, monkeypatch):
        monkeypatch.setattr(module, "MAX_SPENDERS", 2)
        for number in range(5):
            counters.finish(ended(usage=Usage(1)), f"adapter-{number}", 101.0)
        assert {key: each.known for key, each in counters.spending.items()} == {
            ("vllm", "adapter-0", ""): 1,
            ("vllm", "adapter-1", ""): 1,
            ("vllm", "other", ""): 3,
        }

    def test_how_long_an_instance_worked_for_a_request_is_that_of_all_keys_and_models(self, counters):
        assert counters.took_s("vllm") is None
        for took, usage in ((1.5, Usage(1)), (4.5, None)):
            counters.finish(ended(usage=usage), "m", 100.0 + took, metered=True)
        assert counters.took_s("vllm") == 3.0
        assert counters.took_s("vllm-b") is None

    def test_of_a_key_is_its_own_and_has_no_time_in_line(self, counters, monkeypatch):
        monkeypatch.setattr(module, "MAX_SPENDERS", 1)
        left: list[tuple[str, float]] = []
        alice, bob = (
            SimpleNamespace(name=name, leave=lambda record, now: left.append((record.caller.name, now)))
            for name in ("alice", "bob")
        )
        for caller in (alice, bob, alice, None):
            counters.finish(ended(usage=Usage(1), caller=caller, queued_s=0.5), "m", 102.0)
        assert {key: (each.known, each.seconds) for key, each in counters.spending.items()} == {
            ("vllm", "m", "alice"): (2, 3.0),
            ("vllm", "other", "other"): (1, 1.5),
            ("vllm", "other", ""): (1, 1.5),
        }
        assert left == [("alice", 102.0), ("bob", 102.0), ("alice", 102.0)]
