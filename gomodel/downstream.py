"""The requests of a client connection: aiohttp parses, one task per connection serves them in order.

Decides which requests are known again without parsing, when a connection lives on and when it lingers. Knows nothing of
routes, keys or instances: a request goes to one composed handler, which returns a `Reply` to be written here or `None`
when it wrote the answer itself.

Leans on these internals of aiohttp 3.14 (tests/test_aiohttp_internals.py fails when they move): `web.Server.__call__`
makes the protocol and cancels `_task_handler` when the client leaves (`handler_cancellation`); `RequestHandler.start`
is the task; `_messages`, `_waiter`, `_parser`, `_upgraded`, `_message_tail`, `_buffer_paused`, `_keepalive_handle`,
`_next_keepalive_close_time`, `_force_close` mean what they mean in its own `start`. aiohttp's `start` makes a task, a
StreamWriter and a BaseRequest per request, answers parse errors in text and writes a clean end after a fault; this
one does not.
"""

import asyncio
import logging
import sys
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion10, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _ErrInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from .client_connection import ClientConnection
from .client_limit import REFUSED_S, ClientLimit
from .errors import BadRequest
from .headers import RequestFields
from .message import Arrived, Handler, Request
from .repeated import RepeatedHead, repeatable

_logger = logging.getLogger("gomodel")

# A refused upload is read on for this long, so that its answer is not lost to a reset (RFC 9112 9.6); without the key
# only this far, since nobody is to make the gateway read for nothing.
LINGER_S = 2.0
LINGER_BYTES = 1 << 20
# A connection whose heads are all different is not asked to remember any.
MISSES = 8


_UNPARSED = RawRequestMessage(
    "UNKNOWN", "", HttpVersion10, CIMultiDictProxy(CIMultiDict()), (), True, None, False, False, URL("/")
)


class _Known:
    """The last request's head, and what was made of it; `fields` is None until it has been served."""

    __slots__ = ("fields", "head", "message")

    def __init__(self, head: RepeatedHead, message: RawRequestMessage) -> None:
        self.head = head
        self.message = message
        self.fields: RequestFields | None = None


