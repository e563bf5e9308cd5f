"""A host that is gone says nothing: no FIN, no reset, no answer. What waits for it ends in time all the same."""

import asyncio
import socket
from dataclasses import replace

import pytest

from gomodel.host.kernel import fail_when_silent

from ..harness.scripted import SSE_HEAD, Set, Stall, WaitFor, chunked, request, sse_event
from ..harness.tunnels import SWITCH, handshake, opened
from ..harness.verdicts import OK, aborted, ask, own_error, post, served, tells_nothing, turned

OPTIONS = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")


def silence_limits(transport: asyncio.BaseTransport) -> tuple[int, ...]:
    sock = transport.get_extra_info("socket")
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return tuple(sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in OPTIONS)


def client_of(handle):
    (client,) = handle.gateway._server.clients
    return client


@pytest.mark.parametrize(
    ("within_s", "options"),
    [(45.0, (15, 5, 6, 45_000)), (120.0, (40, 13, 6, 120_000)), (600.0, (200, 66, 6, 600_000)), (0.2, (1, 1, 6, 200))],
)
async def test_the_kernel_asks_a_silent_peer_and_gives_up_in_time(within_s, options):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    transport, _ = await loop.create_connection(asyncio.Protocol, *address)
    fail_when_silent(transport.get_extra_info("socket"), within_s)
    assert silence_limits(transport) == options
    transport.close()
    server.close()
    await server.wait_closed()


async def test_an_instance_has_less_than_a_minute_and_a_client_some(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    assert (await ask(client)).status == 200
    (channel,) = handle.replica().pool._idle
    assert silence_limits(channel.transport)[3] == 45_000
    assert silence_limits(client_of(handle).transport)[3] == 120_000


@pytest.mark.parametrize(("limit", "timeout_ms"), [("1s", 120_000), ("10m", 600_000)])
async def test_a_client_has_as_long_as_one_that_does_not_read(gateway, upstream, connect, limit, timeout_ms):
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT=limit)
    client = await connect(handle)
    assert (await ask(client, request("GET", "/health"))).status == 200
    assert silence_limits(client_of(handle).transport)[3] == timeout_ms


async def test_a_unix_socket_has_no_host_to_lose(gateway, make_upstream, connect, tmp_path):
    upstream = await make_upstream(unix_path=str(tmp_path / "vllm"))
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, GOMODEL_UNIX_SOCKET=str(tmp_path / "sock"))
    assert (await ask(await connect(path=str(tmp_path / "sock")))).status == 200
    assert served(upstream) == [1]
    assert handle.logs.unexpected == []


async def test_what_waits_for_an_instance_whose_host_is_gone_ends_as_its_failure(
    gateway, upstream, connect, monkeypatch
):
    """Before the head, inside a stream, in a tunnel, and for a request that was sent to it when it was gone."""
    monkeypatch.setattr("gomodel.upstream.channel.SILENT_HOST_S", 0.3)
    handle = await gateway(
        vllm=upstream,
        HTTP_UPSTREAM_KEEPALIVE="60s",
        HTTP_RESPONSE_HEADER_TIMEOUT="60s",
        HTTP_STREAM_IDLE_TIMEOUT="60s",
        CIRCUIT_BREAKER_FAILURE_THRESHOLD="100",
    )
    tunnel, _ = await opened(handle, upstream, connect, handshake(), SWITCH)
    said = asyncio.Event()
    upstream.on_request(SSE_HEAD, chunked(sse_event("one")), Set(said), Stall(), path="/v1/completions")
    upstream.on_request(Stall(), path="/v1/embeddings")
    stream, waiting = await connect(handle), await connect(handle)
    await stream.send(request("POST", "/p/vllm/v1/completions", body=b"x"))
    await stream.read_head()
    await waiting.send(request("POST", "/p/vllm/v1/embeddings", body=b"x"))
    await said.wait()
    await upstream.wait_for_request(3)
    # One whose connection is kept, and used again when the host is gone.
    upstream.on_request(OK)
    late = await connect(handle)
    assert (await ask(late)).status == 200

    for each in upstream.open_connections:
        each.wire.vanish()
    await late.send(post())
    own_error(await late.read_response(), 502, "connection_terminated")
    answer = await waiting.read_response()
    message = own_error(answer, 502, "connection_terminated")
    assert "cannot be reached any more" in message
    broken = await stream.read_rest()
    assert (broken.complete, b"stream_interrupted" in broken.body) == (False, True)
    assert await tunnel.closed in ("fin", "reset")
    tells_nothing(handle, answer, upstream)
    assert served(upstream) == [1, 1, 1, 1]  # what may have been begun is not sent again
    assert sum(count for (by, _), count in (await aborted(handle, 5)).items() if by == "upstream") == 4
    upstream.release()


async def test_a_stream_to_a_client_whose_host_is_gone_ends_at_its_instance(gateway, upstream, connect, monkeypatch):
    monkeypatch.setattr("gomodel.downstream.server.SILENT_CLIENT_S", 0.3)
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="300ms")
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD, chunked(sse_event("one")), WaitFor(go_on), chunked(sse_event("two")), Stall())
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    await client.read_body_until(b"one")
    client.wire.vanish()
    go_on.set()
    assert await upstream.requests[0].connection.closed in ("fin", "reset")
    await turned(lambda: handle.gateway.connections == 0)
    assert await aborted(handle) == {("client", "data"): 1}


async def test_a_reload_changes_it_for_who_connects_from_then_on(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    before = await connect(handle)
    assert (await ask(before, request("GET", "/health"))).status == 200
    handle.gateway.reload(replace(handle.config, timeouts=replace(handle.config.timeouts, write_idle_s=600.0)))
    after = await connect(handle)
    assert (await ask(after, request("GET", "/health"))).status == 200
    limits = {silence_limits(client.transport)[3] for client in handle.gateway._server.clients}
    assert limits == {120_000, 600_000}
