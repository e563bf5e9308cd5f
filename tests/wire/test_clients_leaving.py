"""Nobody pays for a client who left: in whatever phase, the instance learns it at once and nobody else does.

The instance sees its connection end inside a request or an answer, never a complete request that the client did not
send. It is not the instance's failure, nor an error of gomodel's (contract rule 3).
"""

import asyncio
import statistics

import pytest

from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    ReadBody,
    ReadHead,
    Repeat,
    Stall,
    WaitFor,
    chunked,
    head,
    let_peers_run,
    request,
)
from ..harness.verdicts import CHAT, OK, aborted, access_lines, ask, post, turned

pytestmark = pytest.mark.transports("tcp", "tls", "unix")

# Four times what is promised, for machines that do other things as well.
LIMIT_S = 8.0  # a machine may be busy; far below every limit of the gateway, none of which may be what ends it
SHORT = {
    "short of its Content-Length": request("POST", "/p/vllm/x", [("Content-Length", "100")]) + b"x" * 10,
    "inside a chunk": request("POST", "/p/vllm/x", [("Transfer-Encoding", "chunked")]) + b"64\r\n" + b"x" * 10,
    "between two chunks": request("POST", "/p/vllm/x", [("Transfer-Encoding", "chunked")]) + chunked(b"x" * 10),
    "before the last chunk is whole": request("POST", "/p/vllm/x", [("Transfer-Encoding", "chunked")])
    + chunked(b"x" * 10)
    + b"0\r\n",
    "with the selector known": request("POST", CHAT, [("Content-Length", "100")]) + b'{"model":"vllm/m",xxxxxxxxxx',
}
WAYS = ["fin", "reset", "half_close"]


def leave(client, how: str) -> float:
    """When it left, by the monotonic clock; a half-close cannot be told from leaving (contract section 7)."""
    when: float = getattr(client, how)()
    return when


async def untouched(handle, upstream, connect) -> None:
    """A client's leaving counts against nobody: with a breaker that opens at once the next request is served."""
    assert handle.replica().breaker.closed
    assert handle.replica().in_flight == 0
    upstream.on_request(OK)
    client = await connect(handle)
    assert (await ask(client)).body == b'{"id":"ok"}'
    assert upstream.requests[-1].connection.requests == [upstream.requests[-1]]


