"""What the raw client says about a response, it says because h11 or RFC 9112 does."""

import asyncio

import pytest

from .scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Close,
    Fin,
    HarnessTimeout,
    ReadRequest,
    Reset,
    Stall,
    Truncated,
    WaitFor,
    chunked,
    head,
    head_problems,
    request,
    response,
    sse,
    sse_event,
)
from .wire import deadline

GET = request("GET", "/x")
OK = response(b"ok")


@pytest.mark.parametrize(
    ("steps", "complete", "end", "body"),
    [
        ((OK,), True, "keepalive", b"ok"),
        ((OK, Fin()), True, "fin", b"ok"),
        ((head(headers=[("Content-Length", "2"), ("Connection", "close")]) + b"ok", Fin()), True, "fin", b"ok"),
        ((head() + b"ok", Fin()), True, "fin", b"ok"),
        ((head() + b"ok", Close()), True, "fin", b"ok"),
        ((sse(["a"]),), True, "keepalive", b"data: a\n\n"),
        ((head(204),), True, "keepalive", b""),
        ((head(304, [("Content-Length", "99")]),), True, "keepalive", b""),
        ((head(103) + OK,), True, "keepalive", b"ok"),
        ((head(headers=[("Content-Length", "9")]) + b"ok", Fin()), False, "fin", b"ok"),
        ((sse(["a"], complete=False), Fin()), False, "fin", b"data: a\n\n"),
        ((SSE_HEAD + b"5\r\nab", Fin()), False, "fin", b"ab"),
        ((SSE_HEAD + chunked(b"ab") + b"0\r\n", Fin()), False, "fin", b"ab"),
        ((b"HTTP/1.1 200 X\r\nContent-", Fin()), False, "fin", b""),
        ((Fin(),), False, "fin", b""),
        ((Reset(),), False, "reset", b""),
    ],
)
async def test_a_client_tells_complete_from_truncated_and_how_it_ended(upstream, connect, steps, complete, end, body):
    upstream.on_request(*steps)
    client = await connect(upstream)
    await client.send(GET)
    answer = await client.read_response()
    assert (answer.complete, answer.end, answer.body, answer.malformed) == (complete, end, body, None)


@pytest.mark.parametrize(
    ("sent", "last"),
    [
        (head() + b"ok", b"ok"),
        (sse(["a"], complete=False), b"a\n\n"),
        (SSE_HEAD + b"5\r\nab", b"ab"),
        (OK[:-1], b"o"),
    ],
)
async def test_a_reset_after_bytes_delivers_them_and_never_completes(upstream, connect, sent, last):
    seen = asyncio.Event()
    upstream.on_request(sent, WaitFor(seen), Reset())
    client = await connect(upstream)
    await client.send(GET)
    await client.read_head()
    await client.read_body_until(last)
    seen.set()
    answer = await client.read_rest()
    assert (answer.raw, answer.complete, answer.end) == (sent, False, "reset")


async def test_bytes_right_before_a_reset_are_still_read(upstream, connect):
    upstream.on_request(head() + b"ok", Reset())
    client = await connect(upstream)
    await client.send(GET)
    assert await client.closed == "reset"
    answer = await client.read_response()
    assert (answer.body, answer.complete, answer.end) == (b"ok", False, "reset")


@pytest.mark.parametrize(
    "raw",
    [
        SSE_HEAD + b"zz\r\n",
        SSE_HEAD + chunked(b"ab") + head(502),
        head(headers=[("Transfer-Encoding", "gzip, chunked")]),
        head(headers=[("Content-Length", "2"), ("Content-Length", "3")]) + b"abc",
        b"SSH-2.0-x\r\n\r\n",
    ],
)
async def test_a_malformed_response_is_neither_complete_nor_unnoticed(upstream, connect, raw):
    upstream.on_request(raw, Stall())
    client = await connect(upstream)
    await client.send(GET)
    answer = await client.read_response()
    assert not answer.complete
    assert answer.malformed
    assert client.problems


