"""What a scripted upstream can be told to do, one small object per act, and the bytes it is told to send.

A step is anything that can be awaited as `step(connection)`; plain bytes in a script mean Send. Knows nothing of
listening or dispatch.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .wire import let_peers_run

if TYPE_CHECKING:
    from .upstream import Connection

Step = Callable[["Connection"], Awaitable[None]]
Fields = Iterable[tuple[str, str]]

LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ReadHead:
    """Reads a request's head and no further; as a script's first step it leaves the body unread."""

    async def __call__(self, connection: "Connection") -> None:
        await connection.read_head()


@dataclass(frozen=True, slots=True)
class ReadBody:
    """Reads on until `at_least` decoded body bytes are there; without a number until the request is complete."""

    at_least: int | None = None

    async def __call__(self, connection: "Connection") -> None:
        await connection.read_body(self.at_least)


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Reads what is left of the current request, or all of the next one when that is complete."""

    async def __call__(self, connection: "Connection") -> None:
        await connection.read_head()
        await connection.read_body()


@dataclass(frozen=True, slots=True)
class Send:
    """Sends the bytes at once."""

    data: bytes

    async def __call__(self, connection: "Connection") -> None:
        await connection.wire.send(self.data)


@dataclass(frozen=True, slots=True)
class SendPieces:
    """Sends the pieces as so many segments: whoever reads on this loop gets each by itself."""

    pieces: tuple[bytes, ...]

    async def __call__(self, connection: "Connection") -> None:
        await send_pieces(connection.wire, self.pieces)


def SendByteByByte(data: bytes) -> SendPieces:
    """Sends each byte as a segment of its own."""
    return SendPieces(tuple(data[i : i + 1] for i in range(len(data))))


@dataclass(frozen=True, slots=True)
class Dribble:
    """Sends `size` bytes every `every_s` seconds until the data is out."""

    data: bytes
    size: int = 1
    every_s: float = 0.01

    async def __call__(self, connection: "Connection") -> None:
        for start in range(0, len(self.data), self.size):
            await connection.wire.send(self.data[start : start + self.size])
            await connection.until(asyncio.sleep(self.every_s))


@dataclass(frozen=True, slots=True)
class Repeat:
    """Runs the steps `times` times over."""

    times: int
    steps: tuple["Step | bytes", ...]

    async def __call__(self, connection: "Connection") -> None:
        for _ in range(self.times):
            for step in self.steps:
                await connection.run(step)


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Goes on when the test sets the event; ends the script when the peer leaves before."""

    event: asyncio.Event

    async def __call__(self, connection: "Connection") -> None:
        await connection.until(self.event.wait())


@dataclass(frozen=True, slots=True)
class Set:
    """Tells the test that the script came this far."""

    event: asyncio.Event

    async def __call__(self, connection: "Connection") -> None:
        self.event.set()


@dataclass(frozen=True, slots=True)
class Stall:
    """Neither reads nor sends until the test calls release(); ends the script when the peer leaves before."""

    async def __call__(self, connection: "Connection") -> None:
        await connection.until(connection.upstream.released.wait())


@dataclass(frozen=True, slots=True)
class Fin:
    """Sends FIN and keeps the read side, so that the peer's own close can be observed."""

    async def __call__(self, connection: "Connection") -> None:
        connection.wire.half_close()


@dataclass(frozen=True, slots=True)
class Close:
    """Closes as a server's close(2) does: FIN, or RST when request bytes were left unread."""

    async def __call__(self, connection: "Connection") -> None:
        connection.wire.close()


@dataclass(frozen=True, slots=True)
class Reset:
    """Sends RST."""

    async def __call__(self, connection: "Connection") -> None:
        connection.wire.reset()


@dataclass(frozen=True, slots=True)
class CloseWhenIdle:
    """Closes after `after_s` without another byte, as a server's keep-alive timeout does."""

    after_s: float

    async def __call__(self, connection: "Connection") -> None:
        try:
            async with asyncio.timeout(self.after_s):
                await connection.until(connection.more())
        except TimeoutError:
            connection.wire.close()


async def send_pieces(wire: Any, pieces: Iterable[bytes]) -> None:
    """Sends the pieces one by one, giving every other party on the loop the time to read each."""
    for piece in pieces:
        await wire.send(piece)
        await let_peers_run()


def head(status: int = 200, headers: Fields = (), reason: str = "X") -> bytes:
    """A response head; nothing is added to the fields given."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def response(body: bytes = b"", status: int = 200, headers: Fields = (), reason: str = "X") -> bytes:
    """A complete response with Content-Length as its last field."""
    return head(status, [*headers, ("Content-Length", str(len(body)))], reason) + body


def json_response(content: Any, status: int = 200, headers: Fields = ()) -> bytes:
    return response(json.dumps(content).encode(), status, [("Content-Type", "application/json"), *headers])


def chunked(*pieces: bytes) -> bytes:
    """Each piece as one chunk; LAST_CHUNK is not among them."""
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


SSE_HEAD = head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])


def sse_event(content: Any) -> bytes:
    """One event of a stream, unframed; a str goes as it is, anything else as JSON."""
    return b"data: " + (content if isinstance(content, str) else json.dumps(content)).encode() + b"\n\n"


def sse(events: Iterable[Any], *, complete: bool = True) -> bytes:
    """A chunked event stream, one chunk per event; without the last chunk unless `complete`."""
    return SSE_HEAD + chunked(*(sse_event(event) for event in events)) + (LAST_CHUNK if complete else b"")