@pytest.fixture
async def fragile(gateway, upstream):
    return await gateway(vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "sent", [b"", b"POS", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"]
)
async def test_leaving_inside_the_head_is_no_request(fragile, upstream, connect, how, sent):
    client = await connect(fragile)
    await client.send(sent)
    await let_peers_run()
    leave(client, how)
    await turned(lambda: fragile.gateway.connections == 0)
    assert (upstream.connections, access_lines(fragile)) == ([], [])


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("sent", SHORT.values(), ids=SHORT)
async def test_an_upload_that_breaks_off_is_never_a_complete_request(fragile, upstream, connect, how, sent):
    upstream.on_request(ReadHead(), ReadBody())
    client = await connect(fragile)
    await client.send(sent)
    seen = await upstream.wait_for_request()
    await turned(lambda: seen.body.endswith(b"x" * 10))
    left = leave(client, how)
    await seen.connection.over
    assert seen.connection.closed.at - left < LIMIT_S
    assert (seen.complete, seen.malformed, len(upstream.requests)) == (False, None, 1)
    assert await aborted(fragile) == {("client", "request"): 1}
    assert access_lines(fragile)[0]["status"] == 499
    await untouched(fragile, upstream, connect)


@pytest.mark.parametrize("how", WAYS)
async def test_an_upload_that_breaks_off_before_its_selector_reaches_no_instance(fragile, upstream, connect, how):
    client = await connect(fragile)
    await client.send(request("POST", CHAT, [("Content-Length", "100")]) + b'{"messages":[')
    await turned(lambda: fragile.gateway.telemetry.running.records)
    leave(client, how)
    assert await aborted(fragile) == {("client", "request"): 1}
    assert upstream.connections == []


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_leaving_while_the_answer_is_awaited_ends_the_generation(fragile, upstream, connect, how, streamed):
    upstream.on_request(Stall())
    client = await connect(fragile)
    await client.send(post()[:-1] if streamed else post())
    if streamed:  # with the rest of the body in a segment of its own it is a task that sends it
        await upstream.wait_for_connection()
        await client.send(post()[-1:])
    seen = await upstream.wait_for_request()
    await seen.done
    await let_peers_run()
    left = leave(client, how)
    await seen.connection.closed
    assert seen.connection.closed.at - left < LIMIT_S
    assert await aborted(fragile) == {("client", "head"): 1}
    (line,) = access_lines(fragile)
    assert (line["status"], line["ended_by"], line["phase"], line["bytes_out"]) == (499, "client", "head", 0)
    await untouched(fragile, upstream, connect)


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(
    "answer", [SSE_HEAD + chunked(b"data: 1\n\n"), head(200, [("Content-Length", "100")]) + b"1", head(200) + b"1"]
)
async def test_leaving_while_the_answer_comes_ends_the_generation(fragile, upstream, connect, how, answer):
    upstream.on_request(answer, Stall())
    client = await connect(fragile)
    await client.send(post())
    await client.read_head()
    await client.read_body_until(b"1")
    left = leave(client, how)
    (connection,) = upstream.connections
    await connection.closed
    assert connection.closed.at - left < LIMIT_S
    assert await aborted(fragile) == {("client", "data"): 1}
    (line,) = access_lines(fragile)
    assert (line["status"], line["ended_by"], line["bytes_out"]) == (200, "client", len(client.responses[0].body))
    await untouched(fragile, upstream, connect)


async def test_leaving_with_everything_unread_ends_the_generation(fragile, upstream, connect):
    upstream.on_request(SSE_HEAD, Repeat(10_000, (chunked(b"x" * 65536),)))
    client = await connect(fragile, receive_buffer=4096)
    await client.send(post())
    connection = await upstream.wait_for_connection()
    await connection.wire.blocked()
    left = client.fin()  # which is a reset, with all that was never read
    await connection.closed
    assert connection.closed.at - left < LIMIT_S
    assert await aborted(fragile) == {("client", "write"): 1}
    await untouched(fragile, upstream, connect)


@pytest.mark.transports("tcp")
@pytest.mark.parametrize("begun", [b"", SSE_HEAD + chunked(b"1")], ids=["before the answer", "in the answer"])
async def test_leaving_resets_the_connection_to_the_instance(fragile, upstream, connect, begun):
    upstream.on_request(*([begun] if begun else []), Stall())
    client = await connect(fragile)
    await client.send(post())
    connection = (await upstream.wait_for_request()).connection
    if begun:
        await client.read_head()
    client.fin()
    assert await connection.closed == "reset"


async def test_leaving_while_the_instance_does_not_read_the_upload(gateway, make_upstream, connect):
    upstream = await make_upstream(receive_buffer=4096)
    upstream.on_request(ReadHead(), Stall())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    sending = asyncio.create_task(client.send(request("POST", "/p/vllm/x", body=bytes(50 << 20))))
    connection = (await upstream.wait_for_request()).connection
    await client.wire.blocked()
    sending.cancel()
    client.reset()
    await connection.closed
    assert await aborted(handle) == {("client", "head"): 1}


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("target", ["/p/vllm/x", CHAT])
async def test_leaving_in_the_turn_in_which_a_piece_of_the_upload_came_is_no_error(
    fragile, upstream, connect, framing, target
):
    """As over TLS, where the last bytes and the end come in one read."""
    upstream.on_request(ReadHead(), Stall())
    name, _, value = framing.partition(": ")
    first, more = b'{"model":"vllm/m",', b'"x":"y"'
    if name == "Transfer-Encoding":
        first, more = chunked(first), chunked(more)
    client = await connect(fragile)
    await client.send(request("POST", target, [(name, value)]) + first)
    await turned(lambda: upstream.requests)
    [connection] = fragile.gateway._server.clients
    await turned(lambda: connection._upload is not None and connection._upload.listener is not None)
    connection.data_received(more)
    connection.connection_lost(None)
    client.reset()
    assert await aborted(fragile) == {("client", "request"): 1}
    [line] = access_lines(fragile)
    assert (line["status"], line["reason"]) == (499, "disconnected")
    assert [each for each in fragile.logs.records if each.exc_info] == []


@pytest.mark.transports("tcp", "tls")
async def test_leaving_while_the_instance_is_being_connected_to(gateway, make_upstream, connect):
    upstream = await make_upstream()
    handle = await gateway(vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
    await upstream.jam()
    client = await connect(handle)
    await client.send(post())
    await turned(lambda: any(each.phase.name == "CONNECT" for each in handle.gateway.telemetry.running.records))
    client.fin()
    assert await aborted(handle) == {("client", "connect"): 1}
    assert handle.replica().breaker.closed


async def test_leaving_while_the_request_waits_to_be_tried_again(gateway, make_upstream, connect):
    upstream = await make_upstream()
    handle = await gateway(vllm=upstream, RETRY_INITIAL_BACKOFF="30s", RETRY_MAX_BACKOFF="30s")
    upstream.stop_listening()
    client = await connect(handle)
    await client.send(post())
    await turned(lambda: any(each.phase.name == "QUEUE" for each in handle.gateway.telemetry.running.records))
    client.reset()
    assert await aborted(handle) == {("client", "queue"): 1}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("streamed", [False, True])
async def test_leaving_after_the_last_byte_is_a_success(fragile, upstream, connect, how, streamed):
    upstream.on_request(SSE_HEAD + chunked(b"data: [DONE]\n\n") + LAST_CHUNK)
    upstream.on_request(OK)
    for _ in range(2):
        client = await connect(fragile)
        await client.send(post()[:-1] if streamed else post())
        if streamed:
            await turned(lambda: fragile.gateway.telemetry.running.records)
            await client.send(post()[-1:])
        answer = await client.read_response()
        assert answer.complete
        leave(client, how)
        await turned(lambda: fragile.gateway.connections == 0)
    assert await aborted(fragile, 2) == {}
    assert [line["status"] for line in access_lines(fragile)] == [200, 200]
    assert not any("ended_by" in line for line in access_lines(fragile))


async def test_of_pipelined_requests_those_not_begun_never_reach_the_instance(fragile, upstream, connect):
    upstream.on_request(Stall())
    client = await connect(fragile)
    await client.send(post() * 5)
    seen = await upstream.wait_for_request()
    client.reset()
    await seen.connection.closed
    assert await aborted(fragile) == {("client", "head"): 1}
    await untouched(fragile, upstream, connect)
    assert len(upstream.requests) == 2


async def test_a_hundred_that_leave_at_once_leave_nothing(fragile, upstream, connect):
    go = asyncio.Event()
    upstream.repeat(SSE_HEAD, chunked(b"1"), WaitFor(go))
    clients = [await connect(fragile) for _ in range(100)]
    for client in clients:
        await client.send(post())
    for client in clients:
        await client.read_head()
    left = [client.reset() if number % 2 else client.fin() for number, client in enumerate(clients)]
    for connection in upstream.connections:
        await connection.closed
    assert statistics.median(each.closed.at for each in upstream.connections) - max(left) < LIMIT_S
    assert await aborted(fragile, 100) == {("client", "data"): 100}
    assert (len(upstream.connections), upstream.open_connections, fragile.gateway.connections) == (100, [], 0)
    await untouched(fragile, upstream, connect)