class Downstream(ClientConnection):
    """One client connection and the requests that come over it."""

    __slots__ = (
        "_in_step",
        "_known",
        "_misses",
        "_payload",
        "_serve",
        "busy",
        "last",
    )

    def __init__(self, manager: "Server", **kwargs: Any) -> None:
        super().__init__(manager, write_idle_s=manager.write_idle_s, **kwargs)
        self._serve = manager.serve
        self.busy = False
        self.last = False  # draining: the request being served is the last one
        self._in_step = True  # each read so far was one whole request, so the parser holds nothing
        self._known: _Known | None = None
        self._misses = 0
        self._payload: StreamReader | Arrived | None = None

    def data_received(self, data: bytes) -> None:
        known, waiter = self._known, self._waiter
        if known is not None and known.fields is not None and waiter is not None and not waiter.done():
            head = known.head
            start = head.match(data)
            if start and len(data) - start == head.length:
                known.fields.content_length = head.length
                body = Arrived(data[start:], known.fields)
                self._messages.append((known.message, body))  # type: ignore[arg-type]
                self._misses = 0
                waiter.set_result(None)
                return
        self._known = None
        try:
            super().data_received(data)
        except ValueError:
            # aiohttp's parser in Python passes on what int() says of a Content-Length of thousands of digits.
            self.force_close()
            return
        self._in_step = self._in_step and self._was_one_request(data)
        payload = self._payload
        if (
            payload is not None
            and self._messages
            and isinstance(self._messages[-1][0], _ErrInfo)
            and not payload.is_eof()
        ):
            # The C parser tells nobody but the queue when a body's framing breaks; its reader would wait for ever.
            payload.set_exception(BadRequest("The framing of the request body is invalid."))

    def _was_one_request(self, data: bytes) -> bool:
        """Whether `data`, which the parser has just read, was one whole request; if so its head may be known again."""
        if len(self._messages) != 1 or self._upgraded:
            return False
        message, payload = self._messages[0]
        if isinstance(message, _ErrInfo) or message.chunked or not payload.is_eof():
            return False
        head_bytes = data.find(b"\r\n\r\n") + 4
        if len(data) != head_bytes + payload.total_bytes:
            return False
        head = repeatable(data, head_bytes) if self._misses < MISSES else None
        if head is not None:
            self._known = _Known(head, message)
            self._misses += 1
        return True

    def forget(self) -> None:
        """Look at the fields of the next request anew: the configuration has changed."""
        self._known = None

    @property
    def idle_since(self) -> float | None:
        """Since when no request is being served, by the loop's clock; None while one is."""
        if self.busy or self._messages:
            return None
        return self._next_keepalive_close_time - self._keepalive_timeout

    def turn_away(self, serve: Handler, within_s: float) -> None:
        """There is no room for this client: `serve` its next request, if that comes in time, and close."""
        self._serve = serve
        self.last = True
        self._loop.call_later(within_s, self.close_when_idle)

    def close_when_idle(self, quiet_s: float = 0.0) -> None:
        """Draining: close now if no request is being served and none was for `quiet_s`, else after the next."""
        self.last = True
        active = self.idle_since
        if active is not None and self._loop.time() - active >= quiet_s:
            self.force_close()

    async def start(self) -> None:
        loop = self._loop
        try:
            while not self._force_close:
                if not self._messages:
                    self._waiter = loop.create_future()
                    try:
                        await self._waiter
                    finally:
                        self._waiter = None
                self.busy = True
                message, payload = self._messages.popleft()
                if self._parser is not None:
                    self._parser.message_consumed()
                if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                    self._resume_reading_if_drained()
                if not await self._serve_one(message, payload):
                    break
                if self._paused and not await self._drained():
                    break
                self.busy = False
                if self._upgraded:
                    self._resume_http()
                self._next_keepalive_close_time = loop.time() + self._keepalive_timeout
                if self._keepalive_handle is None:
                    self._keepalive_handle = loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        finally:
            self.busy = False
            if self.transport is not None:
                self._end(self.transport)

    async def _serve_one(self, message: Any, payload: StreamReader | Arrived) -> bool:
        """Serve one request; whether the connection can take another."""
        if isinstance(message, _ErrInfo):
            request = Request(self, _UNPARSED, payload)
            request.error = BadRequest("The request is not valid HTTP/1.1.")
        else:
            request = Request(self, message, payload)
            if message.upgrade and not self._in_step and message.headers.get("Upgrade", "").lower() != "websocket":
                # aiohttp's parser drops what it has read behind a request for a protocol it does not know, be it half
                # of another request.
                request.keep_alive = False
        self._payload = payload
        try:
            reply = await self._serve(request)
        finally:
            self._payload = None
        known = self._known
        if known is not None and known.message is message and known.fields is None:
            self._know(known, request)
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        complete = payload.is_eof()
        if reply is not None:
            # Behind a refused CONNECT or Upgrade may stand what was meant for a tunnel: it is nobody's request.
            keep = request.keep_alive and complete and not (self.last or reply.close or self._upgraded)
            transport.write(reply.encode(head_only=request.method == "HEAD", keep_alive=keep))
            request.keep_alive = keep
        if not complete and payload.exception() is None:
            unknown = reply is not None and reply.status == 401
            await self._linger(transport, payload, LINGER_BYTES if unknown else sys.maxsize)
        return request.keep_alive and complete

    def _know(self, known: _Known, request: Request) -> None:
        """The request's head was found good; keep what was made of it, as little as there is."""
        fields = request.fields
        if fields.expect or not request.keep_alive or fields.content_length is None:
            self._known = None
            return
        fields.write_once()
        fields.forwarded = []
        known.fields = fields
        known.message = request.message._replace(headers=_UNPARSED.headers, raw_headers=(), url=_UNPARSED.url)

    async def _linger(self, transport: asyncio.Transport, payload: StreamReader | Arrived, left: int) -> None:
        """Send a FIN and read on for a moment: closing over unread bytes would reset what was just written."""
        if transport.can_write_eof():
            transport.write_eof()
        try:
            async with asyncio.timeout(LINGER_S):
                while left > 0 and not payload.is_eof():
                    left -= len(await payload.readany())
        except (TimeoutError, BadRequest, web.RequestPayloadError):
            pass

    def _resume_http(self) -> None:
        """An Upgrade that nobody took up: what came after the request is the next request (RFC 9110 7.8)."""
        if self._messages or self._payload_parser is not None or self._parser is None:
            return
        self._parser.set_upgraded(False)
        self._upgraded = False
        tail, self._message_tail = self._message_tail, b""
        if tail:
            self.data_received(tail)
        if self._buffer_paused:
            self._resume_reading_if_drained()


class Server(web.Server):
    """aiohttp's low-level server with `Downstream` for its protocol."""

    def __init__(
        self, serve: Handler, refuse: Handler, limit: ClientLimit, *, write_idle_s: float, **kwargs: Any
    ) -> None:
        """`refuse` serves the one request of a client for whom `limit` has no room."""
        super().__init__(serve, handler_cancellation=True, **kwargs)  # type: ignore[arg-type]
        self.serve = serve
        self.limit = limit
        self._refuse = refuse
        self.write_idle_s = write_idle_s

    def __call__(self) -> Downstream:
        return Downstream(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """A client has connected; one too many takes the place of an idle one, or is turned away."""
        limit, now = self.limit, self._loop.time()
        clients: Any = self._connections  # not `clients`: a list of them all for each newcomer is too much in a crowd
        crowded = len(clients) >= limit.most and not limit.make_room(clients, now)
        super().connection_made(handler, transport)
        if crowded:
            if limit.refuses(len(self._connections)):
                handler.turn_away(self._refuse, REFUSED_S)
            else:
                transport.abort()

    @property
    def clients(self) -> list[Downstream]:
        """The open connections."""
        return [connection for connection in self._connections if isinstance(connection, Downstream)]
