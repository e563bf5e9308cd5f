"""One connection to one instance: aiohttp's connector opens it, aiohttp's parser reads it, nothing else is between.

Decides when a response is complete, truncated or not to be trusted, and when a connection may serve another request.
Knows nothing of the client's side: what arrives goes to a `Sink` in the same turn of the event loop, without a task
or a future per chunk.

Leans on these internals of aiohttp 3.14 (tests/test_aiohttp_internals.py fails when they move):
`BaseConnector._factory` makes the protocol; `connector.connect(req, traces, timeout)` returns a Connection whose
`protocol` that is; `HttpResponseParser.feed_data` returns (messages, upgraded, tail) and feeds a StreamReader whose
`_buffer`, `_size`, `_http_chunk_splits` and `_eof` are emptied and read here.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpResponseParser, HttpVersion10, HttpVersion11, RawResponseMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from .errors import ConnectError, GatewayError, StaleConnection, UpstreamError
from .headers import ResponseFields

# vLLM's embeddings with `encoding_format: bytes` send a header of 114 KB at 1,000 inputs; it grows with the input.
MAX_FIELD_BYTES = 1 << 20
MAX_HEAD_BYTES = 2 << 20
MAX_FIELDS = 128
# The parser's reader never pauses by itself: it is emptied after every read, so a read of the socket bounds it.
_NO_LIMIT = 1 << 29
# Up to this size a request is copied into one write.
_JOIN_BYTES = 1 << 16
_READ_BYTES = 1 << 16
_VERSIONS = (HttpVersion10, HttpVersion11)
_NO_BODY = frozenset({204, 304})
# The end of a head and of a chunked body.
_BLANK_LINE = b"\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)


class Sink(Protocol):
    """Whoever takes one response."""

    def on_response(self, message: RawResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None: ...
    def on_data(self, data: bytes, complete: bool) -> None: ...
    def on_failure(self, error: GatewayError) -> None: ...
    def on_writable(self) -> None: ...


class Keeper(Protocol):
    """Whoever keeps idle connections."""

    def give(self, channel: "Channel") -> None: ...
    def forget(self, channel: "Channel") -> None: ...


class Channel(ResponseHandler):
    """A connection that carries one exchange at a time.

    Without a sink it is aiohttp's own protocol, so that the session's comfortable API works beside it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        super().__init__(loop)
        self.instance = name
        self.sink: Sink | None = None
        self.pool: Keeper | None = None
        self.connection: Connection | None = None
        self.idle_since = 0.0
        self.reused = False
        self.sent = False  # the whole request has been written
        self.upgradable = False  # the sink asked for a 101
        self.tunnel = False
        self._reader: HttpResponseParser | None = None
        self._head_only = False
        self._chunked = False
        self._head_bytes = 0
        self._body: StreamReader | None = None
        self._until_close = False
        self._keep = True

    def begin(self, sink: Sink, parts: Sequence[bytes | bytearray], *, sent: bool, head_only: bool) -> None:
        """Send `parts`, the head and what is held of the body; `sent` when that is all of it."""
        self.sink = sink
        self.sent = sent
        self._body = None
        self._head_bytes = 0
        if self._reader is None or head_only != self._head_only:
            # One parser serves a connection for life; only HEAD, whose answers have no body, needs another.
            self._head_only = head_only
            self._reader = self._parser = HttpResponseParser(
                self,
                self._loop,
                _NO_LIMIT,
                response_with_body=not head_only,
                read_until_eof=True,
                auto_decompress=False,
                max_line_size=MAX_FIELD_BYTES,
                max_field_size=MAX_FIELD_BYTES,
                max_headers=MAX_FIELDS,
            )
        transport = self.transport
        if transport is None:
            # Lost between being opened and being used: nobody was told, and nothing was sent.
            self._fail(ConnectError(f"Instance '{self.instance}' closed the connection.", code="connection_terminated"))
        elif sum(map(len, parts)) < _JOIN_BYTES:
            transport.write(b"".join(parts))
        else:
            # Copying megabytes of prompt costs more than a system call.
            for part in parts:
                transport.write(part)

    def pause_reading(self) -> None:
        """The parser's reader asks for this; only the client's pace counts here, see `hold`."""
        if self.sink is None:
            super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """See `pause_reading`."""
        if self.sink is None:
            super().resume_reading(resume_parser)

    def hold(self) -> None:
        """Stop reading: the client does not keep up."""
        self._pause_transport_reading()

    def release(self) -> None:
        """Read on."""
        self._resume_transport_reading()

    def data_received(self, data: bytes) -> None:
        sink = self.sink
        if sink is None:
            if self.pool is None:
                super().data_received(data)
            else:
                self.discard()  # bytes nobody asked for, between two exchanges (RFC 9112 9.2)
            return
        if self.tunnel:
            sink.on_data(data, False)
            return
        reader = self._reader
        assert reader is not None
        body = self._body
        try:
            messages, upgraded, tail = reader.feed_data(data)
        except Exception as exc:
            # The parser's tree is wide and every branch of it is the instance's fault. What it read before counts.
            self._keep = False
            if body is not None and body._eof:
                self._complete()
                sink.on_data(_drain(body), True)
                return
            rest = _drain(body) if body is not None else b""
            if rest:
                sink.on_data(rest, False)
            self._fail(_parse_error(self.instance, exc))
            return
        if body is None:
            self._on_head(sink, data, messages, upgraded, tail)
            return
        rest = _drain(body)
        if body._eof:
            if messages or not (len(rest) == len(data) or _ends(data)):
                self._keep = False  # there is more than one answer to this request
            self._complete()
            sink.on_data(rest, True)
        elif rest:
            sink.on_data(rest, False)

    def _on_head(self, sink: Sink, data: bytes, messages: Any, upgraded: bool, tail: bytes) -> None:
        self._head_bytes += len(data)
        for at, (message, body) in enumerate(messages):
            code = message.code
            if 100 <= code < 200 and code != 101:
                # aiohttp cannot pass an interim response on; the first-byte limit bounds a stream of them.
                continue
            fields = ResponseFields(message.raw_headers)
            if code == 101 and upgraded and self.upgradable:
                self.tunnel = True
                sink.on_response(message, fields, tail, False)
                return
            distrust = _distrust(message, fields)
            if distrust is not None:
                self._fail(self._error(*distrust))
                return
            self._chunked = message.chunked
            self._until_close = not (fields.lengths or message.chunked or self._head_only or code in _NO_BODY)
            self._keep = not (message.should_close or len(messages) > at + 1 or self._until_close)
            if body is not EMPTY_PAYLOAD:
                rest, complete = _drain(body), body._eof
            elif self._head_only or code in _NO_BODY or not (fields.lengths and int(fields.lengths[0])):
                rest, complete = b"", True
            else:
                # What the C parser makes of a length of 2**64 - 1, its own word for none.
                self._fail(self._error("http_protocol_error", "framed its response in an invalid way"))
                return
            if complete:
                if not (data.find(_BLANK_LINE) + 4 + len(rest) == len(data) or _ends(data)):
                    self._keep = False  # as above
                self._complete()
            else:
                self._body = body
            sink.on_response(message, fields, rest, complete)
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._fail(self._error("http_response_header_section_size", "sent a response head that is too large"))

    def _complete(self) -> None:
        """The response is over: back to the pool when nothing is in doubt."""
        self.upgradable = False
        self.sink = None
        self._body = None
        if self._chunked:
            self._reader = None  # it takes the last trailer of this answer for a field of the next one
        if self._keep and self.sent and self.pool is not None:
            self.pool.give(self)
        else:
            self.discard()

    def _error(self, code: str, what: str) -> UpstreamError:
        return UpstreamError(f"Instance '{self.instance}' {what}.", code=code)

    def _fail(self, error: GatewayError) -> None:
        sink = self.sink
        self.discard()
        if sink is not None:
            sink.on_failure(error)

    def eof_received(self) -> None:
        """A FIN; asyncio closes the transport, `connection_lost` judges what it means."""

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None and self.sink is not None and not self._head_bytes:
            self._read_last_words()
        sink, body = self.sink, self._body
        self.sink = None
        if self.pool is not None:
            self.pool.forget(self)
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        super().connection_lost(exc)
        if sink is None:
            return
        if self.tunnel or (body is not None and self._until_close and exc is None):
            sink.on_data(b"", True)
        elif body is not None:
            sink.on_failure(
                self._error("connection_terminated", "closed the connection before the response was complete")
            )
        elif self._head_bytes:
            sink.on_failure(self._error("http_response_incomplete", "closed the connection inside the response head"))
        elif self.reused:
            sink.on_failure(StaleConnection(f"Instance '{self.instance}' closed the connection before it answered."))
        else:
            sink.on_failure(self._error("connection_terminated", "closed the connection before it answered"))

    def _read_last_words(self) -> None:
        """Read what is left after a reset.

        An instance that refuses an upload answers and closes while it is still coming. When its reset fails a write of
        ours before the answer was read, the answer is still there (Linux keeps it).
        """
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return
        sock = transport.get_extra_info("socket")
        try:
            while self.sink is not None and (data := os.read(sock.fileno(), _READ_BYTES)):
                self.data_received(data)
        except OSError:
            pass

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.sink is not None:
            self.sink.on_writable()

    def discard(self) -> None:
        """Close at once and without flushing: a half-sent request must never look whole (rule 3 of the contract)."""
        unfinished = self.sink is not None
        self.sink = None
        if self.pool is not None:
            self.pool.forget(self)
        transport = self.transport
        if transport is not None:
            if unfinished or not self.sent or transport.get_write_buffer_size():
                # An instance that does not read would not see a FIN, which queues behind what the kernel holds.
                sock = transport.get_extra_info("socket")
                if sock is not None and sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def _drain(body: StreamReader) -> bytes:
    """Empty the parser's reader."""
    buffer = body._buffer
    if not buffer:
        return b""
    data = buffer.popleft() if len(buffer) == 1 else b"".join(buffer)
    buffer.clear()
    body._size = 0
    splits = body._http_chunk_splits
    if splits:
        splits.clear()
    return data


