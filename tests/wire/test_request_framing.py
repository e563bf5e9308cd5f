"""A client's message is read in one way or not at all, however its bytes are cut into segments (RFC 9112 2-7).

Behind every refused message stands a second, sound one: it must not reach the instance either. What is read is what
the instance gets, once and in order.
"""

import asyncio
import socket

import pytest

from gomodel.config.load import from_environ
from gomodel.http1.framing import LINES_PER_TURN, Chunked

from ..harness.gateway import DEFAULTS
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
    head,
    request,
    response,
)
from ..harness.verdicts import access_lines, turned

SMUGGLED = request("GET", "/p/vllm/tokenize?smuggled")
LONG = "a" * (64 << 10)
PIPELINED = 5000


def raw(*lines: str, body: str = "", start: str = "POST /p/vllm/tokenize HTTP/1.1", host: str | None = "x") -> bytes:
    hosts = [f"Host: {host}"] if host is not None else []
    return "\r\n".join([start, *hosts, *lines, "", ""]).encode("latin-1") + body.encode("latin-1")


def cl(*values: str) -> bytes:
    return raw(*(f"Content-Length: {value}" for value in values), body="a")


def te(*values: str, **options: str) -> bytes:
    return raw(*(f"Transfer-Encoding: {value}" for value in values), body="1\r\na\r\n0\r\n\r\n", **options)


def chunks(body: str) -> bytes:
    return raw("Transfer-Encoding: chunked", body=body)


CL_TE = ("Content-Length: 6", "Transfer-Encoding: chunked")

REFUSED = {
    "no Host": raw(host=None),
    "two Hosts": raw("Host: y"),
    "Host with a space and a path": raw(host="a b@/c"),
    "Host with user information": raw(host="user@x"),
    "Host with a word for a port": raw(host="x:http"),
    "Content-Length then Transfer-Encoding": raw(*CL_TE, body="1\r\na\r\n0\r\n\r\n"),
    "Transfer-Encoding then Content-Length": raw(*CL_TE[::-1], body="1\r\na\r\n0\r\n\r\n"),
    "Content-Length twice the same": cl("1", "1"),
    "Content-Length twice": cl("1", "2"),
    **{f"Content-Length {value!r}": cl(value) for value in ("1, 1", "+1", "-1", "1_0", "", "0x1", "1 0", str(2**64))},
    "Content-Length of five thousand digits": cl("0" * 4990 + "1"),
    "a space before the colon": raw("Content-Length : 1", body="a"),
    "Transfer-Encoding twice": te("chunked", "chunked"),
    **{
        f"Transfer-Encoding {value!r}": te(value)
        for value in (
            "chunked, chunked",
            "chunked, gzip",
            "gzip, chunked",
            "gzip",
            "identity",
            "xchunked",
            "\x0bchunked",
            "",
            "chunked;q=1",
        )
    },
    "Transfer-Encoding in HTTP/1.0": te("chunked", start="POST /p/vllm/tokenize HTTP/1.0"),
    "a folded field": raw("X: a", " b"),
    "a bare LF": raw("X: a\nY: b"),
    "a bare CR": raw("X: a\rb"),
    "NUL in a value": raw("X: a\0b"),
    "0x01 in a value": raw("X: a\x01b"),
    "a space in a name": raw("X Y: a"),
    "a space before a name": raw(" X: a", host=None),
    "an empty name": raw(": a"),
    "no colon": raw("X"),
    "a blank before the first field": raw(" Host: x", host=None),
    "RTSP/1.0": raw(start="POST /p/vllm/tokenize RTSP/1.0"),
    "ICE/1.0": raw(start="SOURCE /p/vllm/tokenize ICE/1.0"),
    "HTTP/1.32": raw(start="GET /p/vllm/tokenize HTTP/1.32"),
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",
    "a method in lower case": raw(start="get /p/vllm/tokenize HTTP/1.1"),
    "a mixed method": raw(start="Post /p/vllm/tokenize HTTP/1.1"),
    "two spaces before the target": raw(start="GET  /p/vllm/tokenize HTTP/1.1"),
    "two spaces before the version": raw(start="GET /p/vllm/tokenize  HTTP/1.1"),
    "a space behind the version": raw(start="GET /p/vllm/tokenize HTTP/1.1 "),
    "a tab before the target": raw(start="GET\t/p/vllm/tokenize HTTP/1.1"),
    "a tab before the version": raw(start="GET /p/vllm/tokenize\tHTTP/1.1"),
    "a form feed before the version": raw(start="GET /p/vllm/tokenize\x0cHTTP/1.1"),
    "a space before the method": raw(start=" GET /p/vllm/tokenize HTTP/1.1"),
    "a space in the target": raw(start="GET /p/vllm/token ize HTTP/1.1"),
    "a version in lower case": raw(start="GET /p/vllm/tokenize http/1.1"),
    "an unknown method": raw(start="FOO-BAR /p/vllm/tokenize HTTP/1.1"),
    **{
        f"a chunk size {size!r}": chunks(f"{size}\r\na\r\n0\r\n\r\n")
        for size in ("0x1", "0_1", "+1", "-1", "1 ", "1" * 17, "", "g")
    },
    "chunk lines that end in LF": chunks("1\na\n0\n\n"),
    "LF in a chunk extension": chunks("1;a\nb\r\na\r\n0\r\n\r\n"),
    "CR in a chunk extension": chunks("1;a\rb\r\na\r\n0\r\n\r\n"),
    "a chunk longer than its size": chunks("1\r\nab\r\n0\r\n\r\n"),
}
OVERSIZED = {
    "a long request line": (raw(start=f"GET /{LONG} HTTP/1.1"), 414),
    "a long query": (raw(start=f"POST /v1/chat/completions?{LONG} HTTP/1.1"), 414),
    "a long field": (raw(f"X: {LONG}"), 431),
    "a long name": (raw(f"{LONG}: x"), 431),
    "large fields": (raw(*(f"X: {'a' * 8000}" for _ in range(9))), 431),
    "many fields": (raw(*("X: a" for _ in range(300))), 431),
}
WITHIN = {
    "a header of 9 KB": raw(f"Cookie: {'a' * 9000}"),
    "a query of 9 KB": raw(start=f"GET /p/vllm/tokenize?{'a' * 9000} HTTP/1.1"),
    "a header just within the limit": raw(f"X: {'a' * ((64 << 10) - 100)}"),
    "128 fields": raw(*("X: a" for _ in range(128))),
}
OTHER_VERSIONS = [" HTTP/2.0", " HTTP/0.9", ""]


