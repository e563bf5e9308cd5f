"""aiohttp without its C parser, as it runs where no wheel fits: slower, but as strict and as whole as with it.

In processes of their own, since aiohttp chooses its parser when it is imported.
"""

from types import SimpleNamespace

import pytest

from ..conftest import LOOP
from ..harness.processes import RUN, WITHOUT_UVLOOP
from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Fin,
    ReadBody,
    ReadHead,
    Stall,
    chunked,
    head,
    request,
    response,
    sse_event,
)
from ..harness.verdicts import CHAT, OK, own_error, post
from ..wire.test_request_framing import OVERSIZED, REFUSED, SMUGGLED, deliver, refuses

# Python's parser takes these for one message, as a lenient server may: nothing about them can be read in two ways.
TAKEN = {"an unknown method"}
# Refused as well, for another reason.
OTHERWISE = {f"Content-Length {str(2**64)!r}": 413}


@pytest.fixture
async def plain(upstream, run, connect):
    """Opens clients of a gateway without extensions in front of `upstream`."""
    env = {"AIOHTTP_NO_EXTENSIONS": "1", "HTTP_REQUEST_IDLE_TIMEOUT": "300ms", "VLLM_BASE_URL": upstream.base_url}
    process = await run(env, code=RUN if LOOP == "uvloop" else WITHOUT_UVLOOP + RUN)
    target = SimpleNamespace(port=await process.listening())
    assert any("C parser is missing" in message for message in process.messages)

    async def client():
        return await connect(target)

    yield client
    assert '"level": "error"' not in process.text, process.text
    assert "Traceback" not in process.text


async def test_the_same_messages_are_refused(plain, upstream):
    upstream.lenient = True
    upstream.repeat(ReadHead(), Stall())
    refused = {name: (data, OTHERWISE.get(name, 400)) for name, data in REFUSED.items() if name not in TAKEN}
    for data, status in [*refused.values(), *OVERSIZED.values()]:
        await refuses(await plain(), "whole", data + SMUGGLED, status)
    assert [each.target for each in upstream.requests if "smuggled" in each.target or each.complete] == []


async def test_the_same_messages_are_served(plain, upstream):
    events = chunked(*(sse_event({"n": n}) for n in range(3)))
    exchanges = [
        (post(), OK, b'{"id":"ok"}', b'{"model": "m", "stream": true}'),
        (request("GET", "/p/vllm/x"), SSE_HEAD + events + LAST_CHUNK, b'data: {"n": 0}\n\n', b""),
        (request("GET", "/p/vllm/x"), head(204), b"", b""),
        (request("POST", "/p/vllm/x", body=b""), head(200, [("Connection", "close")]) + b"x", b"x", b""),
    ]
    trailer = b"3;x=y\r\nabc\r\n0\r\nAuthorization: Bearer canary\r\n\r\n"
    last = request("POST", "/p/vllm/x", [("Transfer-Encoding", "chunked")]) + trailer
    for how in ("whole", "lines", "bytes"):
        client = await plain()
        for sent, answered, begins, got in exchanges:
            upstream.on_request(answered, *([Fin()] if b"Connection: close" in answered else []))
            await deliver(client, how, sent)
            answer = await client.read_response()
            assert (answer.complete, answer.body[: len(begins)], answer.end) == (True, begins, "keepalive")
            assert upstream.requests[-1].body == got
        for body in (b"last", b"next"):
            upstream.on_request(response(body))
        await deliver(client, how, last + SMUGGLED)
        assert [(await client.read_response()).body for _ in range(2)] == [b"last", b"next"]
        assert upstream.requests[-2].body == b"abc"
    assert b"canary" not in b"".join(bytes(each.wire.received) for each in upstream.connections)


async def test_what_breaks_off_on_either_side_never_looks_complete_on_the_other(plain, upstream):
    for truncated in (head(200, [("Content-Length", "9")]) + b"short", SSE_HEAD + chunked(b"short")):
        upstream.on_request(truncated, Fin())
        client = await plain()
        await client.send(request("GET", "/p/vllm/x"))
        answer = await client.read_response()
        assert (answer.body[:5], answer.complete) == (b"short", False)
    upstream.on_request(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", Fin())
    client = await plain()
    await client.send(request("GET", "/p/vllm/x"))
    own_error(await client.read_response(), 502, "http_protocol_error")
    upstream.on_request(SSE_HEAD + chunked(b"x"), Stall())
    client = await plain()
    await client.send(post())
    await client.read_head()
    client.fin()
    await upstream.connections[-1].closed
    upstream.on_request(ReadHead(), ReadBody())
    client = await plain()
    await client.send(request("POST", CHAT, [("Transfer-Encoding", "chunked")]) + chunked(b'{"model":"m",'))
    own_error(await client.read_response(), 408, "request_timeout", "invalid_request_error")
    await upstream.connections[-1].over
    assert not upstream.requests[-1].complete


# Damage that comes in one read with the head, where the parser in Python stores what it found and tells nobody.
DAMAGED = [
    b"5;" + b"a" * 20_000,
    b"5\r\nabc\r\n0\r\n\r\n",
    b"5\r\nabcdefgh",
    b"zz\r\n",
    b"-1\r\n",
    b"0\r\nX: \0\r\n\r\n",
]


async def test_damaged_framing_is_a_400_and_no_bug(plain, upstream):
    upstream.lenient = True
    upstream.repeat(ReadHead(), Stall())
    for damage in DAMAGED:
        for target in ("/p/vllm/x", CHAT):
            client = await plain()
            await client.send(request("POST", target, [("Transfer-Encoding", "chunked")]) + damage)
            answer = await client.read_response()
            assert (answer.status, answer.complete) == (400, True)
    assert [each.complete for each in upstream.requests if each.complete] == []


@pytest.mark.parametrize("broken", [b"zz\r\n", b"-1\r\nx\r\n", b"1\nx\n"])
async def test_an_upload_whose_framing_breaks_on_the_way_is_a_400_and_no_bug(plain, upstream, broken):
    upstream.lenient = True
    upstream.on_request(ReadHead(), Stall())
    client = await plain()
    await client.send(request("POST", CHAT, [("Transfer-Encoding", "chunked")]) + chunked(b'{"model":"m",'))
    seen = await upstream.wait_for_request()
    await client.send(broken)
    answer = await client.read_response()
    assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    await seen.connection.closed
