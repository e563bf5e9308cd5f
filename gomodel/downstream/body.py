"""A request's body: read in pieces as it arrives, held as far as it has to be before it is sent on, then passed on.

Decides when an upload is too large, too slow or broken, and where the bytes wait: in memory while there are few, in a
file beyond. Knows nothing of what is in it or where it goes.
"""

import asyncio
from collections.abc import Callable, Iterator
from time import monotonic

from ..errors import BodyTooLarge, RequestTimeout
from ..telemetry.record import CLIENT, GATEWAY, Phase, Record
from .request import Request
from .spool import Spool
from .upload import Upload

# An audio file before the `model` field must not be held in memory, by many clients at once (contract section 4).
IN_MEMORY_BYTES = 256 << 10


# So many pieces of a body that comes in tiny ones are made one, or what holds them would be more than what they hold.
_PIECES = 1024


class RequestBody:
    """One request's body: held as far as it is wanted and `cut`, then sent as what `release` and `take` bring.

    To be closed by who calls `read_on` with `spill`.
    """

    __slots__ = ("_continued", "_limit", "_payload", "_record", "_request", "_spool", "held", "removed_bytes")

    def __init__(self, request: Request, limit_bytes: int) -> None:
        """Raises BodyTooLarge for a declared length over the limit, before a byte is read (contract section 1)."""
        length = request.fields.content_length
        if length is not None and length > limit_bytes:
            raise too_large(limit_bytes)
        self._request = request
        self._payload = request.payload
        self._record: Record = request.record
        self._limit = limit_bytes
        self._spool: Spool | None = None
        self.held: list[bytes] = []  # what of it was read and waits in memory, in pieces
        self.removed_bytes = 0
        self._continued = False

    @property
    def arrived(self) -> bool:
        """Whether nothing more has to be waited for."""
        return self._payload.is_eof()

    @property
    def complete(self) -> bool:
        """Whether all of it has been read."""
        return self._payload.at_eof()

    @property
    def spooled(self) -> bool:
        """Whether what was read of it waits on disk."""
        return self._spool is not None

    def hold_arrived(self) -> bytes:
        """Hold, and return, all that has arrived by now. Raises BodyTooLarge, BadRequest for broken framing."""
        piece = self._payload.read_nowait()
        if piece:
            record = self._record
            record.bytes_in += len(piece)
            if record.waits_for is CLIENT:
                record.wait_for(GATEWAY, monotonic())
            if record.bytes_in > self._limit:
                raise too_large(self._limit)
            self.held.append(piece)
            if len(self.held) > _PIECES:
                self._join()
        return piece

    def holds(self, piece: bytes) -> bool:
        """Hold a piece that a borrower was shown; False for too much, which is for `hold_arrived` to refuse."""
        if not self.passes(len(piece)):
            return False
        self.held.append(piece)
        if len(self.held) > _PIECES:
            self._join()
        return True

    async def wait(self) -> None:
        """Return when there is more to hold, or its end. Raises ConnectionResetError when the client has left."""
        if not self._payload.is_eof():
            if self._request.protocol.transport is None:
                await asyncio.sleep(0)  # where the task is told of it
            self._want()
            await self._payload.wait()

    async def read_on(self, *, spill: bool = False) -> bytes:
        """Hold the next piece and return it, b"" at the end; with `spill` on disk once it is too much for memory.

        Raises what `take` does, and Overloaded when the disk takes no more.
        """
        await self.wait()
        piece = self._payload.read_nowait()
        if not piece:
            return piece
        self._count(piece)
        if self._spool is not None or (spill and sum(map(len, self.held)) + len(piece) > IN_MEMORY_BYTES):
            self._spill(piece)
        else:
            self.held.append(piece)
            if len(self.held) > _PIECES:
                self._join()
        return piece

    def _join(self) -> None:
        self.held[:] = [b"".join(self.held)]

    def _spill(self, piece: bytes) -> None:
        if self._spool is None:
            self._spool = Spool()
            for each in self.held:
                self._spool.write(each)
            self.held.clear()
        self._spool.write(piece)

    @property
    def held_bytes(self) -> int:
        """How much of it waits in memory."""
        return sum(map(len, self.held))

    def beginning(self, size: int) -> bytes:
        """The first `size` bytes of what waits in memory."""
        held = self.held
        return (held[0] if len(held) == 1 else b"".join(held))[:size]

    def waiting(self) -> Iterator[bytes]:
        """The pieces of what is held, from its start, in memory or on disk; to be called before it is `cut`."""
        if self._spool is None:
            yield from self.held
            return
        while piece := self._spool.read():
            yield piece
        self._spool.rewind()

    def cut(self, at: int, size: int, instead: bytes = b"") -> None:
        """Leave out `size` bytes at offset `at` of what is held, or send others. To be called once at the most."""
        self.removed_bytes = size - len(instead)
        if self._request.digest is not None:
            held = b"".join(self.held)[at : at + size] if self._spool is None else self._spool.peek(at, size)
            self._request.digest.cuts(at, held, instead)
        if self._spool is not None:
            self._spool.cut(at, size, instead)
            return
        if len(self.held) == 1:
            [piece] = self.held
            self.held = [piece[:at] + instead, piece[at + size :]]
            return
        left: list[bytes] = []
        for piece in self.held:
            if not size or at >= len(piece):
                left.append(piece)
                at -= len(piece)
                continue
            end = at + size
            left += piece[:at], instead, piece[end:]
            instead = b""
            size = max(0, end - len(piece))
            at = 0
        self.held = left

    def release(self) -> tuple[list[bytes], "RequestBody | None"]:
        """What waits in memory, which is the caller's from now on, and what brings the rest; None when that is all."""
        held, self.held = self.held, []
        return held, None if self._spool is None and self._payload.at_eof() else self

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call `listener` whenever there may be something to `take`, until there is another or None; lend to nobody."""
        payload = self._payload
        if isinstance(payload, Upload):
            payload.listener = listener
            payload.borrower = None

    def lend(self, borrower: Callable[[list[memoryview]], bool]) -> None:
        """Show what comes of a body that is not spooled to `borrower`, while it stands in the buffer of the read."""
        payload = self._payload
        if isinstance(payload, Upload) and self._spool is None:
            payload.lend(borrower)

    def passes(self, size: int) -> bool:
        """Count `size` bytes that a borrower is done with; False for too many, which are for `take` to refuse."""
        record = self._record
        if record.bytes_in + size > self._limit:
            return False
        record.bytes_in += size
        record.since = monotonic()
        return True

    def take(self) -> list[bytes]:
        """The next piece of what waits on disk, or all that has arrived; nothing at the end, or when more has to come.

        Raises BodyTooLarge, RequestTimeout after HTTP_REQUEST_IDLE_TIMEOUT of silence, BadRequest for broken framing.
        """
        if self._spool is not None and (piece := self._spool.read()):
            return [piece]
        pieces = self._payload.take()
        for piece in pieces:
            self._count(piece)
        return pieces

    @property
    def waiting_bytes(self) -> int:
        """What has arrived and was not taken."""
        payload = self._payload
        return payload.waiting_bytes if isinstance(payload, Upload) else 0

    def ask(self) -> None:
        """More of it is wanted. Raises ConnectionResetError when the client has left."""
        payload = self._payload
        self._want()
        if isinstance(payload, Upload):
            payload.ask()

    def rewind(self) -> None:
        """Let `take` begin at the start of what waits on disk once more."""
        if self._spool is not None:
            self._spool.rewind()

    def close(self) -> None:
        """Free the file, if there is one."""
        if self._spool is not None:
            self._spool.close()

    def _want(self) -> None:
        """It is the client's turn."""
        request = self._request
        if request.protocol.transport is None:
            raise ConnectionResetError("The client has left.")
        # "100 Continue" goes out when the key is known to be good and the bytes are wanted (RFC 9110 10.1.1).
        if request.fields.expect and not (self._continued or request.started or request.http_10):
            self._continued = True
            request.protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # What it sends is no sign of life from a client that does not read.
        if self._record.phase is not Phase.WRITE:
            self._record.enter(Phase.REQUEST, monotonic(), self)

    def _count(self, piece: bytes) -> None:
        record = self._record
        record.bytes_in += len(piece)
        if record.waits_for is CLIENT and record.phase is not Phase.WRITE:
            record.wait_for(GATEWAY, monotonic())
        if record.bytes_in > self._limit:
            raise too_large(self._limit)

    def overdue(self, phase: Phase) -> None:
        """The upload stalled."""
        self._record.blame("client", RequestTimeout.code)
        self._payload.set_exception(RequestTimeout("The request body stopped arriving."))


def too_large(limit_bytes: int) -> BodyTooLarge:
    """The 413, with the limit and the setting that moves it."""
    return BodyTooLarge(f"The request body is over the limit of {limit_bytes} bytes (BODY_SIZE_LIMIT).")
