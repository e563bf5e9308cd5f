"""The keep-alive race, one case at a time: a reused connection that dies before a byte of the answer is made good once.

What may not be repeated, or is not held whole, never gets a connection that has been idle (contract section 7).
"""

import asyncio

import pytest

from gomodel.downstream.body import IN_MEMORY_BYTES
from gomodel.upstream.pool import Pool

from ..harness.scripted import LAST_CHUNK, Fin, ReadHead, ReadRequest, Reset, request
from ..harness.verdicts import KEPT, OK, aborted, access_lines, ask, own_error, post, served, turned

STALE = [pytest.param(Fin(), id="fin"), pytest.param(Reset(), id="reset")]
BODIES = {
    "length": post(),
    "chunked": request("POST", "/v1/chat/completions", body=[b'{"model":"vllm', b'/m","x":', b"1}"]),
    "empty": request("POST", "/v1/chat/completions", body=b""),
    "passthrough": request("GET", "/p/vllm/version"),
}


@pytest.mark.parametrize("how", STALE)
@pytest.mark.parametrize("raw", BODIES.values(), ids=BODIES.keys())
async def test_a_reused_connection_that_dies_unanswered_is_made_good_once_on_a_fresh_one(
    gateway, upstream, connect, how, raw
):
    upstream.on_request(OK)
    upstream.on_request(ReadRequest(), how)
    upstream.on_request(OK)
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="1")
    await ask(await connect(handle), raw)
    answer = await ask(await connect(handle), raw)
    assert (answer.status, answer.body) == (200, b'{"id":"ok"}')
    assert served(upstream) == [2, 1]
    # Byte for byte the same request, its id included.
    assert upstream.requests[1].raw == upstream.requests[2].raw
    assert await aborted(handle, 2) == {}
    assert (access_lines(handle)[1]["retries"], dict(handle.gateway.telemetry.retries)) == (1, {"vllm": 1})


@pytest.mark.parametrize("how", STALE)
async def test_a_fresh_connection_that_dies_as_well_is_the_end(gateway, upstream, connect, how):
    upstream.on_request(OK)
    upstream.on_request(how)
    upstream.on_request(how)
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="9")
    client = await connect(handle)
    await ask(client)
    own_error(await ask(client), 502, "connection_terminated")
    assert served(upstream) == [2, 1]
    assert await aborted(handle, 2) == {("upstream", "head"): 1}


async def test_of_many_dead_connections_one_is_tried_and_then_a_fresh_one(gateway, upstream, connect):
    go_on = asyncio.Event()

    async def wait(connection):
        await connection.until(go_on.wait())

    for _ in range(4):
        upstream.on_request(wait, OK)
    handle = await gateway(vllm=upstream)
    clients = [await connect(handle) for _ in range(4)]
    for client in clients:
        await client.send(post())
    await upstream.wait_for_request(4)
    go_on.set()
    for client in clients:
        assert (await client.read_response()).status == 200
    assert served(upstream) == [1, 1, 1, 1]
    upstream.on_request(Fin())
    upstream.on_request(OK)
    assert (await ask(clients[0])).status == 200
    assert sorted(served(upstream)) == [1, 1, 1, 1, 2]


async def test_without_retries_a_stale_connection_is_a_502(gateway, upstream, connect):
    upstream.on_request(OK)
    upstream.on_request(Fin())
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="0")
    client = await connect(handle)
    await ask(client)
    own_error(await ask(client), 502, "connection_terminated")
    assert await aborted(handle, 2) == {("upstream", "head"): 1}


@pytest.mark.parametrize("raw", [request("POST", "/p/vllm/x", body=b"{}"), request("DELETE", "/p/vllm/x")])
async def test_what_may_not_be_repeated_never_rides_a_connection_that_was_idle(gateway, upstream, connect, raw):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream))
    for _ in range(3):
        assert (await ask(client, raw)).status == 200
    assert served(upstream) == [1, 1, 1]
    # Those connections are not lost to others.
    for _ in range(3):
        assert (await ask(client)).status == 200
    assert len(served(upstream)) == 3


async def test_what_may_not_be_repeated_is_not(gateway, upstream, connect):
    upstream.on_request(Fin())
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="9")
    own_error(await ask(await connect(handle), request("POST", "/p/vllm/x", body=b"{}")), 502, "connection_terminated")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("size", "chunks", "connections"),
    [(1000, False, [2]), (IN_MEMORY_BYTES, False, [1, 1]), (1000, True, [1, 1])],
    ids=["small", "large", "of any size"],
)
async def test_an_upload_that_may_be_too_much_to_send_again_gets_a_fresh_connection(
    gateway, upstream, connect, size, chunks, connections
):
    upstream.repeat(OK)
    client = await connect(await gateway(KEPT, vllm=upstream))
    await ask(client)
    body = b'{"model":"m","x":"' + b"x" * size + b'"}'
    raw = request("POST", "/v1/chat/completions", body=[body[:20], body[20:]] if chunks else body)
    await client.send(raw[:-10])
    await upstream.wait_for_request(2)
    await client.send(raw[-10:])
    assert (await client.read_response()).status == 200
    assert served(upstream) == connections


@pytest.mark.parametrize("how", [Fin(), Reset()])
async def test_an_upload_on_a_stale_connection_is_made_good_while_it_comes(gateway, upstream, connect, how):
    upstream.on_request(OK)
    upstream.on_request(ReadHead(), how)
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    await ask(client)
    body = b'{"model":"m","x":"' + b"x" * 100_000 + b'"}'
    raw = request("POST", "/v1/chat/completions", body=body)
    for at in range(0, len(raw) - 10, 40_000):
        await client.send(raw[at : min(at + 40_000, len(raw) - 10)])
    await upstream.wait_for_request(3)
    await client.send(raw[-10:])
    assert (await client.read_response()).status == 200
    assert upstream.requests[2].body == body
    assert handle.gateway.telemetry.retries == {"vllm": 1}


async def test_a_chunked_upload_that_is_still_coming_is_not_sent_twice(gateway, upstream, connect):
    upstream.on_request(OK)
    upstream.on_request(Reset())
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="9")
    client = await connect(handle)
    await ask(client)
    raw = request("POST", "/v1/chat/completions", body=[b'{"model":"m"', b"}"])
    await client.send(raw.removesuffix(LAST_CHUNK))
    await upstream.wait_for_request(2)
    await client.send(LAST_CHUNK)
    own_error(await client.read_response(), 502, "connection_terminated")
    assert len(upstream.requests) == 2


async def test_a_connection_lost_before_it_was_used_is_a_failed_connect(gateway, upstream, connect, monkeypatch):
    real = Pool.connect
    lost = []

    async def connect_and_lose(pool):
        channel = await real(pool)
        # gomodel's own probe may be the first.
        if len(lost) < 2:
            lost.append(channel)
            await upstream.wait_for_connection(len(lost))
            for connection in upstream.connections:
                connection.wire.reset()
            await turned(lambda: channel.transport is None)
        return channel

    monkeypatch.setattr(Pool, "connect", connect_and_lose)
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    assert (await ask(await connect(handle))).status == 200
    assert await aborted(handle) == {}
    assert 1 <= access_lines(handle)[0]["retries"] <= 2