async def deliver(client: RawClient, how: str, data: bytes) -> None:
    """Sends as far as the gateway takes it: a server may close as soon as it has seen enough."""
    send = {"whole": client.send, "bytes": client.send_byte_by_byte, "lines": client.send_split_at_crlf}[how]
    try:
        await send(data)
    except PeerGone:
        pass


async def refuses(client: RawClient, how: str, data: bytes, *statuses: int) -> None:
    await deliver(client, how, data)
    answer = await client.read_response()
    assert answer.complete
    assert answer.status in statuses
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.get("connection") == "close"
    assert answer.get("x-request-id")
    assert await client.read_all_until_close() == b""


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
async def test_an_ambiguous_message_is_a_400_and_nothing_of_its_connection_is_forwarded(
    gateway, upstream, connect, data
):
    upstream.lenient = True  # a body that breaks off is what the instance is meant to see
    upstream.repeat(ReadHead(), Stall())
    handle = await gateway(vllm=upstream)
    for how in ("whole", "lines", "bytes"):
        await refuses(await connect(handle), how, data + SMUGGLED, 400)
    assert [each.complete for each in upstream.requests if "smuggled" in each.target or each.complete] == []


@pytest.mark.parametrize(("data", "status"), OVERSIZED.values(), ids=OVERSIZED)
async def test_an_oversized_head_is_told_its_limit_whatever_is_still_being_sent(
    gateway, upstream, connect, data, status
):
    handle = await gateway(vllm=upstream)
    for how in ("whole", "lines"):
        client = await connect(handle)
        await refuses(client, how, data + SMUGGLED, status)
        message = client.responses[0].json()["error"]["message"]
        assert ("65536 bytes (HTTP_HEADER_LIMIT)" in message) or ("256 header fields" in message)
    assert upstream.connections == []


