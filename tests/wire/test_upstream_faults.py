"""What a client is told when an instance fails before its response head is in: one honest error, and nothing more."""

import asyncio

import pytest

from gomodel.upstream.channel import Channel

from ..harness.scripted import (
    SSE_HEAD,
    Close,
    Dribble,
    Fin,
    ReadBody,
    ReadHead,
    Repeat,
    Reset,
    SendByteByByte,
    SendPieces,
    Set,
    Stall,
    chunked,
    head,
    request,
    response,
)
from ..harness.verdicts import CANARY, KEPT, OK, aborted, ask, counted, own_error, post, served, tells_nothing
from ..harness.wire import FLOOD_BYTES
from ..unit.selector.test_scan_turns import calls_of

pytestmark = pytest.mark.transports("tcp", "tls", "unix")

HALF_HEAD = f"HTTP/1.1 200 {CANARY}\r\nX-Secret: {CANARY}\r\nContent-".encode()
FIELD = f"X-Secret: {CANARY}\r\n".encode()
TLS_ALERT = bytes.fromhex("15030100020228") + CANARY.encode()
H2_SETTINGS = bytes.fromhex("000012040000000000") + CANARY.encode()

# What the instance does to a request -> the code of the 502.
FAULTS = [
    pytest.param((Fin(),), "connection_terminated", id="fin"),
    pytest.param((Reset(),), "connection_terminated", id="reset"),
    pytest.param((ReadHead(), Close()), "connection_terminated", id="closes without reading the body"),
    pytest.param((HALF_HEAD, Fin()), "http_response_incomplete", id="half a head, fin"),
    pytest.param((HALF_HEAD, Reset()), "http_response_incomplete", id="half a head, reset"),
    pytest.param((b"H", Fin()), "http_response_incomplete", id="one byte, fin"),
    pytest.param((head(103, [("X", CANARY)]), Fin()), "http_response_incomplete", id="early hints, fin"),
    pytest.param((response(b"x" * 100, 500)[:-1], Fin()), "connection_terminated", id="a 500 without its end, fin"),
    pytest.param((f"{CANARY}\r\n\r\n".encode(), Stall()), "http_protocol_error", id="no status line"),
    pytest.param((f"RTSP/1.0 200 OK\r\nX: {CANARY}\r\n\r\n".encode(), Stall()), "http_protocol_error", id="rtsp"),
    pytest.param((f"ICE/1.0 200 OK\r\nX: {CANARY}\r\n\r\n".encode(), Fin()), "http_protocol_error", id="ice"),
    pytest.param((f"SSH-2.0-{CANARY}\r\n".encode(), Stall()), "http_protocol_error", id="ssh"),
    pytest.param((f"<html>{CANARY}</html>".encode(), Fin()), "http_protocol_error", id="http/0.9"),
    pytest.param((TLS_ALERT, Fin()), "http_protocol_error", id="tls on a plain port"),
    pytest.param((H2_SETTINGS, Stall()), "http_protocol_error", id="http/2 preface"),
    pytest.param((b"HTTP/1.1 200 X\r\n" + FIELD + b"no colon\r\n\r\n", Stall()), "http_protocol_error", id="no colon"),
    pytest.param((b"HTTP/1.1 200 X\r\nA: \0" + FIELD + b"\r\n", Stall()), "http_protocol_error", id="nul"),
    pytest.param((SSE_HEAD + b"zz" + CANARY.encode(), Stall()), "http_protocol_error", id="chunk size, same segment"),
    pytest.param(
        (b"HTTP/1.1 200 X\r\n" + FIELD * 200 + b"\r\n", Stall()), "http_response_header_section_size", id="200 fields"
    ),
    pytest.param(
        (b"HTTP/1.1 200 X\r\nX: ", Repeat(30, (CANARY.encode() * 5000,)), Stall()),
        "http_response_header_size",
        id="endless field value",
    ),
    pytest.param(
        (b"HTTP/1.1 200 X\r\n", Repeat(30, (b"canary6b1f" * 6000,)), Stall()),
        "http_response_header_size",
        id="endless field name",
    ),
    pytest.param(
        (b"HTTP/1.1 200 ", Repeat(30, (CANARY.encode() * 5000,)), Stall()), "http_response_header_size", id="reason"
    ),
    pytest.param(
        (b"HTTP/1.1 200 X\r\n", Repeat(10, (b"X: " + CANARY.encode() * 25_000 + b"\r\n",)), Stall()),
        "http_response_header_section_size",
        id="several huge fields",
    ),
    pytest.param((Repeat(40, (b"\r\n" * 32_768,)), Stall()), "http_response_header_section_size", id="blank lines"),
    pytest.param(
        (Repeat(1200, (head(102, [("X", CANARY * 200)]),)), Stall()),
        "http_response_header_section_size",
        id="megabytes of interim responses",
    ),
    pytest.param((head(101, [("X", CANARY)]), Stall()), "http_upgrade_failed", id="101"),
    pytest.param(
        (head(101, [("Connection", "upgrade"), ("Upgrade", "websocket"), ("X", CANARY)]) + b"\x81\x00", Stall()),
        "http_upgrade_failed",
        id="websocket unasked",
    ),
]


