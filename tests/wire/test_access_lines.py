"""The access line of a request that comes over a socket: who ended it, in which phase, with how many bytes."""

import logging
from typing import Any

import pytest

from ..harness.leaks import nothing_left
from ..harness.scripted import (
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
from ..harness.verdicts import CANARY, OK, access_lines, ask, post


async def line_of(handle: Any, number: int = 1) -> dict[str, Any]:
    """The access line of the nth request that ended."""
    await nothing_left(lambda: [] if len(access_lines(handle)) >= number else ["a request that runs"])
    return access_lines(handle)[number - 1]


def end_of(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in ("status", "ended_by", "phase", "reason"))


BEGUN = SSE_HEAD + chunked(b"data: 1\n\n")


async def test_a_whole_stream_blames_nobody(gateway, upstream, connect):
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
async def test_a_stream_counts_its_payload_however_its_chunks_arrive(gateway, upstream, connect, size):
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
async def test_the_gaps_of_a_stream_are_those_between_its_pieces(gateway, upstream, connect, alone):
    piece = chunked(b"data: some text\n\n")
    pieces = [piece, *([piece] * 40 if alone else [piece * 2] * 40), LAST_CHUNK]
    upstream.on_request(SendPieces((SSE_HEAD, *pieces)))
    handle = await gateway(vllm=upstream)
    await ask(await connect(handle))
    line, gaps = await line_of(handle), handle.replica().gaps
    assert sum(gaps.counts) == 40
    # They are parts of one whole: none is measured from anything but the piece before it, and none is left out.
    assert 0 < gaps.sum * 1000 <= line["duration_ms"] - line["first_byte_ms"] + 0.2


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nothing"])
async def test_a_head_request_counts_no_byte_of_the_body_it_does_not_get(gateway, upstream, connect, path):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    get, head = await ask(client, request("GET", path)), await ask(client, request("HEAD", path), "HEAD")
    assert (head.status, head.body, head.get("Content-Length")) == (get.status, b"", str(len(get.body)))
    assert [(await line_of(handle, number))["bytes_out"] for number in (1, 2)] == [len(get.body), 0]
    assert sum(traffic.response_bytes for traffic in handle.gateway.telemetry.traffic.values()) == len(get.body)


async def test_a_client_that_leaves_before_the_head(gateway, upstream, connect):
    upstream.on_request(ReadHead(), Stall())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await (await upstream.wait_for_request()).done
    client.reset()
    assert end_of(await line_of(handle)) == (499, "client", "head", "disconnected")


async def test_a_client_that_leaves_a_stream(gateway, upstream, connect):
    upstream.on_request(BEGUN, Stall())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    await client.read_chunk()
    client.fin()
    assert end_of(await line_of(handle)) == (200, "client", "data", "disconnected")


async def test_a_client_that_leaves_its_upload(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(
        request("POST", "/v1/completions", [("Content-Type", "application/json")], body=b'{"model": 1}')[:-5]
    )
    client.fin()
    assert end_of(await line_of(handle)) == (499, "client", "request", "disconnected")


async def test_an_instance_that_breaks_off(gateway, upstream, connect):
    upstream.on_request(BEGUN, Fin())
    handle = await gateway(vllm=upstream)
    await ask(await connect(handle))
    assert end_of(await line_of(handle)) == (200, "upstream", "data", "connection_terminated")


async def test_an_instance_that_never_answers(gateway, upstream, connect):
    upstream.on_request(ReadHead(), Stall())
    handle = await gateway(vllm=upstream, HTTP_RESPONSE_HEADER_TIMEOUT="50ms")
    await ask(await connect(handle))
    assert end_of(await line_of(handle)) == (504, "upstream", "head", "http_response_timeout")


async def test_an_instance_that_falls_silent(gateway, upstream, connect):
    upstream.on_request(BEGUN, Stall())
    handle = await gateway(vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="50ms")
    await ask(await connect(handle))
    assert end_of(await line_of(handle)) == (200, "upstream", "data", "http_response_timeout")


async def test_an_instance_that_is_not_there(gateway, upstream, connect):
    upstream.stop_listening()
    handle = await gateway(vllm=upstream)
    await ask(await connect(handle))
    line = await line_of(handle)
    assert end_of(line) == (502, "upstream", "connect", "connection_refused")
    assert line["retries"] == 2


async def test_an_upload_that_stalls(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_REQUEST_IDLE_TIMEOUT="50ms")
    client = await connect(handle)
    await client.send(post()[:-5])
    await client.read_response("POST")
    assert end_of(await line_of(handle)) == (408, "client", "request", "request_timeout")


async def test_a_refusal_gives_its_reason_and_blames_nobody(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY=CANARY)
    await ask(await connect(handle), post(headers=[("Authorization", f"Bearer {CANARY}x")]))
    assert end_of(await line_of(handle)) == (401, None, None, "invalid_api_key")
    assert CANARY not in handle.logs.text


async def test_a_stale_connection_that_was_made_good_blames_nobody(gateway, upstream, connect):
    upstream.on_request(OK)
    upstream.on_request(ReadHead(), Fin())
    upstream.on_request(OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    assert [(await ask(client)).status for _ in range(2)] == [200, 200]
    line = await line_of(handle, 2)
    assert end_of(line) == (200, None, None, None)
    assert line["retries"] == 1


async def test_an_error_of_the_instance_is_an_answer_like_any_other(gateway, upstream, connect):
    upstream.on_request(response(b"{}", 400))
    handle = await gateway(vllm=upstream)
    await ask(await connect(handle))
    assert end_of(await line_of(handle)) == (400, None, None, None)


async def test_a_long_model_with_line_breaks_is_short(gateway, upstream, connect):
    upstream.on_request(OK)
    handle = await gateway(vllm=upstream)
    await ask(await connect(handle), post(model="vllm/" + "m\n" * 1000))
    line = await line_of(handle)
    assert line["model"] == "m\n" * 100 + "..."


async def test_a_model_that_no_list_holds_is_no_label(gateway, upstream, connect):
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
    gateway, upstream, connect, target, route, path
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
async def test_a_line_has_the_level_of_what_happened(gateway, upstream, connect, raw, level):
    upstream.stop_listening()
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="k", RETRY_MAX_RETRIES="0")
    await ask(await connect(handle), raw)
    await line_of(handle)
    [line] = [each for each in handle.logs.records if each.name == "gomodel.access"]
    assert line.levelno == level


async def test_a_request_that_the_end_of_a_drain_cut_off(gateway, upstream, connect):
    upstream.on_request(BEGUN, Stall())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    await handle.gateway.drain(0.0)
    await handle.gateway.close()
    assert end_of(await line_of(handle)) == (200, "gomodel", "data", "shutdown")


async def test_a_client_that_does_not_read(gateway, make_upstream, connect):
    upstream = await make_upstream()
    endless = head(200, [("Transfer-Encoding", "chunked")]) + chunked(*[b"x" * 65536] * 320)
    upstream.on_request(endless, Stall())
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="100ms")
    client = await connect(handle, receive_buffer=4096)
    await client.send(post())
    assert end_of(await line_of(handle)) == (200, "client", "write", "write_timeout")