@pytest.mark.parametrize("data", WITHIN.values(), ids=WITHIN)
async def test_a_head_within_the_limits_is_served(gateway, upstream, connect, data):
    handle = await gateway(vllm=upstream)
    for how in ("whole", "lines"):
        client = await connect(handle)
        upstream.on_request(response(b"ok"))
        await client.send(data) if how == "whole" else await client.send_split_at_crlf(data)
        assert (await client.read_response()).body == b"ok"


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (raw(f"X: {'a' * 2000}", start="POST /v1/messages HTTP/1.1"), 431, "header_too_large"),
        (raw(start=f"POST /v1/messages?{'a' * 2000} HTTP/1.1"), 414, "uri_too_long"),
        (raw("X: a\0b", start="POST /v1/messages HTTP/1.1"), 400, "bad_request"),
    ],
)
async def test_a_refused_head_has_its_own_reason_in_the_log_and_the_shape_of_its_api(
    gateway, upstream, connect, sent, status, reason
):
    handle = await gateway(vllm=upstream, HTTP_HEADER_LIMIT="2000")
    for how in ("whole", "lines"):
        client = await connect(handle)
        await deliver(client, how, sent)
        answer = await client.read_response()
        assert (answer.status, answer.json()["type"]) == (status, "error")
        assert answer.json()["error"]["type"] == "invalid_request_error"
    await turned(lambda: len(access_lines(handle)) == 2)
    for line in access_lines(handle):
        assert (line["method"], line["route"], line["reason"]) == ("POST", "/v1/messages", reason)


async def test_the_limit_of_heads_follows_the_configuration(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    changed = from_environ({**DEFAULTS, "VLLM_BASE_URL": upstream.base_url, "HTTP_HEADER_LIMIT": "1K"})
    handle.gateway.reload(changed)
    await refuses(await connect(handle), "whole", raw(f"X: {'a' * 1024}"), 431)


@pytest.mark.parametrize("version", OTHER_VERSIONS)
async def test_another_major_version_is_a_505(gateway, upstream, connect, version):
    handle = await gateway(vllm=upstream)
    data = raw(start=f"GET /p/vllm/tokenize{version}")
    for how in ("whole", "lines", "bytes"):
        await refuses(await connect(handle), how, data, 505)
        await refuses(await connect(handle), how, data + SMUGGLED, 400, 505)
    assert upstream.connections == []


@pytest.mark.parametrize("how", ["whole", "lines", "bytes"])
@pytest.mark.parametrize("trailer", ["Authorization: Bearer canary", "X-Trailer: canary", "X-Empty:"])
async def test_chunk_extensions_and_trailers_end_at_the_gateway(gateway, upstream, connect, how, trailer):
    body = '1;name=value\r\na\r\n0000000000000000000000000000000000000002;x="a;b"\r\nbc\r\n000;last\r\n'
    client = await connect(await gateway(vllm=upstream))
    upstream.repeat(response(b"ok"))
    data = raw("Trailer: X-Trailer", "Transfer-Encoding: chunked", body=f"{body}X: 1\r\n{trailer}\r\n\r\n")
    await deliver(client, how, data + SMUGGLED)
    for _ in range(2):
        answer = await client.read_response()
        assert (answer.status, answer.body, answer.get("connection"), answer.end) == (200, b"ok", None, "keepalive")
    first, second = upstream.requests
    assert (first.body, first.trailers, first.get("transfer-encoding"), b";" in first.raw) == (
        b"abc",
        [],
        "chunked",
        False,
    )
    assert second.head == b"GET /tokenize?smuggled HTTP/1.1\r\n" + second.head.partition(b"\r\n")[2]
    assert second.get("X-Trailer") is None
    assert b"canary" not in b"".join(bytes(each.wire.received) for each in upstream.connections)


@pytest.mark.parametrize("how", ["whole", "lines", "bytes"])
async def test_pipelined_requests_reach_the_instance_once_each_and_are_answered_in_order(
    gateway, upstream, connect, how
):
    client = await connect(await gateway(vllm=upstream))
    inner = b"GET /p/vllm/tokenize?no HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = [
        request("GET", "/p/vllm/tokenize?1"),
        request("POST", "/p/vllm/tokenize?2", body=inner),
        b"\r\n\r\n" + request("POST", "/p/vllm/tokenize?3", body=b""),
        request("HEAD", "/health"),
        request("POST", "/p/vllm/tokenize?4", body=[b"0\r\n\r\n", inner]),
    ]
    for number in b"1234":
        upstream.on_request(response(bytes([number])))
    await deliver(client, how, b"".join(sent))
    assert [(await client.read_response()).body for _ in range(3)] == [b"1", b"2", b"3"]
    assert (await client.read_response("HEAD")).status == 200
    assert (await client.read_response()).body == b"4"
    assert [each.target for each in upstream.requests] == [f"/tokenize?{number}" for number in range(1, 5)]
    assert [each.body for each in upstream.requests] == [b"", inner, b"", b"0\r\n\r\n" + inner]