@pytest.mark.parametrize(
    ("raw", "is_fine"),
    [
        (GET, True),
        (request("POST", "/x", [("X-\xfc", "1")]), False),
        (request("POST", "/x", [("X", "\xfc\t1")]), True),
        (request("POST", "/x", [("X", "1\x01")]), False),
        (request("POST", "/x", [("X ", "1")]), False),
        (request("POST", "/x", [("Content-Length", "1"), ("Transfer-Encoding", "chunked")]), False),
        (request("POST", "/x", [("Content-Length", "1, 1")]), False),
        (request("POST", "/x", [("Host", "again")]), False),
        (request("POST", "/x", host=None), False),
        (GET.replace(b"\r\nHost", b"\nHost"), False),
        (request("POST", "/x", [("X", "1\r\n folded")]), False),
        (request("GET", "/\xfc"), False),
        (head(200), True),
        (head(204, [("Content-Length", "0")]), False),
        (head(200, [("Content-Length", "0")]), True),
        (head(200, reason="O\x01K"), False),
        (head(200, [("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")]), False),
        (b"HTTP/2.0 200 X\r\n\r\n", False),
        (b"HTTP/1.1 99 X\r\n\r\n", False),
    ],
)
def test_the_grammar_oracle_is_strict(raw, is_fine):
    assert (head_problems(raw) == []) == is_fine


async def test_every_flush_can_be_awaited_before_the_next_one(upstream, connect):
    events = [asyncio.Event() for _ in range(3)]
    steps = [step for event in events for step in (chunked(sse_event({"n": 1})), WaitFor(event))]
    upstream.on_request(SSE_HEAD, *steps, LAST_CHUNK)
    client = await connect(upstream)
    await client.send(GET)
    await client.read_head()
    for event in events:
        assert await client.read_chunk() == b'data: {"n": 1}\n\n'
        event.set()
    assert await client.read_chunk() is None
    assert (await client.read_rest()).end == "keepalive"


async def test_a_missing_chunk_is_reported_as_truncation(upstream, connect):
    read = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"one"), WaitFor(read), b"5\r\ntw", Fin())
    client = await connect(upstream)
    await client.send(GET)
    await client.read_head()
    assert await client.read_body_until(b"ne") == b"one"
    assert await client.read_chunk() == b"one"
    read.set()
    with pytest.raises(Truncated, match="fin after 5 body bytes"):
        await client.read_chunk()


async def test_head_answers_and_upgrades_leave_the_connection_readable(upstream, connect):
    upstream.on_request(head(headers=[("Content-Length", "1234")]))
    upstream.on_request(head(101, [("Upgrade", "websocket"), ("Connection", "upgrade")]) + b"\x81\x00raw", Stall())
    client = await connect(upstream)
    await client.send(request("HEAD", "/x"))
    answer = await client.read_response("HEAD")
    assert (answer.complete, answer.get("content-length"), answer.end) == (True, "1234", "keepalive")
    await client.send(request("GET", "/x", [("Upgrade", "websocket"), ("Connection", "upgrade")]))
    assert (await client.read_response()).status == 101
    assert await client.read_until(b"raw") == b"\x81\x00raw"


async def test_a_half_closed_client_still_gets_its_answer(upstream, connect):
    upstream.on_accept(ReadRequest(), OK, Fin())
    client = await connect(upstream)
    await client.send(GET)
    client.half_close()
    assert (await client.read_all_until_close()) == OK
    assert await client.closed == "fin"


async def test_a_wait_that_is_not_met_fails_and_says_for_what(upstream, connect):
    client = await connect(upstream)
    client._safety_s = 0.01
    with pytest.raises(HarnessTimeout, match="a response head"):
        await client.read_response()
    with pytest.raises(HarnessTimeout, match="the end of client connection"):
        await client.closed.wait(0.01)
    with pytest.raises(HarnessTimeout, match="a thing"):
        async with deadline("a thing", 0.01):
            await asyncio.Event().wait()
