"""Both ends of a tunnelled WebSocket as raw bytes, for tests that are about bytes.

    client, server = await opened(await gateway(vllm=upstream), upstream, connect)
    await client.send(frame(b"hello"))
    assert await server.exactly(11) == frame(b"hello")

Frames are written by hand here (RFC 6455 5.2), never by the code under test. The upstream's script only switches
protocols; from then on the test itself reads and writes its end.
"""

from typing import Any

from .scripted import GatewayHandle, ScriptedUpstream, Stall, head, request
from .wire import Signal, Wire, deadline

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"\x11\x22\x33\x44"
OFFER = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
]
ACCEPTED = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
]
SWITCH = head(101, ACCEPTED, "Switching Protocols")


def frame(
    payload: bytes,
    opcode: int = TEXT,
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    length_bytes: int | None = None,
) -> bytes:
    """One frame; `key` None is a server's, which is not masked. `length_bytes` 2 or 8 forces that form of length."""
    size = len(payload)
    form = length_bytes if length_bytes is not None else 0 if size < 126 else 2 if size < 65536 else 8
    short = {0: size, 2: 126, 8: 127}[form]
    masked = payload
    if key is not None:
        whole = int.from_bytes((key * (size // 4 + 1))[:size], "big") ^ int.from_bytes(payload, "big")
        masked = whole.to_bytes(size, "big")
    first = fin << 7 | rsv << 4 | opcode
    return (
        bytes([first, (key is not None) << 7 | short])
        + (size.to_bytes(form, "big") if form else b"")
        + (key or b"")
        + masked
    )


def handshake(path: str = "/p/vllm/ws", headers: Any = ()) -> bytes:
    """The request that asks for a WebSocket."""
    return request("GET", path, [*OFFER, *headers])


class End:
    """One end of an open tunnel."""

    def __init__(self, wire: Wire, pending: bytes) -> None:
        self.wire = wire
        self._pending = bytearray(pending)

    @property
    def closed(self) -> Signal:
        """How and when the gateway ended this end's connection."""
        return self.wire.ended

    async def send(self, data: bytes) -> None:
        async with deadline("the gateway to take bytes"):
            await self.wire.send(data)

    async def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        async with deadline(f"{size} bytes"):
            while len(self._pending) < size:
                data = await self.wire.read()
                if not data:
                    raise AssertionError(f"{self.wire.name}: {self.wire.ended.value} after {bytes(self._pending)!r}")
                self._pending += data
        found = bytes(self._pending[:size])
        del self._pending[:size]
        return found

    async def rest(self) -> bytes:
        """Everything to the end of the connection; `closed` then tells how that came."""
        async with deadline("the end of a tunnel"):
            while data := await self.wire.read():
                self._pending += data
        return bytes(self._pending)


async def opened(
    handle: GatewayHandle,
    upstream: ScriptedUpstream,
    connect: Any,
    raw: bytes | None = None,
    switch: bytes = SWITCH,
    **options: Any,
) -> tuple[End, End]:
    """A tunnel through `handle`: the client's end and the upstream's."""
    upstream.lenient = True  # what follows the handshake is no HTTP; the handshake itself is judged below
    upstream.on_request(switch, Stall())
    client = await connect(handle, **options)
    await client.send(raw if raw is not None else handshake())
    answer = await client.read_head()
    assert answer.status == 101, answer.raw
    asked = await upstream.wait_for_request(len(upstream.requests))
    assert (asked.problems, upstream.script_failures) == ([], [])
    return End(client.wire, answer.leftover), End(asked.connection.wire, asked.leftover)
