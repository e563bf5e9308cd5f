"""The request body as it arrives: read in pieces, counted against the limit, ended when it stalls.

Decides when an upload is too large, too slow or broken. Knows nothing of what is in it or where it goes.
"""

from time import monotonic

from ..errors import BodyTooLarge, RequestTimeout
from ..telemetry.record import Phase, Record
from .request import Request


class RequestBody:
    """One request's body."""

    __slots__ = ("_limit", "_payload", "_record", "_request")

    def __init__(self, request: Request, limit_bytes: int) -> None:
        """Raises BodyTooLarge for a declared length over the limit, before a byte is read (contract section 1)."""
        length = request.fields.content_length
        if length is not None and length > limit_bytes:
            raise too_large(limit_bytes)
        self._request = request
        self._payload = request.payload
        self._record: Record = request.record
        self._limit = limit_bytes

    @property
    def arrived(self) -> bool:
        """Whether nothing more has to be waited for."""
        return self._payload.is_eof()

    @property
    def exhausted(self) -> bool:
        """Whether all of it has been read."""
        return self._payload.at_eof()

    def held(self) -> bytes:
        """All that has arrived and was not read yet. Raises BodyTooLarge, BadRequest for broken framing."""
        return self._count(self._payload.read_nowait())

    async def read(self) -> bytes:
        """The next piece as soon as there is one, b"" at the end.

        Raises BodyTooLarge, RequestTimeout after HTTP_REQUEST_IDLE_TIMEOUT of silence, BadRequest for broken framing,
        ConnectionResetError when the client has left.
        """
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