@pytest.mark.parametrize(
    "broken",
    [
        b"0x1\r\na\r\n",
        b"+1\r\na\r\n",
        b"f" * 17 + b"\r\n",
        b"\r\n",
        b"1\r\nab\r\n",
        b"1\na",
        b"2;\nx\r\nab\r\n",
        b"0\r\nX: \0\r\n",
    ],
    ids=repr,
)
async def test_framing_that_breaks_after_the_head_went_upstream_aborts_both_sides(gateway, upstream, connect, broken):
    upstream.on_request(ReadHead(), ReadBody(3), Stall())
    client = await connect(await gateway(vllm=upstream))
    await client.send(raw("Transfer-Encoding: chunked") + chunked(b"abc"))
    seen = await upstream.wait_for_request()
    await turned(lambda: seen.body == b"abc")
    await deliver(client, "whole", broken + b"0\r\n\r\n" + SMUGGLED)
    answer = await client.read_response()
    assert (answer.status, answer.complete, answer.get("connection")) == (400, True, "close")
    await seen.connection.over
    assert (seen.body[:3], seen.complete, len(upstream.requests)) == (b"abc", False, 1)


@pytest.mark.parametrize("broken", [b"zz\r\n", b"1\r\nab\r\n", b"1;\0\r\n"], ids=repr)
@pytest.mark.parametrize("target", ["/p/vllm/x", "/v1/chat/completions", "/nothing"])
async def test_a_client_that_goes_on_sending_after_it_broke_its_framing_reads_the_400(
    gateway, upstream, connect, broken, target
):
    upstream.lenient = True
    upstream.repeat(ReadHead(), Stall())
    handle = await gateway(vllm=upstream)
    start = raw("Transfer-Encoding: chunked", start=f"POST {target} HTTP/1.1") + chunked(b'{"model":"m",') + broken
    for at_once in (True, False):
        client = await connect(handle)
        await client.send(start + b"x" * 300_000 if at_once else start)
        for _ in range(10):
            await client.send(b"x" * 100_000)
        answer = await client.read_response()
        assert (answer.status, answer.complete) == (404 if target == "/nothing" else 400, True)
        assert answer.get("connection") == "close"
    for connection in upstream.connections:
        await connection.closed


@pytest.mark.parametrize("coding", ["chunked\t", "chunked \t ", " \tchunked"])
@pytest.mark.parametrize(
    "offer", [(), ("Connection: Upgrade", "Upgrade: foo"), ("Connection: Upgrade", "Upgrade: websocket")]
)
@pytest.mark.parametrize("target", ["/p/vllm/x", "/v1/chat/completions"])
@pytest.mark.parametrize("how", ["whole", "lines", "bytes"])
async def test_blanks_around_the_coding_do_not_take_the_body_away(
    gateway, upstream, connect, coding, offer, target, how
):
    body = b'{"model":"vllm/m"}'
    client = await connect(await gateway(vllm=upstream))
    upstream.repeat(response(b"ok"))
    sent = raw(f"Transfer-Encoding: {coding}", *offer, start=f"POST {target} HTTP/1.1")
    await deliver(client, how, sent + chunked(body) + LAST_CHUNK + SMUGGLED)
    answer = await client.read_response()
    if answer.status == 400:  # the parser knows this form only beside an offer
        assert not offer
        assert await client.read_all_until_close() == b""
        assert upstream.requests == []
        return
    assert (answer.body, (await client.read_response()).body) == (b"ok", b"ok")
    first, second = upstream.requests
    assert first.body == (body if "/p/" in target else b'{"model":"m"}')
    assert second.target == "/tokenize?smuggled"


@pytest.mark.parametrize("how", ["whole", "lines", "bytes"])
async def test_chunked_uploads_share_a_connection_with_whatever_comes_before_and_behind(
    gateway, upstream, connect, how
):
    client = await connect(await gateway(vllm=upstream))
    upstream.repeat(SSE_HEAD, chunked(b"data: 1\n\n") + LAST_CHUNK)
    sent = [
        request("POST", "/v1/chat/completions", body=[b'{"model":', b'"vllm/m"}']),
        request("POST", "/v1/chat/completions", body=b'{"model":"vllm/m"}'),
        request("POST", "/p/vllm/x", body=[b"x" * 70_000] * 3),
        request("POST", "/p/vllm/x", body=[]),
        request("GET", "/p/vllm/x"),
    ]
    for data in sent:
        await deliver(client, "whole" if len(data) > 10_000 else how, data)
        answer = await client.read_response()
        assert (answer.body, answer.end) == (b"data: 1\n\n", "keepalive")
    bodies = [b'{"model":"m"}', b'{"model":"m"}', b"x" * 210_000, b"", b""]
    assert [each.body for each in upstream.requests] == bodies


async def test_an_upload_of_tiny_chunks_is_read_a_turn_at_a_time(gateway, upstream, connect, monkeypatch):
    fed = []
    original = Chunked.feed

    def feed(self, data):
        payload = original(self, data)
        if self._strict:
            fed.append(len(payload))
        return payload

    monkeypatch.setattr(Chunked, "feed", feed)
    upstream.repeat(response(b"ok"))
    client = await connect(await gateway(vllm=upstream))
    await client.send(request("POST", "/p/vllm/x", body=[b"a"] * 40_000) + request("GET", "/p/vllm/y"))
    assert [(await client.read_response()).status for _ in range(2)] == [200, 200]
    assert upstream.requests[0].body == b"a" * 40_000
    assert max(fed) <= LINES_PER_TURN


async def test_framing_that_breaks_while_the_answer_streams_truncates_the_answer(gateway, upstream, connect):
    go = asyncio.Event()
    streaming = head(200, [("Transfer-Encoding", "chunked")]) + chunked(b"first")
    upstream.on_request(ReadHead(), streaming, WaitFor(go), Fin())
    client = await connect(await gateway(vllm=upstream))
    await client.send(raw("Transfer-Encoding: chunked") + chunked(b"abc"))
    await client.read_head()
    assert await client.read_chunk() == b"first"
    await client.send(b"zz\r\n" + SMUGGLED)
    answer = await client.read_rest()
    assert (answer.body, answer.complete, answer.malformed) == (b"first", False, None)
    await upstream.connections[0].over
    assert (len(upstream.requests), upstream.requests[0].complete) == (1, False)


async def test_many_pipelined_requests_are_parsed_a_few_at_a_time_and_all_are_answered(gateway, upstream, connect):
    go = asyncio.Event()
    upstream.on_request(WaitFor(go), response(b"first"))
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    client.wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)
    last = request("GET", "/nothing")
    each = request("GET", "/health", [("X-Size", "x" * 400)])  # more than the kernel holds of them
    sending = asyncio.create_task(client.send(SMUGGLED + each * PIPELINED + last))
    await upstream.wait_for_request()
    await client.wire.blocked()
    (connection,) = handle.gateway._server.clients
    assert 16 <= len(connection._messages) <= 32
    go.set()
    assert (await client.read_response()).body == b"first"
    answers = await client.read_until(b"HTTP/1.1 404 ")
    await sending
    assert answers.count(b"HTTP/1.1 200 ") == PIPELINED


async def test_no_turn_of_the_loop_serves_more_than_was_read_ahead(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    turns, served = 0, 0
    sending = asyncio.create_task(client.send(request("GET", "/health") * PIPELINED))
    while served < PIPELINED:
        served += (await client.read_some(1 << 20)).count(b"HTTP/1.1 200 ")
        turns += 1
    await sending
    assert turns > PIPELINED / 200


async def test_what_does_not_parse_has_no_route(gateway, connect, upstream):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(b"GE\x01T / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await client.read_response()).status == 400
    await turned(lambda: access_lines(handle))
    assert (access_lines(handle)[0]["route"], access_lines(handle)[0]["method"]) == ("unknown", "UNKNOWN")
