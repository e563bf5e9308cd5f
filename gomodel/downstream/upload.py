"""A request body that is still arriving: what has come waits here for the one who reads it.

Decides when the client is held back: while anything waits and nobody asks for more, so that a stalled upload costs one
read of the socket and not two. Knows nothing of framing.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..http1.request_fields import RequestFields

# What may wait before the client is held back; small pieces of a fast upload need not stop it each time.
HIGH_BYTES = 1 << 16


class Pausable(Protocol):
    """The connection it comes over."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def lend_reads(self) -> None: ...


class Upload:
    """One body, read by one reader; what `RequestBody` asks of it.

    A `listener` is called whenever there may be something to `take`: more of it, its end, or why there is no more. It
    is for who need not wait; who has to wait calls `wait`. A `borrower` is shown what comes as it stands in the buffer
    of the read, and says whether it is done with it; else it waits here like the rest.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_error",
        "_observer",
        "_paused",
        "_pieces",
        "_waiter",
        "borrower",
        "fields",
        "listener",
        "waiting_bytes",
    )

    def __init__(self, connection: Pausable, fields: RequestFields | None = None) -> None:
        """`fields` are those of the head it came with, when that is known."""
        self.fields = fields
        self.listener: Callable[[], None] | None = None
        self.borrower: Callable[[list[memoryview]], bool] | None = None
        self._connection = connection
        self._pieces: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._observer: Callable[[bytes], None] | None = None
        self._ended = False
        self._paused = False
        self.waiting_bytes = 0

    def feed(self, data: bytes, last: bool = False) -> None:
        """A piece has arrived; with the `last` one all of it has."""
        if data:
            self._pieces.append(data)
            self.waiting_bytes += len(data)
            if self._observer is not None:
                self._observer(data)
        elif not last:
            return
        if last:
            self._ended = True
        self._tell()
        if last:
            self.ask()

    def observe(self, observer: Callable[[bytes], None]) -> None:
        """Show every piece to `observer`, as it comes; to be called before any is taken."""
        for piece in self._pieces:
            observer(piece)
        self._observer = observer

    def lend(self, borrower: Callable[[list[memoryview]], bool]) -> None:
        """Show what comes from now on to `borrower` first, unless somebody observes it."""
        if self._observer is None:
            self.borrower = borrower
            self._connection.lend_reads()

    def limit(self) -> None:
        """Whoever reads it has had the opportunity: hold the client back where too much waits."""
        if self.waiting_bytes >= HIGH_BYTES and not (self._paused or self._ended):
            self._paused = True
            self._connection.pause_reading()

    def set_exception(self, error: BaseException) -> None:
        """Nothing more will come; whoever reads is told why, at once."""
        self._error = error
        self._tell()

    def is_eof(self) -> bool:
        return self._ended

    def at_eof(self) -> bool:
        return self._ended and not self._pieces

    def take(self) -> list[bytes]:
        """All that waits, as it came. Raises what `set_exception` was told."""
        if self._error is not None:
            raise self._error
        pieces = list(self._pieces)
        self._pieces.clear()
        self.waiting_bytes = 0
        return pieces

    def read_nowait(self) -> bytes:
        """All that waits, in one. Raises what `set_exception` was told."""
        pieces = self.take()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def wait(self) -> None:
        """Return when something waits, at the end, or when `set_exception` is told why there is none."""
        while not self._pieces and not self._ended and self._error is None:
            self.ask()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def ask(self) -> None:
        """More is wanted: the client is held back no longer."""
        if self._paused:
            self._paused = False
            self._connection.resume_reading()

    def _tell(self) -> None:
        if self.listener is not None:
            self.listener()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
