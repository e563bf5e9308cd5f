"""A connection that moves more than events is read in small pieces, so that one which stalls holds little."""

import asyncio
import socket
from typing import Any

import pytest

from gomodel.downstream.arrivals import Arrivals
from gomodel.host.bounded_reads import READ_BYTES, bound_reads
from gomodel.relay.relay import Relay
from gomodel.relay.tunnel import Tunnel

from ..harness.scripted import request, response
from ..harness.tunnels import opened
from ..harness.verdicts import CHAT, OK, post, turned
from ..harness.wire import FLOOD_BYTES

BODY = bytes(range(256)) * (4 << 12)


class Reader(asyncio.Protocol):
    """Bounds its reads from the first large one on."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.received = b""
        self.heard: list[str] = []
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        self.received += data
        if len(data) > READ_BYTES:
            bound_reads(self.transport, self)

    def pause_writing(self) -> None:
        self.heard.append("paused")

    def resume_writing(self) -> None:
        self.heard.append("resumed")

    def eof_received(self) -> None:
        self.heard.append("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(exc)


async def test_all_arrives_in_pieces_and_everything_else_is_heard_of(no_leaks: object) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.setblocking(False)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    loop = asyncio.get_running_loop()
    transport, reader = await loop.create_connection(Reader, sock=ours)
    await loop.sock_sendall(theirs, BODY)
    transport.write(bytes(8 << 20))
    await turned(lambda: "paused" in reader.heard)
    left = 8 << 20
    while left:
        left -= len(await loop.sock_recv(theirs, 1 << 20))
    theirs.close()
    assert await reader.ended is None
    assert reader.received == BODY
    assert len([each for each in reader.sizes if each > READ_BYTES]) <= 1
    assert reader.heard == ["paused", "resumed", "eof"]


async def test_an_upload_is_read_in_small_pieces_after_the_first(
    gateway: Any, upstream: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    received, lend = Arrivals.data_received, Arrivals._lend

    def spy(self: Arrivals, data: bytes) -> None:
        sizes.append(len(data))
        received(self, data)

    def lent(self: Arrivals, data: memoryview) -> bool:
        done = lend(self, data)
        if done:  # else it is received
            sizes.append(len(data))
        return done

    monkeypatch.setattr(Arrivals, "data_received", spy)
    monkeypatch.setattr(Arrivals, "_lend", lent)
    upstream.on_request(OK)
    client = await connect(await gateway(vllm=upstream))
    await client.send(request("POST", CHAT, body=b'{"model":"vllm/m","x":"' + b"y" * FLOOD_BYTES + b'"}'))
    assert (await client.read_response()).status == 200
    assert sum(sizes) > FLOOD_BYTES
    assert len([each for each in sizes if each > READ_BYTES]) <= 1


async def test_an_answer_is_read_in_small_pieces_after_the_first(
    gateway: Any, upstream: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    on_data = Relay.on_data

    def spy(self: Relay, data: bytes, complete: bool) -> None:
        sizes.append(len(data))
        on_data(self, data, complete)

    monkeypatch.setattr(Relay, "on_data", spy)
    upstream.on_request(response(bytes(FLOOD_BYTES)))
    client = await connect(await gateway(vllm=upstream), receive_buffer=4096)
    await client.send(post())
    connection = await upstream.wait_for_connection()
    await connection.wire.blocked()  # the kernel holds more than any read takes
    client.wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    assert len((await client.read_response()).body) == FLOOD_BYTES
    assert len([each for each in sizes if each > READ_BYTES]) <= 1


@pytest.mark.parametrize("way", ["on_data", "feed_data"])
async def test_a_tunnel_is_read_in_small_pieces_after_the_first(
    gateway: Any, upstream: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    sizes = []
    passed_on = getattr(Tunnel, way)

    def spy(self: Tunnel, data: bytes, *complete: bool) -> None:
        sizes.append(len(data))
        passed_on(self, data, *complete)

    monkeypatch.setattr(Tunnel, way, spy)
    client, server = await opened(await gateway(vllm=upstream), upstream, connect)
    sender, receiver = (server, client) if way == "on_data" else (client, server)
    sending = asyncio.create_task(sender.send(bytes(FLOOD_BYTES)))
    await sender.wire.blocked()  # the kernel holds more than any read takes
    assert len(await receiver.exactly(FLOOD_BYTES)) == FLOOD_BYTES
    await sending
    assert len([each for each in sizes if each > READ_BYTES]) <= 1
