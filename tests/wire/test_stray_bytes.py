"""What an instance sends beyond its answer reaches nobody: not the client that asked, not the one that asks next."""

import asyncio

import pytest

from ..harness.scripted import LAST_CHUNK, SendPieces, Stall, WaitFor, chunked, head, let_peers_run, request, response
from ..harness.verdicts import CANARY, KEPT, OK, aborted, ask, own_error, post, served, tells_nothing, turned

pytestmark = pytest.mark.transports("tcp", "tls", "unix")

GARBAGE = CANARY.encode()
# A whole answer that nobody asked for: the classic way into somebody else's response.
POISON = response(GARBAGE, 200, [("X-Secret", CANARY)])


# What may follow an answer in the same read: also the beginning of another, which a parser would keep to itself.
EXTRA = [GARBAGE, POISON, b"HTTP/1.1 ", b"H", POISON[:-20], POISON[: POISON.index(b"\r\n\r\n")], b"\0", head(100)]


@pytest.mark.parametrize("method", ["HEAD", "GET"])
@pytest.mark.parametrize("extra", EXTRA)
async def test_bytes_after_an_answer_that_has_none_never_reach_anybody(gateway, upstream, connect, method, extra):
    sent = head(200, [("Content-Length", str(len(extra)))]) if method == "HEAD" else head(204)
    raw = request(method, "/p/vllm/x")
    upstream.on_request(sent + extra, Stall())
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    answer = await ask(client, raw, method)
    again = await ask(client)
    # In one segment with the head it may be refused as a whole; either way nothing of it is passed on.
    assert answer.status in (int(sent[9:12]), 502)
    assert answer.complete
    assert (again.status, again.body) == (200, b'{"id":"ok"}')
    assert await upstream.requests[0].connection.closed
    assert len(served(upstream)) == 2
    tells_nothing(handle, answer, upstream)
    tells_nothing(handle, again, upstream)


@pytest.mark.parametrize("extra", EXTRA)
@pytest.mark.parametrize(
    "sent", [OK, head(200, [("Transfer-Encoding", "chunked")]) + chunked(b'{"id":"ok"}') + LAST_CHUNK]
)
@pytest.mark.parametrize("cut", [None, -1, 0])
async def test_bytes_after_the_end_never_reach_anybody(gateway, upstream, connect, sent, extra, cut):
    """They come in one read with all of the answer, with its last byte, or right after it."""
    pieces = (sent + extra,) if cut is None else (sent[:-1], sent[-1:] + extra) if cut else (sent, extra)
    upstream.on_request(SendPieces(pieces), Stall())
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    answer = await ask(client)
    # gomodel may refuse what came in one segment, or hand over the answer; never more than the answer.
    if answer.status == 502:
        own_error(answer, 502, "http_protocol_error")
    else:
        assert (answer.status, answer.body, answer.complete) == (200, b'{"id":"ok"}', True)
    await upstream.requests[0].connection.closed
    again = await ask(client)
    assert (again.status, again.body) == (200, b'{"id":"ok"}')
    assert served(upstream) == [1, 1]
    tells_nothing(handle, again, upstream)


@pytest.mark.parametrize("stray", [GARBAGE, POISON, POISON + POISON, head(100), b"\r\n", head(408) + GARBAGE])
async def test_bytes_on_an_idle_connection_close_it_before_it_serves_again(gateway, upstream, connect, stray):
    go_on = asyncio.Event()
    upstream.on_request(OK, WaitFor(go_on), stray)
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    assert (await ask(client)).status == 200
    go_on.set()
    await upstream.requests[0].connection.closed
    answer = await ask(client)
    assert (answer.status, answer.body) == (200, b'{"id":"ok"}')
    assert served(upstream) == [1, 1]
    tells_nothing(handle, answer, upstream)
    assert await aborted(handle, 2) == {}


async def test_pipelined_requests_get_their_own_answers_in_order(gateway, upstream, connect):
    for number in range(20):
        sent = head(200, [("Transfer-Encoding", "chunked")]) + chunked(b"%d" % number) + LAST_CHUNK
        upstream.on_request(sent if number % 2 else response(b"%d" % number))
    client = await connect(await gateway(vllm=upstream))
    await client.send(post() * 20)
    assert [(await client.read_response()).body for _ in range(20)] == [b"%d" % number for number in range(20)]
    await let_peers_run()
    await turned(lambda: len(upstream.requests) == 20)
    assert len(served(upstream)) == 1
