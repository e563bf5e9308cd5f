"""A request body streams: it goes on as it comes, at the pace of the slower side, and is never more than it said.

Decided here for bodies of any size: when the instance gets the first of it, how its framing changes by the bytes cut,
what an early answer does to the rest, and what is too large (contract section 4, RFC 9110 10.1.1, RFC 9112 9.6).
"""

import asyncio
import hashlib
import itertools
import json

import pytest

from gomodel.downstream.arrivals import Arrivals
from gomodel.downstream.body import IN_MEMORY_BYTES
from gomodel.relay import at_once
from gomodel.relay.upload import UploadFlow

from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Fin,
    PeerGone,
    RawClient,
    ReadBody,
    ReadHead,
    Stall,
    WaitFor,
    chunked,
    json_response,
    request,
    response,
)
from ..harness.verdicts import CHAT, KEPT, OK, aborted, ask, own_error, served, turned
from ..harness.wire import FLOOD_BYTES

FIRST = b'{"model":"vllm/m","input":"'
BIG = 3 << 20
FORM = [("Content-Type", "multipart/form-data; boundary=b")]
FIELD = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nvllm/m\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + bytes(range(256)) * 4000 + b"\r\n"


def piece(data: bytes, framing: str) -> bytes:
    return chunked(data) if framing == "chunked" else data


