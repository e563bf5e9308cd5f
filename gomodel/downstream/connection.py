"""The transport side of a client connection: backpressure, noticing that the client has left, and how it ends.

Decides how often a client that is not read from is looked at, how long one that does not read is waited for, and which
end no client can take for a clean one. Knows nothing of requests. Leans on aiohttp's `_reading_paused`,
`_drain_helper`, `_drain_waiter`, `_pause_transport_reading` and the slot `_task_handler`; see `task`.
"""

import asyncio
import socket
from time import monotonic
from typing import Any

from aiohttp.web_protocol import RequestHandler

from ..host.kernel import peer_closed, reset_on_close, unsent
from .request import Pausing

# How often a client that is not read from is looked at; within what rule 3 of the contract allows.
LOOK_S = 0.03


class ClientConnection(RequestHandler):
    """A connection that a client opened."""

    __slots__ = ("_ending", "_look", "_lost", "_unsent", "client", "feeder", "left_at", "write_idle_s")

    # The asyncio.Task that serves it: aiohttp's slot by a public name, so that reading it is no call.
    task: Any = vars(RequestHandler)["_task_handler"]

    def __init__(self, manager: Any, *, write_idle_s: float, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self.write_idle_s = write_idle_s
        self.feeder: Pausing | None = None
        self._lost = False
        self._look: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._unsent = 0  # when writing was paused or `progressed` was last asked
        self.client = ""  # the peer's address
        self.left_at = 0.0  # when it was noticed, by time.monotonic, that the client has left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What aiohttp's does besides: TCP_NODELAY, which every event loop sets itself.
        self.transport = transport  # type: ignore[assignment]
        self._manager.connection_made(self, transport)  # type: ignore[union-attr, arg-type]
        if self._keepalive_timeout > 0:
            self._next_keepalive_close_time = due = self._loop.time() + self._keepalive_timeout
            self._keepalive_handle = self._loop.call_at(due, self._process_keepalive)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]).removeprefix("::ffff:") if isinstance(peer, tuple) else "unix"

    def eof_received(self) -> None:
        """A FIN: the client has left (README). asyncio would first send what waits, to one that reads no more."""
        if self.feeder is not None:
            self.left_at = monotonic()
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.left_at = self.left_at or monotonic()
        self._lost = True  # before aiohttp closes once more
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        super().connection_lost(exc)

    def _pause_transport_reading(self) -> None:
        super()._pause_transport_reading()
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._look_for_the_end)

    def _resume_transport_reading(self) -> None:
        super()._resume_transport_reading()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_for_the_end(self) -> None:
        """A client that leaves while it is not read from shows in the kernel's state alone."""
        self._look = None
        if self.transport is None:
            return
        if peer_closed(self.transport):
            self.left_at = monotonic()
            self.abort()
        else:
            self._look = self._loop.call_later(LOOK_S, self._look_for_the_end)

    def pause_reading(self) -> None:
        """Whoever reads the upload does not keep up."""
        self._reading_paused = True
        self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """It does again."""
        self._reading_paused = False
        if not self._buffer_paused:
            self._resume_transport_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = unsent(self.transport)
        if self.feeder is not None:
            self.feeder.hold()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.feeder is not None:
            self.feeder.release()

    def progressed(self) -> bool:
        """Whether the client has read anything since writing was paused, or since this was last asked.

        The transport says nothing until megabytes in the kernel are gone, which takes a slow client longer than any
        limit for one that does not read.
        """
        before, self._unsent = self._unsent, unsent(self.transport)
        return self._unsent < before

    async def _drained(self) -> bool:
        """Take no further request from a client that has not read its answers; whether it did in time."""
        while True:
            try:
                async with asyncio.timeout(self.write_idle_s):
                    await self._drain_helper()
            except TimeoutError:
                self._drain_waiter = None  # cancelled with the wait
                if not self.progressed():
                    self.abort()
                    return False
            except ConnectionError:
                return False
            else:
                return True

    @property
    def resettable(self) -> bool:
        """Whether an end of the connection that breaks off can be told from one that was meant.

        Over TLS a missing close_notify is all the sign there is, and common clients take no notice of it; a unix
        socket knows no reset.
        """
        transport = self.transport
        return (
            transport is not None
            and transport.get_extra_info("sslcontext") is None
            and transport.get_extra_info("socket").family != socket.AF_UNIX
        )

    def truncate(self, *, close_delimited: bool) -> None:
        """End the connection so that no client can take what it has for a whole answer.

        What was written before is delivered. Without the last chunk, or short of Content-Length, a FIN says enough;
        a close-delimited body needs a reset (RFC 9112 8), so it may begin only where the connection is `resettable`.
        A client that does not read is cut off after the write limit.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if close_delimited:
            if transport.get_extra_info("sslcontext") is not None:
                transport.abort()  # closing would send close_notify, a clean end
                return
            reset_on_close(transport)
        self._end(transport)

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        if transport is not None:
            self._end(transport)

    def _end(self, transport: asyncio.Transport, before: int | None = None) -> None:
        """Close when all is sent. A client that stops reading is cut off, or it would keep the descriptor for ever."""
        if self._lost:
            return
        left = unsent(transport)
        if left and left == before:
            transport.abort()
            return
        transport.close()
        if left:
            self._ending = self._loop.call_later(self.write_idle_s, self._end, transport, left)

    def abort(self) -> None:
        """Drop the connection and what was not sent yet."""
        if self.transport is not None:
            self.transport.abort()
