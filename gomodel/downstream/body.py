"""A request's body: read in pieces as it arrives, held as far as it has to be before it is sent on, then passed on.

Decides when an upload is too large, too slow or broken, and where the bytes wait: in memory while there are few, in a
file beyond. Knows nothing of what is in it or where it goes.
"""

from time import monotonic
from typing import Protocol

from ..errors import BodyTooLarge, RequestTimeout
from ..telemetry.record import Phase, Record
from .request import Request
from .spool import Spool

# An audio file before the `model` field must not be held in memory, by many clients at once (contract section 4).
IN_MEMORY_BYTES = 256 << 10


class Source(Protocol):
    """Brings a body piece by piece; b"" at the end."""

    async def read(self) -> bytes: ...


class RequestBody:
    """One request's body: held as far as it is wanted and `cut`, then sent as what `release` and `read` bring.

    To be closed by who calls `read_on` with `spill`.
    """

    __slots__ = ("_limit", "_payload", "_record", "_request", "_spool", "held", "removed_bytes")

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
        self.held: bytes | bytearray = b""  # what of it was read and waits in memory
        self.removed_bytes = 0

    @property
    def arrived(self) -> bool:
        """Whether nothing more has to be waited for."""
        return self._payload.is_eof()

    def hold_arrived(self) -> bytes:
        """Hold, and return, all that has arrived by now; nothing may have been read before.

        Raises BodyTooLarge, BadRequest for broken framing.
        """
        self.held = arrived = self._count(self._payload.read_nowait())
        return arrived

    async def read_on(self, *, spill: bool = False) -> bytes:
        """Hold the next piece and return it, b"" at the end; with `spill` on disk once it is too much for memory.

        Raises what `read` does, and Overloaded when the disk takes no more.
        """
        piece = await self._read()
        held = self.held
        if not piece:
            return piece
        if self._spool is not None or (spill and len(held) + len(piece) > IN_MEMORY_BYTES):
            self._spill(piece)
        elif not held:
            self.held = piece
        elif isinstance(held, bytearray):
            held += piece
        else:
            self.held = bytearray(held)
            self.held += piece
        return piece

    def _spill(self, piece: bytes) -> None:
        if self._spool is None:
            self._spool = Spool()
            self._spool.write(self.held)
            self.held = b""
        self._spool.write(piece)

    def cut(self, at: int, size: int) -> None:
        """Leave out `size` bytes at offset `at` of what is held. To be called once at the most."""
        self.removed_bytes = size
        held = self.held
        if self._spool is not None:
            self._spool.cut(at, size)
        elif isinstance(held, bytearray):
            del held[at : at + size]  # moves what stands behind it, and copies nothing else
        else:
            self.held = held[:at] + held[at + size :]

    @property
    def complete(self) -> bool:
        """Whether all of it has been read."""
        return self._payload.at_eof()

    def release(self) -> tuple[bytes | bytearray, Source | None]:
        """What waits in memory, which is the caller's from now on, and what brings the rest; None when that is all."""
        held, self.held = self.held, b""
        return held, None if self._spool is None and self._payload.at_eof() else self

    async def read(self) -> bytes:
        """The next piece of what waits on disk, then of what arrives, as soon as there is one; b"" at the end.

        Raises BodyTooLarge, RequestTimeout after HTTP_REQUEST_IDLE_TIMEOUT of silence, BadRequest for broken framing,
        ConnectionResetError when the client has left.
        """
        if self._spool is not None and (piece := self._spool.read()):
            return piece
        return await self._read()

    def rewind(self) -> None:
        """Let `read` begin at the start of what waits on disk once more."""
        if self._spool is not None:
            self._spool.rewind()

    def close(self) -> None:
        """Free the file, if there is one."""
        if self._spool is not None:
            self._spool.close()

    async def _read(self) -> bytes:
        payload = self._payload
        if not payload.is_eof():
            request = self._request
            if request.protocol.transport is None:
                raise ConnectionResetError("The client has left.")
            # "100 Continue" goes out when the key is known to be good and the bytes are wanted (RFC 9110 10.1.1).
            if request.fields.expect and not request.started and not request.http_10:
                request.fields.expect = b""
                request.protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # What it sends is no sign of life from a client that does not read.
            if self._record.phase is not Phase.WRITE:
                self._record.enter(Phase.REQUEST, monotonic(), self)
        return self._count(await payload.readany())

    def _count(self, piece: bytes) -> bytes:
        record = self._record
        record.bytes_in += len(piece)
        if record.bytes_in > self._limit:
            raise too_large(self._limit)
        return piece

    def overdue(self, phase: Phase) -> None:
        """The upload stalled."""
        self._record.blame("client", RequestTimeout.code)
        self._payload.set_exception(RequestTimeout("The request body stopped arriving."))


def too_large(limit_bytes: int) -> BodyTooLarge:
    """The 413, with the limit and the setting that moves it."""
    return BodyTooLarge(f"The request body is over the limit of {limit_bytes} bytes (BODY_SIZE_LIMIT).")
