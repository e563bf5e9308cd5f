"""How a TLS connection ends: nothing that was written is lost, and no client is waited for that says no goodbye."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gomodel.downstream import client_limit
from gomodel.process import acceptor
from gomodel.process import gateway as gateway_module

from ..harness.processes import RUN, WITHOUT_UVLOOP, Run
from ..harness.scripted import (
    LAST_CHUNK,
    SAFETY_S,
    SSE_HEAD,
    Fin,
    GatewayHandle,
    ScriptedUpstream,
    Stall,
    chunked,
    env_for,
    let_peers_run,
    request,
    response,
)
from ..harness.tls import KEY_AND_CERTIFICATE
from ..harness.verdicts import access_lines, post, turned

HEALTH = request("GET", "/health")
CLOSING = request("GET", "/p/vllm/large", [("Connection", "close")])
# Fits into what the gateway may hold for a client, so that the request is over while it waits; not into the kernel.
LARGE = bytes(60_000)


class TlsClient:
    """A client that reads, and answers a close_notify, only when it is told to; it works in threads."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.sock: socket.socket = socket.socket()
        self.sock.settimeout(SAFETY_S)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.connect(("127.0.0.1", port))

    async def shake_hands(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = await asyncio.to_thread(context.wrap_socket, self.sock, suppress_ragged_eofs=False)

    async def ask(self, message: bytes = HEALTH) -> bytes:
        """One small answer."""
        await asyncio.to_thread(self.sock.sendall, message)
        return await asyncio.to_thread(self.sock.recv, 65536)

    async def rest(self) -> bytes:
        """All that comes until a close_notify; an end without one raises ssl.SSLEOFError."""
        received = b""
        while piece := await asyncio.to_thread(self.sock.recv, 65536):
            received += piece
        return received


Connect = Callable[..., Awaitable[TlsClient]]


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, str]:
    path = tmp_path / "pem"
    path.write_text(KEY_AND_CERTIFICATE)
    return {"TLS_CERT_FILE": str(path), "TLS_KEY_FILE": str(path)}


@pytest.fixture
async def tls(no_leaks: object) -> AsyncIterator[Connect]:
    """`await tls(port)`: a client that has shaken hands, or not yet with `silent=True`."""
    clients: list[TlsClient] = []

    async def connect(port: int, *, silent: bool = False, **options: Any) -> TlsClient:
        clients.append(TlsClient(port, **options))
        if not silent:
            await clients[-1].shake_hands()
        return clients[-1]

    yield connect
    for client in clients:
        client.sock.close()


