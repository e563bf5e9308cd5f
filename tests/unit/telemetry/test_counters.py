"""What is counted of a request, under which labels, and what its access line says."""

import json
import logging
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.telemetry import counters as module
from gomodel.telemetry.access_line import access, fields, severity, shown
from gomodel.telemetry.counters import SECONDS, Histogram, Telemetry
from gomodel.telemetry.record import Phase, Record

from ...harness.leaks import nothing_left
from ...harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Fin,
    ReadHead,
    SendPieces,
    Stall,
    chunked,
    head,
    request,
    response,
    sse,
)
from ...harness.verdicts import CANARY, OK, access_lines, ask, post


def ended(**known: Any) -> Record:
    """The record of a request that ended."""
    record = Record("POST", "192.0.2.1", 100.0)
    defaults = {"id": "r-1", "route": "/v1/completions", "instance": "vllm", "model": "m", "status": 200}
    for name, value in {**defaults, **known}.items():
        setattr(record, name, value)
    return record


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

    def test_makes_no_more_series_than_the_limit_whatever_the_lists_hold(self, counters, monkeypatch):
        monkeypatch.setattr(module, "MAX_SERIES", 3)
        for number in range(10):
            counters.finish(ended(), f"adapter-{number}", 101.0)
        models = {model: series.count for (_, _, model, _), series in counters.requests.items()}
        assert models == {"adapter-0": 1, "adapter-1": 1, "adapter-2": 1, "other": 7}
        assert counters.traffic.keys() == {"vllm"}

    def test_makes_no_line_when_nobody_wants_it(self, counters, monkeypatch):
        monkeypatch.setattr(access, "handle", pytest.fail)
        monkeypatch.setattr(access, "level", logging.WARNING)
        access.manager._clear_cache()
        counters.finish(ended(), "m", 101.0)
        access.manager._clear_cache()

    def test_a_stream_that_was_broken_off_is_seen_at_warn_too(self, counters, caplog):
        caplog.set_level(logging.WARNING, logger="gomodel.access")
        counters.finish(ended(ended_by="upstream", reason="connection_terminated", phase=Phase.DATA), "m", 101.0)
        counters.finish(ended(ended_by="client", reason="disconnected", phase=Phase.DATA), "m", 101.0)
        [line] = caplog.records
        assert vars(line)["fields"]["reason"] == "connection_terminated"


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


async def line_of(handle: Any, number: int = 1) -> dict[str, Any]:
    """The access line of the nth request that ended."""
    await nothing_left(lambda: [] if len(access_lines(handle)) >= number else ["a request that runs"])
    return access_lines(handle)[number - 1]


def end_of(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in ("status", "ended_by", "phase", "reason"))


BEGUN = SSE_HEAD + chunked(b"data: 1\n\n")


