"""TLS over a plain transport of the event loop: a connection that does not read costs tens of KiB, not a megabyte.

The TLS of asyncio and of uvloop keeps 256 KiB per connection to read into, reads as much at once, and queues of its
own beside those of the transport below it. Here everybody reads into one buffer, what is decrypted goes to the
protocol in the same turn, and what is encrypted belongs to the plain transport, whose limits and counts are therefore
those of the connection. Nothing waits in between. Decides how a connection opens, fails and ends; our close_notify is
sent and nobody waits for the peer's, as RFC 8446 6.1 allows. Knows nothing of sockets and certificates.
"""

import asyncio
import ssl
from typing import Any

from . import plain_http
from .bounded_reads import shared_buffer

# Read at once: two records. OpenSSL keeps a buffer for as much, and a third more, for each connection.
_READ_BYTES = 32 << 10
# The most that a record holds (RFC 8446 5.1).
_RECORD_BYTES = 16 << 10


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """The transport of `protocol`, and the protocol of the plain transport below; made by a protocol factory.

    `protocol` hears of the connection when the handshake is over; of one that fails it hears nothing.
    """

    __slots__ = (
        "_begun",
        "_below",
        "_closing",
        "_context",
        "_error",
        "_incoming",
        "_limit",
        "_limit_s",
        "_loop",
        "_open",
        "_outgoing",
        "_tls",
        "_told",
        "_view",
        "opened",
        "protocol",
    )

    def __init__(
        self,
        protocol: asyncio.Protocol,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        handshake_limit_s: float | None = None,
    ) -> None:
        """Raises ValueError for a name that cannot be asked for. `context` must not allow to renegotiate."""
        super().__init__()
        self.protocol = protocol
        self._context = context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side, server_hostname)
        self._view = shared_buffer(_READ_BYTES)
        self._loop = asyncio.get_running_loop()
        self._below: Any = None  # the plain transport
        self._limit_s = handshake_limit_s
        self._limit: asyncio.TimerHandle | None = None
        self._open = False
        self._begun = self._told = False
        self._closing = False
        self._error: BaseException | None = None
        self.opened: asyncio.Future[None] = self._loop.create_future()

    # What the plain transport says.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport
        if self._limit_s is not None:
            self._limit = self._loop.call_later(self._limit_s, self.abort)
        if not self._tls.server_side:
            self._shake_hands()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(self._view[:nbytes])
        if self._open:
            self._read()
        elif self._told:
            self._below.close()
        elif self._begun or not self._tell(bytes(self._view[:1])):
            self._shake_hands()

    def eof_received(self) -> None:
        """A FIN. Whether the peer had said that it closes is for the protocol to ask `ssl_object`."""
        if self._open:
            self.protocol.eof_received()
        self._closing = True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._closing = True
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if self._open:
            self.protocol.connection_lost(self._error or exc)  # type: ignore[arg-type]
        elif not self.opened.done():
            self.opened.set_exception(self._error or exc or ConnectionResetError())
            self.opened.exception()  # of a server's handshake nobody asks

    def pause_writing(self) -> None:
        if self._open:
            self.protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._open:
            self.protocol.resume_writing()

    def _tell(self, begun: bytes) -> bool:
        """Whether the peer does not speak TLS and has been told so; it closes, or the limit does."""
        self._begun = True
        if self._tls.server_side and (answer := plain_http.answer(begun)):
            self._below.write(answer)
            self._told = True
        return self._told

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return
        except ssl.SSLError as exc:
            self._error = exc
            self._flush()  # what we have to say about it
            self._closing = True
            self._below.close()
            return
        self._flush()
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        self._open = True
        self.protocol.connection_made(self)
        if not self.opened.done():
            self.opened.set_result(None)
        if self._incoming.pending and not self._closing:
            self._read()

    def _read(self) -> None:
        """Decrypt all that is there and hand it over in one piece."""
        incoming, read = self._incoming, self._tls.read
        data, more = b"", []
        parted = False
        error: ssl.SSLError | None = None
        try:
            data = read(_RECORD_BYTES)
            parted = not data
            while incoming.pending and not parted:
                piece = read(_RECORD_BYTES)
                more.append(piece)
                parted = not piece
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as exc:
            error = exc
        if self._outgoing.pending:
            self._flush()
        if data:
            self.protocol.data_received(b"".join((data, *more)) if more else data)
        if error is not None:
            self._fail(error)
        if parted and not self._closing:
            self.protocol.eof_received()
            self.close()

    def _fail(self, exc: ssl.SSLError) -> None:
        self._error = exc
        self.abort()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    # What the protocol asks for.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio.WriteTransport."""
        if self._closing or not data:
            return
        try:
            if len(data) <= _RECORD_BYTES:
                self._tls.write(data)
                self._below.write(self._outgoing.read())
                return
            view = memoryview(data)
            for at in range(0, len(view), _RECORD_BYTES):  # or OpenSSL's buffer grows to the size of it, for ever
                self._tls.write(view[at : at + _RECORD_BYTES])
                self._below.write(self._outgoing.read())
        except ssl.SSLError as exc:
            self._fail(exc)

    def writelines(self, list_of_data: Any) -> None:
        """See asyncio.WriteTransport."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Most clients take a close_notify for the end of both directions."""
        return False

    def close(self) -> None:
        """Send what was written and a close_notify, and close behind them."""
        if self._closing:
            return
        self._closing = True
        if self._open:
            try:
                self._tls.unwrap()
            except ssl.SSLError:
                pass  # wants to read the peer's close_notify, or has read something else
            self._flush()
        self._below.close()

    def abort(self) -> None:
        """Close at once, without what was not sent and without a close_notify."""
        self._closing = True
        self._below.abort()

    def is_closing(self) -> bool:
        """See asyncio.BaseTransport."""
        return self._closing or self._below.is_closing()

    def pause_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """See asyncio.ReadTransport."""
        self._below.resume_reading()

    def is_reading(self) -> bool:
        """See asyncio.ReadTransport."""
        return self._below.is_reading()  # type: ignore[no-any-return]

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio.WriteTransport; of encrypted bytes."""
        self._below.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """See asyncio.WriteTransport; of encrypted bytes."""
        return self._below.get_write_buffer_size()  # type: ignore[no-any-return]

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio.BaseTransport."""
        return self.protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See asyncio.BaseTransport."""
        if name == "ssl_object":
            return self._tls
        if name == "sslcontext":
            return self._context
        return self._below.get_extra_info(name, default)
