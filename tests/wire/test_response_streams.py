"""A stream arrives byte for byte, and each of its pieces before the instance sends the next one."""

import asyncio
import hashlib
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Fin,
    SendByteByByte,
    SendPieces,
    WaitFor,
    chunked,
    head,
)
from ..harness.verdicts import ask, post, served

# What event stream parsers are known to stumble over: marks, line ends, characters of several bytes, long lines.
STREAM = (
    b"\xef\xbb\xbf: keep-alive\n\n"
    + 'data: {"t":"h\u00e9llo \u2028 \U0001f600"}\n\n'.encode()
    + b"data:no space\r\n\r\nevent: x\rdata: 1\rdata: 2\r\r"
    + b"data: \xff\xfe not text\n\nid\n\n\n\nretry: 1\n\n"
    + b"data: "
    + b"x" * 3000
    + b"\n\n"
    + b"data: [DONE]\n\n"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 10_000])
@pytest.mark.parametrize("segments", ["chunk by chunk", "in one", "byte by byte"])
async def test_a_stream_cut_anywhere_is_the_same_stream(gateway, upstream, connect, size, segments):
    pieces = [chunked(STREAM[at : at + size]) for at in range(0, len(STREAM), size)] + [LAST_CHUNK]
    whole = SSE_HEAD + b"".join(pieces)
    if segments == "byte by byte":
        whole = SSE_HEAD + b"".join(pieces[: 200 // size + 1]) + LAST_CHUNK
        upstream.on_request(SendByteByByte(whole))
    elif segments == "in one":
        upstream.on_request(whole)
    else:
        upstream.on_request(SendPieces((SSE_HEAD, *pieces)))
    answer = await ask(await connect(await gateway(vllm=upstream)))
    expected = STREAM[: size * (200 // size + 1)] if segments == "byte by byte" else STREAM
    assert (answer.body, answer.complete, answer.end) == (expected, True, "keepalive")
    assert upstream.requests[0].ended is None


PIECES = st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=PIECES,
    cuts=st.lists(st.integers(0, 900), max_size=8),
    framing=st.sampled_from(["chunked", "length", "close"]),
)
def test_any_body_cut_into_any_segments_arrives_whole(pieces, cuts, framing):
    asyncio.run(_relay_one(b"".join(pieces), pieces, sorted(cuts), framing))


async def _relay_one(body, pieces, cuts, framing):
    from ..harness.gateway import env_for, start_gateway
    from ..harness.leaks import Records
    from ..harness.scripted import RawClient, ScriptedUpstream

    sent = {
        "chunked": head(200, [("Transfer-Encoding", "chunked")]) + chunked(*pieces) + LAST_CHUNK,
        "length": head(200, [("Content-Length", str(len(body)))]) + body,
        "close": head(200) + body,
    }[framing]
    cuts = [0, *(cut for cut in cuts if cut < len(sent)), len(sent)]
    upstream = await ScriptedUpstream.start()
    upstream.on_request(
        SendPieces(tuple(sent[a:b] for a, b in pairwise(cuts))),
        *([Fin()] if framing == "close" else []),
    )
    handle = await start_gateway(env_for(vllm=upstream), Records())
    client = await RawClient.connect(handle.port)
    try:
        answer = await ask(client)
        assert (answer.body, answer.complete, answer.problems) == (body, True, [])
    finally:
        client.wire.close()
        await handle.gateway.close()
        await upstream.close()


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/octet-stream", None])
async def test_each_flush_reaches_the_client_before_the_next_is_sent(gateway, upstream, connect, content_type):
    """Whatever its type; the instance waits until the client holds what was sent."""
    fields = [("Content-Type", content_type)] if content_type else []
    seen = [asyncio.Event() for _ in range(50)]
    steps = [head(200, [*fields, ("Transfer-Encoding", "chunked")])]
    for number, event in enumerate(seen):
        # Also within a line, and one byte at a time.
        steps += [chunked(b"d%d" % number if number % 2 else b":"), WaitFor(event)]
    upstream.on_request(*steps, LAST_CHUNK)
    client = await connect(await gateway(vllm=upstream))
    await client.send(post())
    await client.read_head()
    for number, event in enumerate(seen):
        assert await client.read_chunk() == (b"d%d" % number if number % 2 else b":")
        event.set()
    assert await client.read_chunk() is None


async def test_bytes_inside_a_chunk_do_not_wait_for_the_rest_of_it(gateway, upstream, connect):
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD + b"a\r\n12345", WaitFor(go_on), b"67890\r\n" + LAST_CHUNK)
    client = await connect(await gateway(vllm=upstream))
    await client.send(post())
    await client.read_head()
    assert await client.read_body_until(b"12345") == b"12345"
    go_on.set()
    assert (await client.read_rest()).body == b"1234567890"


async def test_what_looks_like_a_chunk_within_an_event_is_a_part_of_it(gateway, upstream, connect):
    """It comes in a read of its own, after events that went out as they came."""
    inner = chunked(b"data: not an event of its own\n\n")
    events = chunked(b"data: the first of them\n\n"), chunked(b"data: the second of them\n\n")
    start, end = chunked(b"data: " + inner + b" data\n\n").split(inner)
    upstream.on_request(SendPieces((SSE_HEAD, *events, start, inner, end, *events, LAST_CHUNK)))
    answer = await ask(await connect(await gateway(vllm=upstream)))
    both = b"data: the first of them\n\ndata: the second of them\n\n"
    assert answer.body == both + b"data: " + inner + b" data\n\n" + both
    assert (answer.complete, answer.end) == (True, "keepalive")


@pytest.mark.parametrize("framing", ["length", "close"])
async def test_a_body_that_is_not_chunked_is_flushed_as_well(gateway, upstream, connect, framing):
    go_on = asyncio.Event()
    fields = [("Content-Length", "4")] if framing == "length" else []
    end = [Fin()] if framing == "close" else []
    upstream.on_request(head(200, fields), WaitFor(go_on), b"ab", WaitFor(go_on), b"cd", *end)
    client = await connect(await gateway(vllm=upstream))
    await client.send(post())
    answer = await client.read_head()
    assert answer.body == b""
    go_on.set()
    answer = await client.read_rest()
    assert (answer.body, answer.complete) == (b"abcd", True)


async def test_megabytes_arrive_with_the_same_digest(gateway, upstream, connect):
    body = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(200_000))
    steps = [chunked(body[at : at + 50_000]) for at in range(0, len(body), 50_000)]
    upstream.on_request(SSE_HEAD, *steps, LAST_CHUNK)
    answer = await ask(await connect(await gateway(vllm=upstream)))
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(body).digest()
    assert answer.complete


async def test_an_instances_connection_outlives_a_client_that_reads_the_last_of_it_late(gateway, upstream, connect):
    """All of the answer was received while the client was behind; whoever comes next is served at once."""
    handle = await gateway(vllm=upstream)
    quick = await connect(handle)
    for size in range(4_500_000, 5_500_000, 200_000):
        body = b"x" * size
        upstream.on_request(head(200, [("Content-Length", str(size))]) + body)
        upstream.on_request(SSE_HEAD + chunked(b"data: 2\n\n") + LAST_CHUNK)
        slow = await connect(handle, receive_buffer=4096)
        answer = await ask(slow)
        assert (len(answer.body), answer.complete) == (size, True)
        answer = await ask(quick)
        assert (answer.body, answer.complete) == (b"data: 2\n\n", True)
    assert len(served(upstream)) == 1
