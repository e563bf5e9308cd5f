"""One raw HTTP/1.1 client connection: what it sends is known to the byte, what comes is noted with its time.

Decides how long is waited, and what a failed connect is called. Knows nothing of what is asked. No library stands
between: each of them mends, joins or hides something that is to be seen.
"""

import asyncio
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self, cast

from .exchange import Exchange
from .places import Place

CONNECT_LIMIT_S = 10.0
UNTRUSTED = "its certificate is not trusted"
# Uploads go out in pieces, so that an early refusal is seen.
_PIECE_BYTES = 1 << 16


class Connection(asyncio.Protocol):
    """Use as `async with await Connection.to(place)`; one exchange at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._exchange = Exchange()
        self._changed = asyncio.Event()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.closed = False

    @classmethod
    async def to(cls, place: Place) -> "Connection":
        """Connects. Raises OSError (ssl.SSLError among it) or TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_LIMIT_S):
            if place.unix_socket is not None:
                _, made = await loop.create_unix_connection(cls, place.unix_socket, ssl=place.tls)
            else:
                name = place.host if place.tls else None
                _, made = await loop.create_connection(cls, place.host, place.port, ssl=place.tls, server_hostname=name)
        return made

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        await self.until(lambda: self.closed, 1.0)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._exchange.feed(data, self._loop.time())
        self._changed.set()

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._exchange.closed(self._loop.time(), reset=error is not None)
        self._may_write.set()
        self._changed.set()

    async def begin(self, pieces: Iterable[bytes]) -> Exchange:
        """Send a request; the exchange goes on by itself."""
        self._exchange = exchange = Exchange(asked_at=self._loop.time())
        for number, piece in enumerate(pieces):
            if number == 0:
                exchange.method = piece.partition(b" ")[0].decode("latin-1")
            for at in range(0, len(piece), _PIECE_BYTES):
                if self.closed or exchange.end:
                    return exchange
                self._transport.write(piece[at : at + _PIECE_BYTES])
                await self._may_write.wait()
        return exchange

    async def until(self, found: Callable[[], bool], limit_s: float) -> bool:
        """Wait until `found`, asked after each read; whether it was within the limit."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while not found():
                    self._changed.clear()
                    await self._changed.wait()
        return found()

    async def ask(self, pieces: Iterable[bytes], limit_s: float) -> Exchange:
        """Send a request and wait for the whole answer."""
        exchange = Exchange()
        try:
            async with asyncio.timeout(limit_s):
                exchange = await self.begin(pieces)
                await self.until(lambda: exchange.end != "", limit_s)
        except TimeoutError:
            exchange = self._exchange
        exchange.gave_up(self._loop.time())
        return exchange

    async def quiet(self, turn_s: float) -> None:
        """Let what may follow a response arrive."""
        await self.until(lambda: self.closed, turn_s)

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def leave(self) -> None:
        """Close at once, as a client whose process ends."""
        self._transport.abort()


def unreachable(error: OSError) -> Exchange:
    """The exchange that could not begin."""
    if isinstance(error, TimeoutError):
        why = "does not take connections"
    elif isinstance(error, ssl.SSLCertVerificationError):
        why = UNTRUSTED
    elif isinstance(error, ssl.SSLError):
        why = "TLS fails"
    else:
        why = (error.strerror or type(error).__name__).lower()
        why = "connection refused" if "connect call failed" in why or "refused" in why else why
    return Exchange(end="unreachable", why=why)


def request(
    place: Place,
    method: str,
    path: str,
    body: bytes | None = None,
    fields: Iterable[tuple[str, str]] = (),
    *,
    chunked: bool = False,
) -> list[bytes]:
    """A request as its head and pieces of its body. The key of the place is in it."""
    lines = [f"{method} {place.prefix}{path} HTTP/1.1", f"Host: {place.authority}", "User-Agent: gomodel-doctor"]
    lines += [f"{name}: {value}" for name, value in fields]
    if place.key is not None:
        lines.append(f"Authorization: Bearer {place.key.reveal()}")
    if body is not None:
        lines.append("Content-Type: application/json")
        lines.append("Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    if body is None:
        return [head]
    if not chunked:
        return [head, body]
    half = len(body) // 2
    return [head, *(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:])), b"0\r\n\r\n"]