def _ends(data: bytes) -> bool:
    """Whether a read in which a head or a chunked body ended has nothing behind that.

    The parser keeps what it finds there and takes it for the beginning of the next answer, which is somebody else's.
    """
    return data.endswith(_BLANK_LINE) or not data.strip(b"\r\n")


def _distrust(message: RawResponseMessage, fields: ResponseFields) -> tuple[str, str] | None:
    """Why a response that parsed must not be believed (RFC 9112 6.3, RFC 9110 15), as (code, what it did); or None."""
    if message.code == 101:
        return "http_upgrade_failed", "switched protocols without being asked"
    if not 200 <= message.code <= 599 or message.version not in _VERSIONS:
        return "http_protocol_error", "sent an invalid status line"
    codings = fields.codings
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked" or not message.chunked):
        return "http_response_transfer_coding", "used a transfer coding that is not 'chunked'"
    if len(fields.lengths) + len(codings) > 1:
        return "http_protocol_error", "framed its response in two ways"
    return None


def _parse_error(instance: str, exc: Exception) -> UpstreamError:
    if isinstance(exc, LineTooLong):
        code, what = "http_response_header_size", "sent a header that is too large"
    elif isinstance(exc, BadHttpMessage) and "Too many headers" in exc.message:
        code, what = "http_response_header_section_size", "sent too many headers"
    else:
        code, what = "http_protocol_error", "sent something that is not a valid HTTP response"
    return UpstreamError(f"Instance '{instance}' {what}.", code=code)
