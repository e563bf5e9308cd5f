"""One connection to one instance, which carries one request and its response at a time.

Decides when a response is complete or truncated, and when the connection may serve another request. Heads are read by
`head_reader`, bodies followed by `framing`; what the loss of a connection means is in `connection_loss`. Knows nothing
of the client's side: what arrives goes to a `Sink` in the same turn of the event loop, without a task or a future per
chunk.

Leans on these internals of aiohttp 3.14 (tests/wire/test_aiohttp_internals.py fails when they move):
`BaseConnector._factory` makes the protocol; `connector.connect(req, traces, timeout)` returns a Connection whose
`protocol` that is; `_pause_transport_reading` and `_resume_transport_reading` of any protocol.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from ..errors import ConnectError, GatewayError, UpstreamError
from ..host.bounded_reads import READ_BYTES, bound_reads
from ..host.kernel import fail_when_silent, reset_on_close
from ..http1.framing import Body, Chunked, Sized, UntilClose, whole_chunk
from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields
from .connection_loss import closed_on_purpose, failure, last_words
from .head_reader import HeadReader
from .response_checks import fault

# An instance whose host is gone ends within a minute, not with the limit of a generation.
SILENT_HOST_S = 45.0
# Up to this size copying a request into one piece costs less than saying where its parts are.
_JOIN_BYTES = 1 << 16
_SWITCHING = 101


class Sink(Protocol):
    """Whoever takes one response."""

    def on_response(self, message: ResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None: ...
    def on_data(self, data: bytes, complete: bool) -> None: ...
    def on_failure(self, error: GatewayError) -> None: ...
    def on_writable(self) -> None: ...


class Flow(Protocol):
    """Whoever takes the whole chunks of one response, where they come one by one."""

    def takes(self, data: bytes) -> bool:
        """Take bytes that are one chunk and nothing else (`http1.framing.whole_chunk`); whether they are that."""


class Keeper(Protocol):
    """Whoever keeps idle connections."""

    def give(self, channel: "Channel") -> None: ...
    def forget(self, channel: "Channel") -> None: ...


class Channel(ResponseHandler):
    """A connection that carries one exchange at a time.

    Without a sink it is aiohttp's own protocol, so that the session's comfortable API works beside it.
    """

    # Not in the dictionary that aiohttp's has: with more than 30 names CPython gives each a large one of its own, in
    # which every event would have to look.
    __slots__ = (
        "_body",
        "_flow",
        "_head_only",
        "_heads",
        "_keep",
        "_taker",
        "connection",
        "idle_since",
        "instance",
        "pool",
        "reused",
        "sent",
        "sink",
        "tunnel",
        "upgradable",
    )

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
        self._heads = HeadReader(loop, name)
        self._head_only = False
        self._body: Body | None = None
        self._flow: Flow | None = None
        self._taker: Flow | None = None  # the flow, where the next byte begins a chunk
        self._keep = True

    def begin(self, sink: Sink, parts: Sequence[bytes], sent: bool, head_only: bool) -> None:
        """Send `parts`, the head and what is held of the body; `sent` when that is all of it.

        `head_only`: its answer ends with its head.
        """
        self.sink = sink
        self.sent = sent
        self._head_only = head_only
        transport = self.transport
        if transport is None:
            # Lost between being opened and being used: nobody was told, and nothing was sent.
            self._fail(ConnectError(f"Instance '{self.instance}' closed the connection.", code="connection_terminated"))
        else:
            size = 0
            for part in parts:
                size += len(part)
            if size < _JOIN_BYTES:
                transport.write(b"".join(parts))
            else:
                transport.writelines(parts)

    def flow_to(self, flow: Flow) -> None:
        """From now on whole chunks go to `flow`, which the sink asks for while it takes a part of a response."""
        self._flow = flow
        if self._body is not None and self._body.between:
            self._taker = flow

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # aiohttp sets TCP_NODELAY as well, as event loops do
        fail_when_silent(transport.get_extra_info("socket"), SILENT_HOST_S)

    def hold(self) -> None:
        """Stop reading: the client does not keep up."""
        self._pause_transport_reading()

    def release(self) -> None:
        """Read on."""
        self._resume_transport_reading()

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is not None and taker.takes(data):
            return
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
            sink.on_data(data[start:-2], False)
            return
        self._bound(data)
        payload = body.feed(data)
        self._taker = self._flow if body.between else None
        if body.complete:
            self._keep = self._keep and not body.rest  # there is more than one answer to this request
            self._complete()
            sink.on_data(payload, True)
            return
        if payload:
            sink.on_data(payload, False)
        if body.broken:
            self._fail(fault(self.instance, "http_protocol_error", "broke the framing of its response"))

    def _bound(self, data: bytes) -> None:
        if len(data) > READ_BYTES and self.transport is not None:
            bound_reads(self.transport, self)

    def _read_head(self, sink: Sink, data: bytes) -> None:
        """The head, once it is whole, with whatever of the body came in the same read."""
        heads = self._heads
        try:
            head = heads.read(data, self.upgradable)
        except UpstreamError as exc:
            self._fail(exc)
            return
        if head is None:
            return
        message, fields, rest = head.message, head.fields, data[heads.end :]
        if head.code == _SWITCHING:
            self.tunnel = True
            sink.on_response(message, fields, rest, False)
            return
        self._keep = not head.last
        length = 0 if self._head_only or head.bodiless else fields.length
        if length == len(rest):  # all of it, as usual; no need of a body to follow
            self._complete()
            sink.on_response(message, fields, rest, True)
            return
        if 0 <= length < len(rest):
            self._keep = False
            self._complete()
            sink.on_response(message, fields, rest[:length], True)
            return
        body: Body = Sized(length) if length > 0 else Chunked() if message.chunked else UntilClose()
        payload = body.feed(rest)
        if body.complete:
            self._keep = self._keep and not body.rest
            self._complete()
            sink.on_response(message, fields, payload, True)
            return
        if body.broken:
            self._fail(fault(self.instance, "http_protocol_error", "broke the framing of its response"))
            return
        self._body = body
        sink.on_response(message, fields, payload, False)

    def _complete(self) -> None:
        """The response is over: back to the pool when nothing is in doubt."""
        self.upgradable = False
        self.sink = self._body = self._flow = self._taker = None
        if self._keep and self.sent and self.pool is not None:
            self.pool.give(self)
        else:
            self.discard()

    def _fail(self, error: GatewayError) -> None:
        sink = self.sink
        self.discard()
        if sink is not None:
            sink.on_failure(error)

    def eof_received(self) -> None:
        """On FIN let the connection close; `connection_lost` decides what it means.

        asyncio would first send what waits, to one that has closed.
        """
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc is not None and self.sink is not None:
            for data in last_words(self.transport):
                self.data_received(data)
                if self.sink is None:
                    break
        sink, body = self.sink, self._body
        self.sink = self._flow = self._taker = None
        whole = exc is None and (self.tunnel or (isinstance(body, UntilClose) and closed_on_purpose(self.transport)))
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
        else:
            sink.on_failure(
                failure(
                    self.instance,
                    exc,
                    tunnel=self.tunnel,
                    in_body=body is not None,
                    in_head=self._heads.begun,
                    reused=self.reused,
                )
            )

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.sink is not None:
            self.sink.on_writable()

    def discard(self) -> None:
        """Close at once and without flushing: a half-sent request must never look whole (rule 3 of the contract)."""
        unfinished = self.sink is not None
        self.sink = self._flow = self._taker = None
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
