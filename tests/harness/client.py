"""A client that sends exactly the bytes it is given and reads only when it is told to.

Decides nothing about HTTP itself: h11 judges the responses. Every operation fails the test after SAFETY_S.
"""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

from .oracles import ResponseMessage
from .steps import send_pieces
from .tls import TlsWire
from .wire import SAFETY_S, Signal, Wire, deadline, let_peers_run


class Truncated(AssertionError):
    """The response ended before its framing said so."""


class RawClient:
    """One connection. Responses are read with read_response(), or with read_head() and then read_chunk()."""

    def __init__(self, wire: Wire, *, safety_s: float = SAFETY_S) -> None:
        self.wire = wire
        self.responses: list[ResponseMessage] = []
        self._safety_s = safety_s
        self._pending = b""
        self._chunks_given = 0

    @classmethod
    async def connect(
        cls,
        port: int | None = None,
        *,
        path: str | None = None,
        tls: bool = False,
        receive_buffer: int | None = None,
        safety_s: float = SAFETY_S,
    ) -> "RawClient":
        """To a loopback port, over TLS or not, or to a unix socket.

        A small `receive_buffer` (bytes) makes a slow reader felt.
        """
        sock = socket.socket(socket.AF_UNIX if path is not None else socket.AF_INET)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            async with deadline("a connection", safety_s):
                address = path if path is not None else ("127.0.0.1", port)
                await asyncio.get_running_loop().sock_connect(sock, address)
                if not tls:
                    return cls(Wire(sock, "client connection"), safety_s=safety_s)
                wire = TlsWire(sock, "client connection", server_side=False)
                try:
                    await wire.handshake()
                except BaseException:
                    wire.close()
                    raise
            return cls(wire, safety_s=safety_s)
        except BaseException:
            sock.close()
            raise

    @property
    def closed(self) -> Signal:
        """How and when the server ended the connection; noticed without reading, unless unread bytes fill the
        receive buffer."""
        return self.wire.ended

    @property
    def received(self) -> bytes:
        """Every byte read so far."""
        return bytes(self.wire.received)

    @property
    def problems(self) -> list[str]:
        """What RFC 9112 forbids in the responses so far."""
        return [problem for response in self.responses for problem in response.problems]

    async def send(self, data: bytes) -> None:
        async with deadline("the server to take bytes", self._safety_s):
            await self.wire.send(data)

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Sends each piece as a segment of its own, which whoever reads on this loop gets by itself."""
        async with deadline("the server to take bytes", self._safety_s):
            await send_pieces(self.wire, pieces)

    async def send_byte_by_byte(self, data: bytes) -> None:
        await self.send_pieces(data[i : i + 1] for i in range(len(data)))

    async def send_split_at_crlf(self, data: bytes) -> None:
        """Sends one segment per line, each with its line end."""
        await self.send_pieces(_lines(data))

    async def read_head(self, method: str = "GET") -> ResponseMessage:
        """The next response as soon as its final head is in; `method` is that of the request it answers."""
        response = await self._begin(method)
        if not response.has_head:
            raise Truncated(f"no response head ({response.end}): {response.raw[:500]!r} {response.malformed or ''}")
        return response

    async def _begin(self, method: str) -> ResponseMessage:
        response = ResponseMessage(method)
        self.responses.append(response)
        self._chunks_given = 0
        async with deadline("a response head", self._safety_s):
            while not response.has_head and not response.end and not response.malformed:
                await self._feed(response)
        return response

    async def read_chunk(self) -> bytes | None:
        """The next whole chunk of a chunked body, or the next bytes of any other; None at the end of the response.

        Truncated when the connection ends before the response does.
        """
        response = self.responses[-1]
        async with deadline("a chunk", self._safety_s):
            while response.whole_chunks <= self._chunks_given:
                if response.complete:
                    return None
                if response.end or response.malformed:
                    raise Truncated(f"{response.end or response.malformed} after {len(response.body)} body bytes")
                await self._feed(response)
        self._chunks_given += 1
        return response.chunks[self._chunks_given - 1]

    async def read_body_until(self, marker: bytes) -> bytes:
        """The decoded body so far, once it holds `marker`."""
        response = self.responses[-1]
        async with deadline(f"{marker!r} in a body", self._safety_s):
            while marker not in response.body:
                if response.complete or response.end or response.malformed:
                    raise Truncated(f"ended without {marker!r}: {response.body[-500:]!r}")
                await self._feed(response)
        return response.body

    async def read_rest(self) -> ResponseMessage:
        """Reads on to the end of the response that read_head() began; never fails on a truncated one."""
        response = self.responses[-1]
        async with deadline("the end of a response", self._safety_s):
            while not response.complete and not response.end and not response.malformed:
                await self._feed(response)
            if response.must_close and response.complete and (extra := await self._drain()):
                response.problems.append(f"bytes after the last response: {extra[:500]!r}")
            await let_peers_run()
        response.end = self.wire.ended.value or "keepalive"
        return response

    async def read_response(self, method: str = "GET") -> ResponseMessage:
        """A whole response. Look at `complete` (by its framing) and `end`: "keepalive", "fin" or "reset",
        the last two also when the server closed after a complete response that had not announced it.

        Never fails on what the server did: without any head `status` is 0.
        """
        await self._begin(method)
        return await self.read_rest()

    async def _feed(self, response: ResponseMessage) -> None:
        data = self._pending or await self.wire.read()
        self._pending = b""
        if data or self.wire.ended.value != "reset":
            response.feed(data)
        self._pending = response.leftover
        if not data:
            response.end = self.wire.ended.value

    async def read_until(self, marker: bytes) -> bytes:
        """The raw bytes up to and with `marker`; between responses only."""
        async with deadline(f"{marker!r}", self._safety_s):
            while marker not in self._pending:
                data = await self.wire.read()
                if not data:
                    raise Truncated(f"{self.wire.ended.value} before {marker!r}: {self._pending[-500:]!r}")
                self._pending += data
        cut = self._pending.index(marker) + len(marker)
        found, self._pending = self._pending[:cut], self._pending[cut:]
        return found

    async def read_some(self, limit: int) -> bytes:
        """One read of at most `limit` raw bytes, as a slow reader does; b"" at the end of the connection."""
        async with deadline("bytes", self._safety_s):
            return await self.wire.read(limit)

    async def read_all_until_close(self) -> bytes:
        """The raw rest of the connection; `closed` then tells how it ended."""
        async with deadline("the connection to end", self._safety_s):
            return await self._drain()

    async def _drain(self) -> bytes:
        rest = bytearray(self._pending)
        self._pending = b""
        while data := await self.wire.read():
            rest += data
        return bytes(rest)

    def half_close(self) -> float:
        """Sends FIN and goes on reading. Returns the monotonic time, as do the other two."""
        return self.wire.half_close()

    def fin(self) -> float:
        """Leaves with a FIN, whatever was left unread."""
        self.wire.half_close()
        return self.wire.close()

    def reset(self) -> float:
        """Leaves with a RST."""
        return self.wire.reset()


def _lines(data: bytes) -> list[bytes]:
    *lines, rest = data.split(b"\r\n")
    return [line + b"\r\n" for line in lines] + ([rest] if rest else [])


def request(
    method: str,
    target: str,
    headers: Iterable[tuple[str, str]] = (),
    body: Any = None,
    *,
    host: str | None = "gateway.test",
) -> bytes:
    """A request's bytes: Host first, the fields given, then Content-Length when there is a `body` (bytes or chunked
    pieces as a list of bytes, which makes it Transfer-Encoding: chunked)."""
    fields = [("Host", host)] if host is not None else []
    fields += headers
    payload = b""
    if isinstance(body, bytes):
        fields.append(("Content-Length", str(len(body))))
        payload = body
    elif body is not None:
        fields.append(("Transfer-Encoding", "chunked"))
        payload = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*body, b""])
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload
