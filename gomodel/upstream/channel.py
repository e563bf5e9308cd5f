"""One connection to one instance: aiohttp's connector opens it, aiohttp's parser reads the heads of its responses.

Decides when a response is complete, truncated or not to be trusted, and when a connection may serve another request.
Knows nothing of the client's side: what arrives goes to a `Sink` in the same turn of the event loop, without a task
or a future per chunk.

Leans on these internals of aiohttp 3.14 (tests/wire/test_aiohttp_internals.py fails when they move):
`BaseConnector._factory` makes the protocol; `connector.connect(req, traces, timeout)` returns a Connection whose
`protocol` that is; `HttpResponseParser.feed_data` returns (messages, upgraded, tail), and one that is told responses
have no body reads head after head.
"""

import asyncio
import os
import re
import ssl
from collections.abc import Sequence
from typing import Protocol

from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpResponseParser, RawResponseMessage

from ..errors import ConnectError, GatewayError, StaleConnection, UpstreamError
from ..host.bounded_reads import READ_BYTES, bound_reads
from ..host.kernel import fail_when_silent, reset_on_close
from ..http1.framing import Body, Chunked, Sized, UntilClose, whole_chunk
from ..http1.repeated_head import RepeatedHead, repeatable
from ..http1.response_fields import ResponseFields
from .response_checks import distrust, parse_error

# vLLM's embeddings with `encoding_format: bytes` send a header of 114 KB at 1,000 inputs; it grows with the input.
MAX_FIELD_BYTES = 1 << 20
MAX_HEAD_BYTES = 2 << 20
# An interim head, or an empty line, takes time whatever its length is, and counts as so many bytes more.
_HEAD_COST_BYTES = 512
MAX_FIELDS = 128
# An instance whose host is gone ends within a minute, not with the limit of a generation.
SILENT_HOST_S = 45.0
# Up to this size a request is copied into one write.
_JOIN_BYTES = 1 << 16
_READ_BYTES = 1 << 16
_NO_BODY = frozenset({204, 304})
# What ends a head, in all that the parser takes for it (RFC 9112 2.2).
_blank_line = re.compile(rb"\n\r?\n").search
# aiohttp's limit for a reader of bodies, which this parser never has.
_NO_READER = 1
_PROTOCOL = b"HTTP/"


class Sink(Protocol):
    """Whoever takes one response."""

    def on_response(self, message: RawResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None: ...
    def on_data(self, data: bytes, complete: bool) -> None: ...
    def on_chunk(self, frame: bytes, start: int) -> None: ...  # a whole chunk; `frame[start:-2]` is its payload
    def on_failure(self, error: GatewayError) -> None: ...
    def on_writable(self) -> None: ...


class Keeper(Protocol):
    """Whoever keeps idle connections."""

    def give(self, channel: "Channel") -> None: ...
    def forget(self, channel: "Channel") -> None: ...


class _Known:
    """The head of the connection's last response, and what was made of it."""

    __slots__ = ("fields", "head", "message")

    def __init__(self, head: RepeatedHead, message: RawResponseMessage, fields: ResponseFields) -> None:
        self.head = head
        self.message = message
        self.fields = fields


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
        self._heads: HttpResponseParser | None = None
        self._known: _Known | None = None
        self._head_only = False
        self._head_bytes = 0
        self._protocol = b""  # the first bytes of a head
        self._head_end = b""  # the last bytes of an unfinished head, in which its end may have begun
        self._body: Body | None = None
        self._keep = True

    def begin(self, sink: Sink, parts: Sequence[bytes | bytearray], *, sent: bool, head_only: bool) -> None:
        """Send `parts`, the head and what is held of the body; `sent` when that is all of it."""
        self.sink = sink
        self.sent = sent
        self._body = None
        self._head_bytes = 0
        self._protocol = b""
        self._head_only = head_only
        if self._heads is None:
            self._heads = HttpResponseParser(
                self,
                self._loop,
                _NO_READER,
                response_with_body=False,
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        fail_when_silent(transport, SILENT_HOST_S)

    def hold(self) -> None:
        """Stop reading: the client does not keep up."""
        self._pause_transport_reading()

    def release(self) -> None:
        """Read on."""
        self._resume_transport_reading()

    def data_received(self, data: bytes) -> None:
        sink, body = self.sink, self._body
        if sink is None:
            if self.pool is None:
                super().data_received(data)
            else:
                self.discard()  # bytes nobody asked for, between two exchanges (RFC 9112 9.2)
            return
        if body is None:
            if self.tunnel:
                self._bound(data)
                sink.on_data(data, False)
            else:
                self._read_head(sink, data)
            return
        if body.between and (start := whole_chunk(data)):
            sink.on_chunk(data, start)
            return
        self._bound(data)
        payload = body.feed(data)
        if body.complete:
            self._keep = self._keep and not body.rest  # there is more than one answer to this request
            self._complete()
            sink.on_data(payload, True)
            return
        if payload:
            sink.on_data(payload, False)
        if body.broken:
            self._fail(self._error("http_protocol_error", "broke the framing of its response"))

    def _bound(self, data: bytes) -> None:
        if len(data) > READ_BYTES and self.transport is not None:
            bound_reads(self.transport, self)

    def _read_head(self, sink: Sink, data: bytes) -> None:
        """Give the parser heads and nothing else: interim ones, which end here, and the one that counts."""
        known = self._known
        if known is not None and not self._head_bytes and (start := known.head.match(data)):
            self._head_bytes = start
            known.fields.repeat(known.head.length)
            self._on_head(sink, known.message, known.fields, data[start:])
            return
        self._known = None
        heads = self._heads
        assert heads is not None
        first = not self._head_bytes
        fed = len(self._head_end)
        if fed:
            data, self._head_end = self._head_end + data, b""
        at = 0
        while True:
            blank = _blank_line(data, at)
            end = blank.end() if blank else len(data)
            self._head_bytes += end - fed
            if len(self._protocol) < len(_PROTOCOL):
                self._protocol = (self._protocol + data[fed:end]).lstrip(b"\r\n")[: len(_PROTOCOL)]
            try:
                messages, upgraded, _ = heads.feed_data(data[fed:end])
            except Exception as exc:
                # The parser's tree is wide, and every branch of it is the instance's fault.
                self._fail(parse_error(self.instance, exc, data))
                return
            if messages:
                message = messages[0][0]
                if self._protocol != _PROTOCOL:  # the parser reads RTSP and ICE as well
                    self._fail(self._error("http_protocol_error", "sent something that is not a valid HTTP response"))
                    return
                self._protocol = b""
                if message.code >= 200 or message.code == 101 or message.code < 100:
                    self._on_new_head(sink, message, data, end, upgraded=upgraded, alone=first and not at)
                    return
                # aiohttp cannot pass an interim response on; the first-byte limit bounds a stream of them.
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(self._error("http_response_header_section_size", "sent a response head that is too large"))
                return
            if end == len(data):
                self._head_end = b"" if blank else data[-2:]
                return
            at = fed = end
            self._head_bytes += _HEAD_COST_BYTES

    def _on_new_head(
        self, sink: Sink, message: RawResponseMessage, data: bytes, end: int, *, upgraded: bool, alone: bool
    ) -> None:
        """A head that ends at `end` in `data`; `alone`: nothing of it or of another came before."""
        fields = ResponseFields(message.raw_headers)
        if message.code == 101 and upgraded and self.upgradable:
            self.tunnel = True
            sink.on_response(message, fields, data[end:], False)
            return
        doubt = distrust(message, fields)
        if doubt is not None:
            self._fail(self._error(*doubt))
            return
        if alone and fields.may_repeat:
            head = repeatable(data, end)
            if head is not None:
                self._known = _Known(head, message, fields)
        self._on_head(sink, message, fields, data[end:])

    def _on_head(self, sink: Sink, message: RawResponseMessage, fields: ResponseFields, rest: bytes) -> None:
        """The head is whole and to be believed; `rest` stands behind it."""
        code = message.code
        self._keep = not message.should_close
        body: Body | None = None
        length = 0 if self._head_only or code in _NO_BODY else int(fields.lengths[0]) if fields.lengths else -1
        if 0 <= length <= len(rest):
            payload, surplus = rest[:length], len(rest) > length  # all of it, as usual; no need of a body to follow
        else:
            body = Sized(length) if length > 0 else Chunked() if message.chunked else UntilClose()
            payload, surplus = body.feed(rest), bool(body.rest)
        if body is None or body.complete:
            self._keep = self._keep and not surplus
            self._complete()
            sink.on_response(message, fields, payload, True)
            return
        if body.broken:
            self._fail(self._error("http_protocol_error", "broke the framing of its response"))
            return
        self._body = body
        sink.on_response(message, fields, payload, False)

    def _complete(self) -> None:
        """The response is over: back to the pool when nothing is in doubt."""
        self.upgradable = False
        self.sink = None
        self._body = None
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
        """A FIN; `connection_lost` is its judge. asyncio would first send what waits, to one that has closed."""
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None and self.sink is not None:
            self._read_last_words()
        sink, body = self.sink, self._body
        self.sink = None
        whole = exc is None and (self.tunnel or (isinstance(body, UntilClose) and _closed_on_purpose(self.transport)))
        if self.pool is not None:
            self.pool.forget(self)
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        super().connection_lost(exc)
        if sink is None:
            return
        if whole:
            sink.on_data(b"", True)
        elif isinstance(exc, OSError) and not isinstance(exc, ConnectionError | ssl.SSLError):
            # Timed out or unroutable: the host is gone. It may have begun, so even a reused connection is not stale.
            sink.on_failure(self._error("connection_terminated", "cannot be reached any more"))
        elif self.tunnel:
            sink.on_failure(self._error("connection_terminated", "reset the connection"))
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
                reset_on_close(transport)
            transport.abort()
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def _closed_on_purpose(transport: asyncio.Transport | None) -> bool:
    """Whether the end of a connection was said, not cut: over TLS anybody on the way can forge a FIN (RFC 9112 9.8)."""
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    if tls is None:
        return True
    try:
        return not tls.read(1)
    except ssl.SSLZeroReturnError:
        return True
    except ssl.SSLError:
        return False