def upload(size: int, framing: str, target: str = CHAT, fields: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The head of an upload of that many bytes."""
    told = ("Transfer-Encoding", "chunked") if framing == "chunked" else ("Content-Length", str(size))
    return request("POST", target, [*fields, told])


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("fields", "start", "end"), [((), FIRST, b'"}'), (tuple(FORM), FIELD + FILE[:100], FILE[100:] + b"--b--\r\n")]
)
async def test_a_body_goes_on_as_soon_as_its_selector_is_known(gateway, upstream, connect, framing, fields, start, end):
    upstream.on_request(ReadHead(), ReadBody(), OK)
    client = await connect(await gateway(vllm=upstream))
    middle = b"x" * BIG
    size = len(start + middle + end)
    await client.send(upload(size, framing, fields=fields) + piece(start, framing))
    seen = await upstream.wait_for_request()
    cut = start.replace(b"vllm/m", b"m")
    await turned(lambda: seen.body == cut)
    for data in (middle, end):
        assert not seen.complete
        await client.send(piece(data, framing))
    await client.send(LAST_CHUNK if framing == "chunked" else b"")
    assert (await client.read_response()).status == 200
    assert hashlib.sha256(seen.body).digest() == hashlib.sha256(cut + middle + end).digest()
    told = (seen.get("Content-Length"), seen.get("Transfer-Encoding"))
    assert told == ((None, "chunked") if framing == "chunked" else (str(size - 5), None))


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ((), b'{"input":"' + b"x" * BIG + b'","model":"vllm/m"}'),
        ((), b'{"model":"vllm/m"}'),
        (tuple(FORM), FILE + FIELD + b"--b--\r\n"),
        (tuple(FORM), FIELD + FILE + b"--b--\r\n"),
    ],
    ids=["behind", "alone", "form, file first", "form, file last"],
)
async def test_wherever_the_selector_stands_only_its_prefix_is_cut(gateway, upstream, connect, framing, fields, body):
    upstream.on_request(OK)
    client = await connect(await gateway(vllm=upstream))
    pieces = [body[i : i + 200_000] for i in range(0, len(body), 200_000)]
    await client.send(request("POST", CHAT, fields, pieces if framing == "chunked" else body))
    assert (await client.read_response()).status == 200
    (seen,) = upstream.requests
    assert seen.body == body.replace(b"vllm/m", b"m")
    assert seen.get("Content-Length") == (None if framing == "chunked" else str(len(body) - 5))


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_client_is_held_back_as_long_as_the_instance_does_not_read(gateway, make_upstream, connect, framing):
    upstream = await make_upstream(receive_buffer=4096)
    go = asyncio.Event()
    upstream.on_request(ReadHead(), WaitFor(go), ReadBody(), OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    data = bytes(range(256)) * (FLOOD_BYTES >> 8)
    body = piece(data, framing) + (LAST_CHUNK if framing == "chunked" else b"")
    sending = asyncio.create_task(client.send(upload(len(data), framing, "/p/vllm/x") + body))
    seen = await upstream.wait_for_request()
    assert await client.wire.blocked() < len(data)
    (record,) = handle.gateway.telemetry.running.records
    (connection,) = handle.gateway._server.clients
    # What gomodel itself holds: one reader's and one writer's worth, however large the upload is.
    assert connection._upload.waiting_bytes + record.owner.channel.transport.get_write_buffer_size() < 1 << 20
    go.set()
    await sending
    assert (await client.read_response()).status == 200
    assert hashlib.sha256(seen.body).digest() == hashlib.sha256(data).digest()


EXPECT = ("Expect", "100-continue")


@pytest.mark.parametrize("target", [CHAT, "/p/vllm/x"])
@pytest.mark.parametrize("answer", [OK, json_response({"error": "too large"}, 413)])
async def test_a_client_that_expects_it_is_told_to_continue_once_and_the_instance_is_not(
    gateway, upstream, connect, target, answer
):
    upstream.on_request(answer)
    client = await connect(await gateway(vllm=upstream))
    body = b'{"model":"vllm/m"}'
    await client.send(request("POST", target, [("expect", "100-Continue"), ("Content-Length", str(len(body)))]))
    assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    for byte in body:
        await client.send(bytes([byte]))
    final = await client.read_response()
    assert (final.status, final.informational, final.end) == (200 if answer == OK else 413, [], "keepalive")
    assert upstream.requests[0].get("Expect") is None


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("POST", CHAT, [EXPECT], body=b'{"model":"vllm/m"}'), 200),
        (request("POST", CHAT, [EXPECT], body=b""), 400),
        (request("GET", "/health", [EXPECT]), 200),
        (request("POST", "/nothing", [EXPECT, ("Content-Length", "5")]), 404),
        (request("POST", CHAT, [EXPECT, ("Content-Length", "9999999")]), 413),
        (request("POST", CHAT, [("Expect", "foo"), ("Content-Length", "5")]), 417),
        (request("POST", CHAT, [("Expect", "100-continue, foo"), ("Content-Length", "5")]), 417),
        (request("POST", "/p/vllm-dead/x", [EXPECT, ("Content-Length", "5")]), 502),
    ],
)
async def test_nobody_is_told_to_continue_whose_body_is_there_or_not_wanted(gateway, upstream, connect, sent, status):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, vllm_dead="http://127.0.0.1:9/v1", BODY_SIZE_LIMIT="1M", VLLM_MODELS="m")
    client = await connect(handle)
    await client.send(sent)
    answer = await client.read_response()
    assert (answer.status, answer.informational) == (status, [])


async def test_an_http_1_0_client_is_not_told_to_continue(gateway, upstream, connect):
    upstream.on_request(OK)
    client = await connect(await gateway(vllm=upstream))
    sent = request("POST", "/p/vllm/x", [EXPECT], body=b"ab").replace(b"HTTP/1.1", b"HTTP/1.0")
    await client.send(sent[:-2])
    await upstream.wait_for_request()
    await client.send(b"ab")
    answer = await client.read_response()
    assert (answer.status, answer.informational, answer.end) == (200, [], "fin")


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("steps", [(), (Fin(),), (Stall(),)], ids=["open", "closed", "stalled"])
async def test_an_answer_before_the_end_of_the_upload_is_readable_and_the_last(
    gateway, upstream, connect, framing, steps
):
    upstream.on_request(ReadHead(), ReadBody(1000), json_response({"error": "too large"}, 413), *steps)
    upstream.lenient = True
    client = await connect(await gateway(vllm=upstream))
    await client.send(upload(BIG, framing, "/p/vllm/x") + piece(b"x" * 1000, framing))
    await turned(lambda: len(upstream.requests) and len(upstream.requests[0].body) == 1000)
    # A client that reads only after it has sent more: without a linger its answer would be lost to a reset.
    for _ in range(4):
        await client.send(piece(b"x" * 100_000, framing))
    answer = await client.read_response()
    assert (answer.status, answer.json(), answer.end) == (413, {"error": "too large"}, "fin")
    assert answer.get("Connection") == "close"
    await upstream.connections[0].over
    assert not upstream.requests[0].complete


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_connection_whose_upload_was_answered_early_serves_no_other_request(
    gateway, upstream, connect, framing
):
    upstream.on_request(ReadHead(), ReadBody(1000), OK)
    upstream.on_request(OK)
    upstream.lenient = True
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    await client.send(upload(BIG, framing, "/p/vllm/x") + piece(b"x" * 1000, framing))
    assert (await client.read_response()).status == 200
    # What it reads next would be taken for the rest of the upload.
    assert (await ask(await connect(handle))).status == 200
    assert served(upstream) == [1, 1]
    assert await upstream.connections[0].closed == "reset"
    assert not upstream.requests[0].complete
    assert upstream.requests[1].complete


async def test_a_request_still_to_be_sent_when_its_answer_ends_the_connection_is_cut_off_by_a_reset(
    gateway, make_upstream, connect
):
    upstream = await make_upstream(receive_buffer=4096)
    upstream.on_request(ReadHead(), response(b"{}", 200, [("Connection", "close")]), Stall())
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, request("POST", CHAT, body=b'{"input":"' + b"x" * 4 * BIG + b'","model":"vllm/m"}'))
    assert answer.status == 200
    assert await upstream.connections[0].closed == "reset"
    assert not upstream.requests[0].complete


@pytest.mark.transports("tcp", "tls", "unix")
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_an_instance_that_closes_on_an_upload_is_not_left_alone_for_it(gateway, upstream, connect, framing):
    """It may have refused the upload with an answer that was lost; one client's uploads must not shut it for all."""
    upstream.on_request(ReadHead(), ReadBody(1000), Fin())
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
    client = await connect(handle)
    await client.send(upload(BIG, framing, "/p/vllm/x") + piece(b"x" * 1000, framing))
    own_error(await client.read_response(), 502, "connection_terminated")
    assert handle.replica().breaker.closed
    assert (await ask(await connect(handle))).status == 200


async def test_an_answer_that_streams_while_the_upload_goes_on_gets_all_of_it(gateway, upstream, connect):
    upstream.on_request(ReadHead(), SSE_HEAD + chunked(b"early"), ReadBody(), chunked(b"late") + LAST_CHUNK)
    client = await connect(await gateway(vllm=upstream))
    await client.send(upload(BIG, "length", "/p/vllm/x"))
    await client.read_head()
    assert await client.read_chunk() == b"early"
    await client.send(b"x" * BIG)
    answer = await client.read_rest()
    assert (answer.body, answer.complete, answer.end) == (b"earlylate", True, "fin")
    assert upstream.requests[0].body == b"x" * BIG


@pytest.mark.parametrize(("target", "anthropic"), [(CHAT, False), ("/v1/messages", True)])
async def test_a_declared_length_over_the_limit_is_a_413_before_a_byte_is_read(
    gateway, upstream, connect, target, anthropic
):
    client = await connect(await gateway(vllm=upstream, BODY_SIZE_LIMIT="1K"))
    await client.send(upload(1025, "length", target))
    answer = await client.read_response()
    assert (answer.status, answer.get("Connection"), answer.end) == (413, "close", "fin")
    error = answer.json()["error"]
    assert error["type"] == ("request_too_large" if anthropic else "invalid_request_error")
    assert "1024" in error["message"]
    assert upstream.connections == []


@pytest.mark.parametrize("selector_first", [True, False])
async def test_a_chunked_body_over_the_limit_is_a_413_and_never_complete_upstream(
    gateway, upstream, connect, selector_first
):
    upstream.on_request(ReadHead(), ReadBody())
    handle = await gateway(vllm=upstream, BODY_SIZE_LIMIT="1M")
    client = await connect(handle)
    await client.send(upload(0, "chunked") + chunked(FIRST if selector_first else b'{"input":"'))
    if selector_first:
        await upstream.wait_for_request()
    try:
        for _ in range(12):
            await client.send(chunked(b"x" * 100_000))
    except PeerGone:
        pass
    own_error(await client.read_response(), 413, "body_too_large", "invalid_request_error")
    for connection in upstream.connections:
        await connection.over
    assert [each.complete for each in upstream.requests] == ([False] if selector_first else [])
    assert await aborted(handle) == ({("client", "request"): 1} if selector_first else {})


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_the_limit_itself_passes_and_passthrough_has_none(gateway, upstream, connect, framing):
    upstream.repeat(response(b"ok"))
    handle = await gateway(vllm=upstream, BODY_SIZE_LIMIT="1K")
    body = json.dumps({"model": "vllm/m", "input": ""}).encode()
    body = body.replace(b'""', b'"%b"' % (b"x" * (1024 - len(body))))
    for target, data in ((CHAT, body), ("/p/vllm/x", b"x" * 100_000)):
        client: RawClient = await connect(handle)
        await client.send(request("POST", target, [], [data] if framing == "chunked" else data))
        assert (await client.read_response()).status == 200
    assert [len(each.body) for each in upstream.requests] == [1019, 100_000]


@pytest.mark.interpreted
async def test_what_was_sent_of_an_upload_is_kept_only_while_it_is_little(gateway, upstream, connect, monkeypatch):
    made = []

    class Seen(at_once.Outgoing):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(at_once, "Outgoing", Seen)
    upstream.on_request(ReadHead(), Stall())
    client = await connect(await gateway(vllm=upstream))
    size = IN_MEMORY_BYTES
    await client.send(request("POST", CHAT, [("Content-Length", str(2 * size))]) + b'{"model":"vllm/m","x":"')
    await upstream.wait_for_connection()
    await turned(lambda: made and b"".join(made[0].parts) == b'{"model":"m","x":"')
    await client.send(b"x" * (size // 2))
    await turned(lambda: sum(map(len, made[0].parts)) > size // 2)
    await client.send(b"x" * (size // 2))
    await turned(lambda: not made[0].parts)


# No two places of it are alike, so that none of it can stand in another's.
LONG = b"".join(b"%08x" % number for number in range(1 << 20))


def cut(data: bytes) -> list[bytes]:
    """Uneven pieces: long ones, short ones, and now and then a single byte."""
    pieces = []
    for size in itertools.cycle((65536, 1, 200_000, 16384, 333, 65536, 131_072, 3)):
        if not data:
            return pieces
        pieces.append(data[:size])
        data = data[size:]
    raise AssertionError


@pytest.mark.transports("tcp", "unix", "tls>tcp", "tcp>tls")
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_long_upload_is_sent_from_where_it_was_read_as_far_as_the_instance_reads(
    gateway, make_upstream, connect, framing, monkeypatch
):
    upstream = await make_upstream(receive_buffer=4096)
    go = asyncio.Event()
    upstream.on_request(ReadHead(), ReadBody(1 << 20), WaitFor(go), ReadBody(), OK)
    went = []
    pass_on = UploadFlow._pass_on
    monkeypatch.setattr(UploadFlow, "_pass_on", lambda flow, pieces: went.append(pass_on(flow, pieces)) or went[-1])
    client = await connect(await gateway(vllm=upstream))
    sent = [piece(each, framing) for each in cut(FIRST + LONG + b'"}')]
    if framing == "chunked":
        sent[40] = sent[40].replace(b"\r\n", b";note=1\r\n", 1)
        sent.append(LAST_CHUNK)
    body = b"".join(sent)
    sending = asyncio.create_task(client.send(upload(len(body), framing) + body))
    seen = await upstream.wait_for_request()
    await turned(lambda: True in went and False in went)
    go.set()
    await sending
    assert (await client.read_response()).status == 200
    assert seen.body == b'{"model":"m","input":"' + LONG + b'"}'


@pytest.mark.transports("tcp", "unix", "tls>tcp", "tcp>tls")
async def test_the_framing_of_a_long_upload_may_come_apart_from_what_is_framed(gateway, upstream, connect, monkeypatch):
    upstream.on_request(ReadHead(), ReadBody(), OK)
    reads = []
    lend = Arrivals._lend
    monkeypatch.setattr(Arrivals, "_lend", lambda arrivals, data: reads.append(bytes(data)) or lend(arrivals, data))
    client = await connect(await gateway(vllm=upstream))
    await client.send(upload(0, "chunked") + piece(FIRST + LONG, "chunked"))
    seen = await upstream.wait_for_request()
    await turned(lambda: len(seen.body) == len(FIRST + LONG) - len(b"vllm/"))
    for part in (b"3\r\n", b"abc", b"\r\n", b"2\r\n", b"de", b"\r\n3\r\n", b"fgh\r\n", b'2\r\n"}\r\n', LAST_CHUNK):
        await client.send(part)
        await turned(lambda part=part: reads[-1:] == [part])
    assert (await client.read_response()).status == 200
    assert seen.body == FIRST.replace(b"vllm/", b"") + LONG + b'abcdefgh"}'


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_who_leaves_in_a_long_upload_leaves_no_request_that_looks_whole(gateway, upstream, connect, framing):
    upstream.on_request(ReadHead(), ReadBody())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(upload(2 * len(LONG), framing) + piece(FIRST + LONG, framing))
    seen = await upstream.wait_for_request()
    await turned(lambda: len(seen.body) > len(LONG))
    client.wire.close()
    await upstream.connections[0].over
    assert not seen.complete
    assert await aborted(handle) == {("client", "request"): 1}