@pytest.mark.parametrize(("steps", "code"), FAULTS)
async def test_a_fault_before_the_head_is_one_502_that_tells_nothing(gateway, upstream, connect, steps, code):
    upstream.on_request(*steps)
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    answer = await ask(client)
    assert "'vllm'" in own_error(answer, 502, code)
    assert (answer.end, answer.get("X-GoModel-Provider"), answer.get("Retry-After")) == ("keepalive", "vllm", None)
    await upstream.requests[0].connection.closed
    # A 500 is held back until it is known not to be a refusal; its head has come, though the client has not seen it.
    phase = "data" if code == "connection_terminated" and isinstance(steps[0], bytes) else "head"
    assert await aborted(handle) == {("upstream", phase): 1}
    tells_nothing(handle, answer, upstream)
    # The client's connection lives on, the upstream's does not serve again, and nothing was tried twice.
    assert (await ask(client)).body == b'{"id":"ok"}'
    assert served(upstream) == [1, 1]
    assert handle.gateway.telemetry.retries == {}
    assert await counted(handle, 2) == {502: 1, 200: 1}


@pytest.mark.parametrize("steps", [(HALF_HEAD, Fin()), (Reset(),), (b"garbage\r\n", Stall())])
async def test_an_anthropic_client_reads_the_failure_in_its_own_shape(gateway, upstream, connect, steps):
    upstream.on_request(*steps)
    handle = await gateway(vllm=upstream)
    answer = await ask(await connect(handle), post("/v1/messages"))
    assert (answer.status, answer.complete) == (502, True)
    document = answer.json()
    assert (document["type"], document["error"]["type"]) == ("error", "api_error")
    assert set(document["error"]) == {"type", "message"}
    tells_nothing(handle, answer, upstream)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((Stall(),), id="silence"),
        pytest.param((HALF_HEAD, Stall()), id="half a head"),
        pytest.param((Repeat(1000, (head(102), Dribble(b"", 1, 0.001))), Stall()), id="interim responses"),
        pytest.param((Dribble(HALF_HEAD * 20, 1, 0.01),), id="a byte at a time"),
    ],
)
async def test_a_head_that_does_not_come_in_time_is_504_whatever_dribbles(gateway, upstream, connect, steps):
    upstream.on_request(*steps)
    handle = await gateway(KEPT, vllm=upstream, HTTP_RESPONSE_HEADER_TIMEOUT="150ms")
    client = await connect(handle)
    answer = await ask(client)
    own_error(answer, 504, "http_response_timeout")
    assert answer.end == "keepalive"
    await upstream.requests[0].connection.closed
    assert len(upstream.requests) == 1
    assert await aborted(handle) == {("upstream", "head"): 1}
    tells_nothing(handle, answer, upstream)


async def test_a_slow_head_within_the_limit_is_served(gateway, upstream, connect):
    upstream.on_request(Dribble(OK, 1, 0.001))
    answer = await ask(await connect(await gateway(vllm=upstream)))
    assert (answer.status, answer.body) == (200, b'{"id":"ok"}')


@pytest.mark.parametrize("split", ["bytes", "lines"])
async def test_a_head_in_pieces_is_the_same_head(gateway, upstream, connect, split):
    raw = head(103) + head(200, [("X-A", "1"), ("Set-Cookie", "a=b"), ("Content-Length", "2")]) + b"ok"
    lines = SendPieces((*tuple(line + b"\r\n" for line in raw.split(b"\r\n")[:-1]), b"ok"))
    upstream.on_request(SendByteByByte(raw) if split == "bytes" else lines)
    answer = await ask(await connect(await gateway(vllm=upstream)))
    assert (answer.status, answer.get("X-A"), answer.get("Set-Cookie"), answer.body) == (200, "1", "a=b", b"ok")


async def test_a_header_of_120_kilobytes_passes_unchanged(gateway, upstream, connect):
    metadata = '{"usage": 1}' * 10_000
    upstream.on_request(response(b"ok", 200, [("metadata", metadata)]))
    answer = await ask(await connect(await gateway(vllm=upstream)))
    assert (answer.status, answer.get("metadata"), answer.body) == (200, metadata, b"ok")