class TestTheLineOf:
    async def test_a_whole_stream_blames_nobody(self, gateway, upstream, connect):
        upstream.on_request(sse(["1", "[DONE]"]))
        handle = await gateway(vllm=upstream)
        await ask(await connect(handle), post("/v1/chat/completions?key=" + CANARY, headers=[("X-Request-Id", "r-7")]))
        line = await line_of(handle)
        assert end_of(line) == (200, None, None, None)
        assert (line["request_id"], line["client"], line["method"]) == ("r-7", "127.0.0.1", "POST")
        assert (line["route"], line["instance"], line["model"]) == ("/v1/chat/completions", "vllm", "m")
        assert (line["bytes_in"], line["bytes_out"]) == (len(post().partition(b"\r\n\r\n")[2]), 23)
        assert 0 < line["first_byte_ms"] <= line["duration_ms"]
        assert CANARY not in handle.logs.text

    @pytest.mark.parametrize("size", [1, 15, 16, 300, 5000])
    async def test_a_stream_counts_its_payload_however_its_chunks_arrive(self, gateway, upstream, connect, size):
        piece = b"x" * size
        alone, together = chunked(piece), chunked(piece, piece)
        upstream.on_request(
            SendPieces((SSE_HEAD, alone, alone, together, alone[:-1], alone[-1:] + alone, alone + LAST_CHUNK))
        )
        handle = await gateway(vllm=upstream)
        answer = await ask(await connect(handle))
        assert answer.body == piece * 7
        assert (await line_of(handle))["bytes_out"] == 7 * size
        assert [each.response_bytes for each in handle.gateway.telemetry.traffic.values()] == [7 * size]

    @pytest.mark.parametrize("alone", [True, False])
    async def test_the_gaps_of_a_stream_are_those_between_its_pieces(self, gateway, upstream, connect, alone):
        piece = chunked(b"data: some text\n\n")
        pieces = [piece, *([piece] * 40 if alone else [piece * 2] * 40), LAST_CHUNK]
        upstream.on_request(SendPieces((SSE_HEAD, *pieces)))
        handle = await gateway(vllm=upstream)
        await ask(await connect(handle))
        line, gaps = await line_of(handle), handle.gateway.providers.instances["vllm"].gaps
        assert sum(gaps.counts) == 40
        # They are parts of one whole: none is measured from anything but the piece before it, and none is left out.
        assert 0 < gaps.sum * 1000 <= line["duration_ms"] - line["first_byte_ms"] + 0.2

    @pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing"])
    async def test_a_head_request_counts_no_byte_of_the_body_it_does_not_get(self, gateway, upstream, connect, path):
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        get, head = await ask(client, request("GET", path)), await ask(client, request("HEAD", path), "HEAD")
        assert (head.status, head.body, head.get("Content-Length")) == (get.status, b"", str(len(get.body)))
        assert [(await line_of(handle, number))["bytes_out"] for number in (1, 2)] == [len(get.body), 0]
        assert sum(traffic.response_bytes for traffic in handle.gateway.telemetry.traffic.values()) == len(get.body)

    async def test_a_client_that_leaves_before_the_head(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(post())
        await (await upstream.wait_for_request()).done
        client.reset()
        assert end_of(await line_of(handle)) == (499, "client", "head", "disconnected")

    async def test_a_client_that_leaves_a_stream(self, gateway, upstream, connect):
        upstream.on_request(BEGUN, Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(post())
        await client.read_head()
        await client.read_chunk()
        client.fin()
        assert end_of(await line_of(handle)) == (200, "client", "data", "disconnected")

    async def test_a_client_that_leaves_its_upload(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(
            request("POST", "/v1/completions", [("Content-Type", "application/json")], body=b'{"model": 1}')[:-5]
        )
        client.fin()
        assert end_of(await line_of(handle)) == (499, "client", "request", "disconnected")

    async def test_an_instance_that_breaks_off(self, gateway, upstream, connect):
        upstream.on_request(BEGUN, Fin())
        handle = await gateway(vllm=upstream)
        await ask(await connect(handle))
        assert end_of(await line_of(handle)) == (200, "upstream", "data", "connection_terminated")

    async def test_an_instance_that_never_answers(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        handle = await gateway(vllm=upstream, HTTP_RESPONSE_HEADER_TIMEOUT="50ms")
        await ask(await connect(handle))
        assert end_of(await line_of(handle)) == (504, "upstream", "head", "http_response_timeout")

    async def test_an_instance_that_falls_silent(self, gateway, upstream, connect):
        upstream.on_request(BEGUN, Stall())
        handle = await gateway(vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="50ms")
        await ask(await connect(handle))
        assert end_of(await line_of(handle)) == (200, "upstream", "data", "http_response_timeout")

    async def test_an_instance_that_is_not_there(self, gateway, upstream, connect):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream)
        await ask(await connect(handle))
        line = await line_of(handle)
        assert end_of(line) == (502, "upstream", "connect", "connection_refused")
        assert line["retries"] == 2

    async def test_an_upload_that_stalls(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, HTTP_REQUEST_IDLE_TIMEOUT="50ms")
        client = await connect(handle)
        await client.send(post()[:-5])
        await client.read_response("POST")
        assert end_of(await line_of(handle)) == (408, "client", "request", "request_timeout")

    async def test_a_refusal_gives_its_reason_and_blames_nobody(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY=CANARY)
        await ask(await connect(handle), post(headers=[("Authorization", f"Bearer {CANARY}x")]))
        assert end_of(await line_of(handle)) == (401, None, None, "invalid_api_key")
        assert CANARY not in handle.logs.text

    async def test_a_stale_connection_that_was_made_good_blames_nobody(self, gateway, upstream, connect):
        upstream.on_request(OK)
        upstream.on_request(ReadHead(), Fin())
        upstream.on_request(OK)
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        assert [(await ask(client)).status for _ in range(2)] == [200, 200]
        line = await line_of(handle, 2)
        assert end_of(line) == (200, None, None, None)
        assert line["retries"] == 1

    async def test_an_error_of_the_instance_is_an_answer_like_any_other(self, gateway, upstream, connect):
        upstream.on_request(response(b"{}", 400))
        handle = await gateway(vllm=upstream)
        await ask(await connect(handle))
        assert end_of(await line_of(handle)) == (400, None, None, None)

    async def test_a_long_model_with_line_breaks_is_short(self, gateway, upstream, connect):
        upstream.on_request(OK)
        handle = await gateway(vllm=upstream)
        await ask(await connect(handle), post(model="vllm/" + "m\n" * 1000))
        line = await line_of(handle)
        assert line["model"] == "m\n" * 100 + "..."

    async def test_a_model_that_no_list_holds_is_no_label(self, gateway, upstream, connect):
        upstream.repeat(OK)
        handle = await gateway(vllm=upstream, VLLM_MODELS="known")
        client = await connect(handle)
        for model in ("vllm/known", "vllm/made-up-1", "vllm/made-up-2"):
            await ask(client, post(model=model))
        await line_of(handle, 3)
        labels = {model for _, _, model, _ in handle.gateway.telemetry.requests}
        assert labels == {"known", "other"}

    @pytest.mark.parametrize(
        ("target", "route", "path"),
        [
            (f"/p/vllm/v1/files/f-1/content?q={CANARY}", "/p/{provider}/*", "/p/vllm/v1/files/f-1/content"),
            (f"http://gateway/p/vllm/load?q={CANARY}", "/p/{provider}/*", "/p/vllm/load"),
            (f"/chat/completions?q={CANARY}", "unknown", "/chat/completions"),
            (f"http://{CANARY}:{CANARY}@gateway/v1/x", "unknown", "/v1/x"),
            (f"/health?q={CANARY}", "/health", None),
        ],
    )
    async def test_a_path_that_its_route_does_not_say_is_shown_without_the_query(
        self, gateway, upstream, connect, target, route, path
    ):
        upstream.on_request(response(b"{}"))
        handle = await gateway(vllm=upstream)
        await ask(await connect(handle), request("GET", target))
        line = await line_of(handle)
        assert (line["route"], line.get("path")) == (route, path)
        assert CANARY not in handle.logs.text
        assert {route for _, route, _, _ in handle.gateway.telemetry.requests} == {route}

    @pytest.mark.parametrize(
        ("raw", "level"),
        [
            (request("GET", "/health"), logging.DEBUG),
            (request("GET", "/health/ready"), logging.DEBUG),
            (request("GET", "/metrics", [("x-api-key", "k")]), logging.DEBUG),
            (request("GET", "/metrics"), logging.INFO),
            (request("GET", "/admin/requests", [("x-api-key", "k")]), logging.DEBUG),
            (request("DELETE", "/admin/requests/r", [("x-api-key", "k")]), logging.INFO),
            (request("GET", "/"), logging.DEBUG),
            (request("GET", "/v1/models/m", [("x-api-key", "k")]), logging.WARNING),
            (post(headers=[("x-api-key", "k")]), logging.WARNING),
            (post(model="other/m", headers=[("x-api-key", "k")]), logging.WARNING),
        ],
    )
    async def test_has_the_level_of_what_happened(self, gateway, upstream, connect, raw, level):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="k", RETRY_MAX_RETRIES="0")
        await ask(await connect(handle), raw)
        await line_of(handle)
        [line] = [each for each in handle.logs.records if each.name == "gomodel.access"]
        assert line.levelno == level

    async def test_a_request_that_the_end_of_a_drain_cut_off(self, gateway, upstream, connect):
        upstream.on_request(BEGUN, Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(post())
        await client.read_head()
        await handle.gateway.drain(0.0)
        await handle.gateway.close()
        assert end_of(await line_of(handle)) == (200, "gomodel", "data", "shutdown")

    async def test_a_client_that_does_not_read(self, gateway, make_upstream, connect):
        upstream = await make_upstream()
        endless = head(200, [("Transfer-Encoding", "chunked")]) + chunked(*[b"x" * 65536] * 320)
        upstream.on_request(endless, Stall())
        handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="100ms")
        client = await connect(handle, receive_buffer=4096)
        await client.send(post())
        assert end_of(await line_of(handle)) == (200, "client", "write", "write_timeout")
