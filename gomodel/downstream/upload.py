"""A request body that is still arriving: what has come waits here for the one who reads it.

Decides when the client is held back: while anything waits and nobody asks for more, so that a stalled upload costs one
read of the socket and not two. Knows nothing of framing.
"""

import asyncio
from collections import deque
from typing import Protocol

# What may wait before the client is held back; small pieces of a fast upload need not stop it each time.
HIGH_BYTES = 1 << 16


class Pausable(Protocol):
    """The connection it comes over."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Upload:
    """One body, read by one reader; what `RequestBody` asks of it."""

    __slots__ = ("_connection", "_ended", "_error", "_paused", "_pieces", "_waiter", "waiting_bytes")

    def __init__(self, connection: Pausable) -> None:
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._paused = False
        self.waiting_bytes = 0

    def feed(self, data: bytes) -> None:
        """A piece has arrived."""
        if not data:
            return
        self._pieces.append(data)
        self.waiting_bytes += len(data)
        self._wake()
        if self.waiting_bytes >= HIGH_BYTES and not self._paused:
            self._paused = True
            self._connection.pause_reading()

    def end(self) -> None:
        """All of it has arrived."""
        self._ended = True
        self._wake()
        self._resume()

    def set_exception(self, error: BaseException) -> None:
        """Nothing more will come; whoever reads is told why, at once."""
        self._error = error
        self._wake()

    def is_eof(self) -> bool:
        return self._ended

    def at_eof(self) -> bool:
        return self._ended and not self._pieces

    def read_nowait(self) -> bytes:
        """All that waits. Raises what `set_exception` was told."""
        if self._error is not None:
            raise self._error
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self.waiting_bytes = 0
        return data

    async def readany(self) -> bytes:
        """All that waits, as soon as there is something; b"" at the end. Raises what `set_exception` was told."""
        while not self._pieces and not self._ended and self._error is None:
            self._resume()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return self.read_nowait()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._connection.resume_reading()