@pytest.mark.parametrize("status", [400, 403, 404, 422, 429, 500, 501, 502, 503, 504, 599])
async def test_an_error_of_the_instance_passes_with_every_byte_and_field(gateway, upstream, connect, status):
    body = b'{ "error" : {"message":"no","code":%d} }\n' % status
    fields = [("Retry-After", "17"), ("retry-after-ms", "17000"), ("X-b", "1"), ("x-A", "two"), ("X-b", "3")]
    upstream.on_request(response(body, status, fields, "As It Likes"))
    handle = await gateway(vllm=upstream)
    answer = await ask(await connect(handle))
    assert (answer.status, answer.reason, answer.body) == (status, "As It Likes", body)
    assert answer.headers[: len(fields)] == fields
    assert (len(upstream.requests), answer.get("X-GoModel-Provider")) == (1, "vllm")
    # The instance answered: that is no failure of the exchange.
    assert await aborted(handle) == {}
    assert await counted(handle, 1) == {status: 1}


@pytest.mark.transports("tcp", "unix")  # over TLS the answer is lost with the reset
async def test_an_upstream_that_answers_during_the_upload_and_closes_is_heard(gateway, upstream, connect):
    upstream.on_request(ReadHead(), response(b"too long", 413, [("Connection", "close")]), Close())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    raw = request("POST", "/v1/chat/completions", body=b'{"model":"m","x":"' + b"x" * 300_000 + b'"}')
    await client.send(raw[:50_000])
    answer = await client.read_head()
    await client.send(raw[50_000:100_000])
    answer = await client.read_rest()
    assert (answer.status, answer.body, answer.complete) == (413, b"too long", True)
    assert answer.get("Connection") == "close"
    assert await client.closed == "fin"


@pytest.mark.transports("tcp", "unix")
@pytest.mark.parametrize("reads", [0, 1, 100_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_upload_at_full_speed_does_not_run_over_the_answer_that_refuses_it(
    gateway, upstream, connect, reads, framing
):
    """What the instance left unread makes its close a reset, which fails a write of the gateway."""
    upstream.lenient = True
    refusal = response(b"length limit exceeded", 400, [("Connection", "close")])
    upstream.on_request(ReadHead(), ReadBody(at_least=reads), refusal, Close())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    body = b'{"model":"m","x":"' + b"x" * 8_000_000
    if framing == "length":
        raw = request("POST", "/v1/chat/completions", [("Content-Length", str(len(body) + 2))]) + body
    else:
        raw = request("POST", "/v1/chat/completions", body=[body]).removesuffix(b"0\r\n\r\n")
    sending = asyncio.create_task(client.wire.send(raw))
    answer = await client.read_response()
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert (answer.status, answer.body, answer.complete) == (400, b"length limit exceeded", True)
    await upstream.requests[0].connection.over
    assert await aborted(handle) == {}


async def test_an_upstream_that_stops_reading_the_upload_holds_the_client_back_and_is_504(
    gateway, make_upstream, connect
):
    upstream = await make_upstream(receive_buffer=4096)
    upstream.on_request(ReadHead(), Stall())
    handle = await gateway(vllm=upstream, HTTP_RESPONSE_HEADER_TIMEOUT="1s")
    client = await connect(handle)
    size = 2 * FLOOD_BYTES  # of which less than half can be anywhere on the way
    raw = request("POST", "/v1/chat/completions", [("Content-Length", str(size))])
    sending = asyncio.create_task(client.wire.send(raw + b'{"model":"m","x":"' + b"x" * size))
    assert await client.wire.blocked() < size / 2
    answer = await client.read_head()
    assert answer.status == 504
    await upstream.requests[0].connection.closed
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)


async def test_one_slow_instance_does_not_hold_up_another(gateway, make_upstream, connect):
    slow, quick = await make_upstream(), await make_upstream()
    arrived = asyncio.Event()
    slow.on_request(Set(arrived), Stall())
    quick.repeat(OK)
    handle = await gateway(vllm=quick, vllm_slow=slow)
    waiting, other = await connect(handle), await connect(handle)
    await waiting.send(post(model="vllm-slow/m"))
    await arrived.wait()
    for _ in range(3):
        assert (await ask(other)).status == 200
    slow.on_request(OK)
    slow.release()
    waiting.fin()
    await slow.requests[0].connection.closed


async def test_chunks_that_come_with_the_head_reach_the_client_before_a_later_fault(gateway, upstream, connect):
    seen = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Set(seen), Stall())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == b"data: 1\n\n"
    client.fin()
    await upstream.requests[0].connection.closed
    assert await aborted(handle) == {("client", "data"): 1}


@pytest.mark.parametrize("sent", [b"\r\n" * 131_072, b"HTTP/1.1 102 x\r\n\r\n" * 15_000], ids=["lines", "interim"])
async def test_empty_lines_and_interim_heads_by_the_thousand_take_little_time(
    gateway, upstream, connect, monkeypatch, sent
):
    received, calls = Channel.data_received, []
    monkeypatch.setattr(Channel, "data_received", lambda *given: calls.append(calls_of(lambda: received(*given))[0]))
    upstream.on_request(Repeat(40, (sent,)), Stall())
    answer = await ask(await connect(await gateway(vllm=upstream)))
    own_error(answer, 502, "http_response_header_section_size")
    assert sum(calls) < 100_000
