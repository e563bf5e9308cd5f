"""A relay that writes down what passes: it listens, forwards every byte as it is, and keeps a journal of both ways.

Decides what belongs to which exchange, and who ended it. The journal never holds up the relay; when it ends, the relay
goes on. Bytes that are no HTTP/1.1 pass and are not recorded.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from ..host.kernel import reset_on_close
from . import lines
from .credentials import without_credentials
from .journal import Journal
from .lines import End
from .messages import SWITCHING, Head, Kind, Messages

_READ_BYTES = 1 << 16


class Target(NamedTuple):
    """Where the bytes go."""

    host: str
    port: int
    unix_socket: str | None
    tls: ssl.SSLContext | None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection. Raises OSError."""
        if self.unix_socket is not None:
            return await asyncio.open_unix_connection(self.unix_socket, ssl=self.tls)
        return await asyncio.open_connection(self.host, self.port, ssl=self.tls)


class Recorder:
    """Serves connections with `serve`. `exchanges`: how many have begun."""

    def __init__(self, target: Target, journal: Journal) -> None:
        self._target = target
        self._journal = journal
        self._started = asyncio.get_running_loop().time()
        self.exchanges = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client's, to its end."""
        try:
            there, out = await self._target.open()
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(self)
        try:
            pumps = (
                _pump(reader, out, connection.from_client, connection.client_ended, connection.server_fails),
                _pump(there, writer, connection.from_server, connection.server_ended, connection.client_fails),
            )
            await asyncio.gather(*pumps)
        finally:
            connection.over()
            for each in (writer, out):
                each.transport.abort()

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    def begin(self) -> int:
        """The number of a new exchange."""
        self.exchanges += 1
        return self.exchanges

    def head(self, exchange: int, side: str, head: bytes) -> None:
        self._journal.say(lines.head_line(exchange, self.now(), side, without_credentials(head)), len(head))

    def piece(self, exchange: int, side: str, data: bytes) -> None:
        self._journal.say(lines.piece_line(exchange, self.now(), side, data), len(data))

    def end(self, exchange: int, how: End, at: float) -> None:
        self._journal.say(lines.end_line(exchange, at, how))


async def _pump(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    taken: Callable[[bytes], None],
    ended: Callable[[bool], None],
    fails: Callable[[], None],
) -> None:
    """Move bytes until their side ends, and let the other know. `fails`: who should take them is gone."""
    reset = False
    try:
        while data := await source.read(_READ_BYTES):
            sink.write(data)
            taken(data)
            try:
                await sink.drain()
            except OSError:
                fails()
                return
    except OSError:
        reset = True
    ended(reset)
    with suppress(OSError, RuntimeError):
        if reset:
            reset_on_close(sink.transport)
            sink.transport.abort()
        elif sink.can_write_eof():
            sink.write_eof()
        else:
            sink.close()


class _Connection:
    """What is known of the exchanges of one connection; the answers come in the order of the requests."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._requests = Messages(responses=False)
        self._responses = Messages(responses=True)
        self._asking = 0  # the exchange whose request is coming
        self._open: deque[int] = deque()  # those that have no end
        self._client_ended_at: float | None = None

    def from_client(self, data: bytes) -> None:
        for part in self._requests.feed(data):
            if part.kind is Kind.HEAD:
                self._asking = self._recorder.begin()
                self._open.append(self._asking)
                self._responses.asked(Head(part.data).method)
                self._recorder.head(self._asking, "client", part.data)
            elif part.kind is Kind.PIECE:
                self._recorder.piece(self._asking, "client", part.data)

    def from_server(self, data: bytes) -> None:
        for part in self._responses.feed(data):
            if not self._open:
                return  # it speaks without being asked
            if part.kind is Kind.HEAD:
                self._recorder.head(self._open[0], "server", part.data)
                if Head(part.data).status == SWITCHING:
                    self._requests.switched()
            elif part.kind is Kind.PIECE:
                self._recorder.piece(self._open[0], "server", part.data)
            else:
                self._recorder.end(self._open.popleft(), End.COMPLETE, self._recorder.now())

    def client_ended(self, reset: bool) -> None:
        """One that says nothing more may still read (RFC 9112 9.6); whether it does, its answer will tell."""
        self._client_ended_at = self._recorder.now()
        if reset:
            self.over()

    def client_fails(self) -> None:
        """It takes no answer any more."""
        if self._client_ended_at is None:
            self._client_ended_at = self._recorder.now()
        self.over()

    def server_fails(self) -> None:
        """What it said before, and how it ended, is still to be read."""

    def over(self) -> None:
        """A client that has ended gets nothing any more: what has no end now it has left."""
        if self._client_ended_at is not None:
            self._all(End.COMPLETE if self._responses.tunnel else End.CLIENT_LEFT, self._client_ended_at)

    def server_ended(self, reset: bool) -> None:
        now = self._recorder.now()
        if self._open and not reset:
            for _ in self._responses.closed():
                self._recorder.end(self._open.popleft(), End.COMPLETE, now)
        if self._responses.tunnel and not reset:
            self._all(End.COMPLETE, now)
        self.over()
        self._all(End.SERVER_RESET if reset else End.SERVER_CLOSED, now)

    def _all(self, how: End, at: float) -> None:
        while self._open:
            self._recorder.end(self._open.popleft(), how, at)
