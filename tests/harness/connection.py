"""One connection at a scripted upstream: runs its script and keeps the transcript of what was asked on it.

Knows nothing of listening; which script a request gets is the upstream's decision.
"""

import asyncio
import socket
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from .oracles import RequestMessage
from .steps import ReadBody, ReadHead, ReadRequest, Step
from .tls import TlsWire
from .wire import PeerGone, Signal, Wire

if TYPE_CHECKING:
    from .upstream import ScriptedUpstream


class Request(RequestMessage):
    """A request and what became of it; `done` is set when the last byte of its body was read."""

    def __init__(self, connection: "Connection") -> None:
        super().__init__()
        self.connection = connection
        self.is_probe = False
        self.done = Signal("the end of a request's body")

    def feed(self, data: bytes) -> None:
        had_head = self.has_head
        super().feed(data)
        if self.has_head and not had_head:
            self.connection.upstream.register(self)
        if self.complete:
            self.done.set()

    @property
    def ended(self) -> str | None:
        """How the client left its connection ("fin", "reset"), None while it is still there."""
        return self.connection.wire.ended.value


class Connection:
    """One accepted connection. `closed` is a Signal: awaiting it tells how the client ended, `closed.at` when.

    `over` comes later: everything the client had sent is in the transcript and this side is closed as well.
    """

    def __init__(self, upstream: "ScriptedUpstream", sock: socket.socket, number: int) -> None:
        self.upstream = upstream
        name = f"upstream connection {number}"
        self.wire = TlsWire(sock, name, server_side=True) if upstream.tls else Wire(sock, name)
        self.reached_at = str(sock.getsockname()[0]) if sock.family != socket.AF_UNIX else ""  # the listener's address
        self.requests: list[Request] = []
        self.over = Signal(f"the script on upstream connection {number} to be over")
        self.cut = False
        self._untouched = False
        self._pending = b""

    @property
    def closed(self) -> Signal:
        return self.wire.ended

    @property
    def current(self) -> Request | None:
        """The request that is being read or answered."""
        return self.requests[-1] if self.requests else None

    async def until(self, awaited: Awaitable[Any]) -> None:
        """Waits, but not beyond the life of the connection: PeerGone when the client leaves first."""
        task = asyncio.ensure_future(awaited)
        ended = asyncio.ensure_future(self.wire.ended.wait(3600))
        try:
            await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise PeerGone(f"{self.wire.name} ended while the script waited")
            task.result()
        finally:
            for each in (task, ended):
                each.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)

    async def more(self) -> None:
        """Waits for further bytes and keeps them for the next request."""
        if not self._pending:
            self._pending = await self.wire.read()
            if not self._pending:
                raise PeerGone(f"{self.wire.name} ended")

    async def read_head(self) -> Request:
        """The request at hand when no step has read of it yet or it is incomplete, else the next one."""
        current = self.current
        if current is None or ((current.complete or current.malformed) and not self._untouched):
            await self.more()
            self.requests.append(Request(self))
        self._untouched = False
        request = self.requests[-1]
        while not request.has_head and not request.malformed:
            await self._feed(request)
        return request

    async def read_body(self, at_least: int | None = None) -> None:
        """Reads on in the request at hand, to its end or until `at_least` body bytes are there."""
        self._untouched = False
        request = self.requests[-1]
        while not request.complete and not request.malformed:
            if at_least is not None and len(request.body) >= at_least:
                return
            await self._feed(request)

    async def _feed(self, request: Request) -> None:
        if not self._pending:
            self._pending = await self.wire.read()
        data, self._pending = self._pending, b""
        request.feed(data)
        self._pending = request.leftover
        if not data:
            raise PeerGone(f"{self.wire.name} ended inside a request")

    async def run(self, step: "Step | bytes") -> None:
        if self.wire.closed:
            raise PeerGone(f"{self.wire.name} is closed by its script")
        await (self.wire.send(step) if isinstance(step, bytes) else step(self))

    async def serve(self, steps: tuple["Step | bytes", ...]) -> None:
        """Runs the steps for the connection, then those of each request, until somebody closes."""
        try:
            if isinstance(self.wire, TlsWire):
                await self.wire.handshake()
            for step in steps:
                await self.run(step)
            while not self.wire.closed:
                if self.current is not None:
                    await self.read_body()
                if self.wire.shut:
                    await self._drain()
                    return
                await self._answer(await self.read_head())
        except PeerGone:
            self.cut = True
            await self._drain()
        finally:
            self.wire.close()
            self.over.set()

    async def _answer(self, request: Request) -> None:
        steps = self.upstream.steps_for(request)
        self._untouched = True
        if not steps or not isinstance(steps[0], ReadHead | ReadBody | ReadRequest):
            await self.read_body()
        for step in steps:
            await self.run(step)

    async def _drain(self) -> None:
        """Reads what is left to the end of the connection; it belongs to the transcript, and nothing answers it."""
        while data := self._pending or await self.wire.read():
            self._pending = b""
            if self.current is None or self.current.complete:
                self.requests.append(Request(self))
            self.requests[-1].feed(data)
            self._pending = self.requests[-1].leftover
