"""The keep-alive race, one case at a time: a reused connection that dies before a byte of the answer is made good once.

What may not be repeated, or is not held whole, never gets a connection that has been idle (contract section 7).
"""

import asyncio

import pytest

from gomodel.downstream.body import IN_MEMORY_BYTES
from gomodel.relay import upload
from gomodel.upstream.line import Line

from ..harness.scripted import Fin, ReadBody, ReadHead, ReadRequest, Reset, WaitFor, request
from ..harness.verdicts import KEPT, OK, aborted, access_lines, ask, own_error, post, served, turned
from ..harness.wire import FLOOD_BYTES

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


def in_pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize(
    ("size", "chunks", "connections"),
    [(1000, False, [2]), (IN_MEMORY_BYTES, False, [1, 1]), (1000, True, [2]), (2 * IN_MEMORY_BYTES, True, [2])],
    ids=["small", "large", "of any size and small", "of any size and large"],
)
async def test_an_upload_that_is_too_much_to_send_again_gets_a_fresh_connection(
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


async def test_no_more_is_sent_of_an_upload_of_any_size_than_could_be_sent_again_while_it_may_be_to_nobody(
    gateway, upstream, connect, monkeypatch
):
    # As the kernel would: by the connection that follows.
    monkeypatch.setattr(upload, "confirmed", lambda transport, sent: len(upstream.requests) > 2)
    upstream.on_request(OK)
    upstream.on_request(ReadHead(), WaitFor(gone := asyncio.Event()), Reset())
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    await ask(client)
    body = b'{"model":"m","x":"' + b"x" * FLOOD_BYTES + b'"}'
    sending = asyncio.create_task(
        client.send(request("POST", "/v1/chat/completions", body=[body[:20], *in_pieces(body[20:], 50_000)]))
    )
    await upstream.wait_for_request(2)
    await client.wire.blocked()
    gone.set()
    assert (await client.read_response()).status == 200
    await sending
    assert len(upstream.requests[1].body) < IN_MEMORY_BYTES
    assert upstream.requests[2].body == body
    assert handle.gateway.telemetry.retries == {"vllm": 1}


@pytest.mark.parametrize("how", STALE)
async def test_an_upload_of_which_more_was_taken_than_is_held_is_not_sent_again_without_its_beginning(
    gateway, upstream, connect, monkeypatch, how
):
    monkeypatch.setattr(upload, "confirmed", lambda transport, sent: True)
    upstream.on_request(OK)
    upstream.on_request(ReadHead(), ReadBody(IN_MEMORY_BYTES + 100_000), how)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    await ask(client)
    body = b'{"model":"m","x":"' + b"x" * FLOOD_BYTES + b'"}'
    sending = asyncio.create_task(
        client.send(request("POST", "/v1/chat/completions", body=[body[:20], *in_pieces(body[20:], 50_000)]))
    )
    own_error(await client.read_response(), 502, "connection_terminated")
    assert len(upstream.requests) == 2
    assert handle.gateway.telemetry.retries == {}
    sending.cancel()
    await asyncio.wait([sending])


@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("how", [Fin(), Reset()])
async def test_an_upload_on_a_stale_connection_is_made_good_while_it_comes(gateway, upstream, connect, how, chunks):
    upstream.on_request(OK)
    upstream.on_request(ReadHead(), how)
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    await ask(client)
    body = b'{"model":"m","x":"' + b"x" * 100_000 + b'"}'
    raw = request("POST", "/v1/chat/completions", body=in_pieces(body, 30_000) if chunks else body)
    for at in range(0, len(raw) - 10, 40_000):
        await client.send(raw[at : min(at + 40_000, len(raw) - 10)])
    await upstream.wait_for_request(3)
    await client.send(raw[-10:])
    assert (await client.read_response()).status == 200
    assert upstream.requests[2].body == body
    assert handle.gateway.telemetry.retries == {"vllm": 1}


@pytest.mark.interpreted
async def test_a_connection_lost_before_it_was_used_is_a_failed_connect(gateway, upstream, connect, monkeypatch):
    real = Line._dialed
    lost = []

    def dial_and_lose(line, seeker, channel, error):
        async def lose():
            await upstream.wait_for_connection(len(lost))
            for connection in upstream.connections:
                connection.wire.reset()
            await turned(lambda: channel.transport is None)
            real(line, seeker, channel, error)

        if len(lost) < 2:
            lost.append(asyncio.create_task(lose()))
        else:
            real(line, seeker, channel, error)

    monkeypatch.setattr(Line, "_dialed", dial_and_lose)
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    assert (await ask(await connect(handle))).status == 200
    assert await aborted(handle) == {}
    assert access_lines(handle)[0]["retries"] == 2