@pytest.fixture
async def closing(
    gateway: Any, upstream: ScriptedUpstream, tls: Connect, pem: dict[str, str]
) -> Callable[..., Awaitable[tuple[GatewayHandle, TlsClient]]]:
    """A client that has not read the end of an answer with `Connection: close`, with which its request is over."""

    async def start(**settings: str) -> tuple[GatewayHandle, TlsClient]:
        upstream.on_request(response(LARGE))
        handle = await gateway(vllm=upstream, **settings, **pem)
        handle.gateway.listeners[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client = await tls(handle.port, receive_buffer=4096)
        await asyncio.to_thread(client.sock.sendall, CLOSING)
        await turned(lambda: access_lines(handle))
        assert handle.gateway.connections == 1
        return handle, client

    return start


async def drained(handle: GatewayHandle) -> int:
    """How many clients were left of a drain that could wait for a while."""
    await handle.gateway.drain(SAFETY_S / 2)
    return int(handle.gateway.connections)


async def test_a_drain_ends_idle_clients_with_a_close_notify_and_waits_for_none_of_theirs(
    gateway: Any, upstream: ScriptedUpstream, tls: Connect, pem: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "GRACE_S", 0.0)
    handle = await gateway(vllm=upstream, **pem)
    client = await tls(handle.port)
    assert (await client.ask()).startswith(b"HTTP/1.1 200 ")
    assert await drained(handle) == 0
    assert await client.rest() == b""


@pytest.mark.parametrize(("code", "workers"), [(RUN, "2"), (WITHOUT_UVLOOP + RUN, "1"), (WITHOUT_UVLOOP + RUN, "2")])
async def test_sigterm_ends_a_process_with_an_idle_client_at_once(
    run: Run, upstream: ScriptedUpstream, tls: Connect, pem: dict[str, str], code: str, workers: str
) -> None:
    process = await run({**env_for(vllm=upstream), **pem, "GOMODEL_WORKERS": workers}, code=code)
    client = await tls(await process.listening())
    assert (await client.ask()).startswith(b"HTTP/1.1 200 ")
    async with asyncio.timeout(SAFETY_S):
        assert await process.stop() == 0
    assert await client.rest() == b""


async def test_a_connection_that_closes_delivers_what_was_written_to_a_client_that_reads_later(closing: Any) -> None:
    handle, client = await closing()
    assert (await client.rest()).endswith(b"\r\n\r\n" + LARGE)
    await turned(lambda: handle.gateway.connections == 0)


async def test_a_connection_that_closes_is_cut_off_when_its_client_does_not_read(closing: Any) -> None:
    handle, client = await closing(HTTP_WRITE_IDLE_TIMEOUT="100ms")
    await turned(lambda: handle.gateway.connections == 0)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await client.rest()


async def test_a_stream_that_broke_off_delivers_what_was_written_to_a_client_that_reads_later(
    gateway: Any, upstream: ScriptedUpstream, tls: Connect, pem: dict[str, str]
) -> None:
    events = b"data: 1\n\n" * 5000
    upstream.on_request(SSE_HEAD + chunked(events), Fin())
    handle = await gateway(vllm=upstream, **pem)
    handle.gateway.listeners[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    client = await tls(handle.port, receive_buffer=4096)
    await asyncio.to_thread(client.sock.sendall, post())
    await turned(lambda: access_lines(handle))
    assert handle.gateway.connections == 1
    received = await client.rest()
    assert events in received
    assert b"stream_interrupted" in received
    assert not received.endswith(LAST_CHUNK)


@pytest.mark.parametrize("seen", [False, True], ids=["in the kernel's queue", "accepted"])
async def test_a_client_that_has_not_shaken_hands_when_the_drain_begins_is_served(
    gateway: Any,
    upstream: ScriptedUpstream,
    tls: Connect,
    pem: dict[str, str],
    seen: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gateway_module, "GRACE_S", 60.0 if seen else 0.0)
    monkeypatch.setattr(acceptor, "_HANDSHAKE_S", 0.0 if seen else 60.0)
    handle = await gateway(vllm=upstream, **pem)
    if not seen:
        handle.gateway._acceptor._pause(handle.gateway.listeners)  # they are left in the queue
    clients = [await tls(handle.port, silent=True) for _ in range(20)]
    if seen:
        await turned(lambda: len(handle.gateway._server.handshakes) == 20)
    drain = asyncio.create_task(drained(handle))
    answers = []
    for client in clients:
        for _ in range(50):
            await let_peers_run()
        assert not drain.done()
        if client is clients[-1]:
            monkeypatch.setattr(gateway_module, "GRACE_S", 60.0)
        await client.shake_hands()
        answers.append((await client.ask())[:12])
        client.sock.close()
    assert answers == [b"HTTP/1.1 200"] * 20
    assert await drain == 0


async def test_a_client_that_never_shakes_hands_does_not_hold_up_a_drain(
    gateway: Any, upstream: ScriptedUpstream, tls: Connect, pem: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway_module, "GRACE_S", 0.05)
    monkeypatch.setattr(acceptor, "_HANDSHAKE_S", 0.05)
    handle = await gateway(vllm=upstream, **pem)
    await tls(handle.port, silent=True)
    await turned(lambda: handle.gateway._server.handshakes)
    await tls(handle.port, silent=True)
    assert await drained(handle) == 0


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways have room for three clients."""
    monkeypatch.setattr("gomodel.host.descriptors.most_clients", lambda *shares: 3)
    monkeypatch.setattr(client_limit, "_LOOK_AGAIN_S", 0.0)


@pytest.mark.usefixtures("three")
async def test_clients_that_say_nothing_make_room_for_one_that_shakes_hands(
    gateway: Any, upstream: ScriptedUpstream, tls: Connect, pem: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_limit, "_QUIET_S", 0.0)
    handle = await gateway(vllm=upstream, **pem)
    handshakes = handle.gateway._server.handshakes
    for number in range(1, 4):
        await tls(handle.port, silent=True)
        await turned(lambda number=number: len(handshakes) == number)
    client = await tls(handle.port)
    assert (await client.ask())[:12] == b"HTTP/1.1 200"
    await turned(lambda: len(handshakes) == 2)
    assert handle.gateway.connections == 1


@pytest.mark.usefixtures("three")
async def test_a_flood_of_clients_that_say_nothing_takes_no_more_than_their_share_and_is_one_line_in_the_log(
    gateway: Any, upstream: ScriptedUpstream, tls: Connect, pem: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_limit, "_QUIET_S", 60.0)
    handle = await gateway(vllm=upstream, **pem)
    server = handle.gateway._server
    accepted = 0
    taken = server.shaking_hands

    def count(client: Any) -> bool:
        nonlocal accepted
        accepted += 1
        return bool(taken(client))

    monkeypatch.setattr(server, "shaking_hands", count)
    for _ in range(60):
        await tls(handle.port, silent=True)
    await turned(lambda: accepted == 60)
    assert len(server.handshakes) == server.limit.most + server.limit.refusals
    lines = [record for record in handle.logs.records if "clients are connected" in record.getMessage()]
    assert len(lines) == 1


async def test_a_stream_that_is_aborted_at_the_drain_limit_never_looks_complete(
    gateway: Any, upstream: ScriptedUpstream, tls: Connect, pem: dict[str, str]
) -> None:
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall())
    handle = await gateway(vllm=upstream, **pem)
    client = await tls(handle.port)
    received = await client.ask(post())
    while b"data: 1" not in received:
        received += await asyncio.to_thread(client.sock.recv, 65536)
    await handle.gateway.drain(0.0)
    await handle.gateway.close()
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        received += await client.rest()
    assert not received.endswith(LAST_CHUNK)
