"""The requests of a client connection: heads by aiohttp's parser, bodies by our framing, one task that serves them.

What came whole and need not wait is served in the turn of the loop in which it came, and ends in the one in which its
answer does; the task serves the rest, and goes on with what turns out to wait.

Decides which requests are known again without parsing, how far ahead of the one being served is read, when a
connection lives on and when it lingers. Knows nothing of routes, keys or instances: a request goes to one composed
handler, which returns a `Reply` to be written here or `None` when it wrote the answer itself.

Leans on these internals of aiohttp 3.14 (tests/wire/test_aiohttp_internals.py fails when they move):
`web.Server.__call__` makes the protocol and cancels `_task_handler` when the client leaves (`handler_cancellation`);
`RequestHandler.start` is the task; `_messages`, `_waiter`, `_buffer_paused`, `_keepalive_handle`,
`_next_keepalive_close_time`, `_force_close` mean what they mean in its own `start`.
aiohttp's `start` makes a task, a StreamWriter and a BaseRequest per request, answers parse errors in text and writes a
clean end after a fault; this one does not.
"""

import asyncio
import sys
from collections.abc import Callable
from itertools import chain
from typing import Any

from aiohttp import web
from aiohttp.http import HttpVersion11, RawRequestMessage

from ..errors import BadRequest
from ..host.bounded_reads import READ_BYTES, bound_reads
from ..http1.framing import Body, Chunked, Sized
from ..http1.repeated_head import LIMIT_BYTES, RepeatedHead, repeatable
from ..http1.request_fields import RequestFields
from ..http1.similar_head import SimilarHead, similar
from .client_limit import REFUSED_S, ClientLimit
from .connection import ClientConnection
from .handshakes import TlsClient
from .request import Arrived, Handler, Request, Switched
from .request_head import NO_HEADERS, NO_URL, BadHead, HeadReader
from .upload import Upload

# A refused upload is read on for this long, so that its answer is not lost to a reset (RFC 9112 9.6); without the key
# only this far, since nobody is to make the gateway read for nothing.
LINGER_S = 2.0
LINGER_BYTES = 1 << 20
# A connection whose heads are all different is not asked to remember any.
MISSES = 8
# Heads that are read ahead of the request being served, and when reading goes on.
AHEAD = 32
_AHEAD_AGAIN = 16
# How long a head may take from its first byte to its last; nginx allows as much.
HEAD_S = 60.0
# What no Content-Length in earnest has; more is refused before it is waited for.
_LENGTH_DIGITS = 18


class _Known:
    """The last request's head, and what was made of it; `fields` is None until it has been served."""

    __slots__ = ("_similar", "fields", "head", "message")

    def __init__(self, head: RepeatedHead, message: RawRequestMessage) -> None:
        self.head = head
        self.message = message
        self.fields: RequestFields | None = None
        self._similar: SimilarHead | None = None  # made when a head comes that is not this one

    def like(self, data: bytes, limit_bytes: int) -> int:
        """Where the body begins in `data` if the head is like this one, whose fields become its; else 0."""
        fields, found, raw = self.fields, self._similar, self.message.raw_headers
        assert fields is not None
        if found is None and raw:
            head = self.head.with_length(fields.content_length or 0)
            self._similar = found = similar(head, fields.varying(raw), min(LIMIT_BYTES, limit_bytes))
            self.message = self.message._replace(raw_headers=())
            fields.forwarded = []
        start = found.match(data) if found is not None else 0
        return start if start and found is not None and fields.vary(found.changed) else 0


class Downstream(ClientConnection):
    """One client connection and the requests that come over it."""

    __slots__ = (
        "_active_at",
        "_backlog",
        "_begin",
        "_begun",
        "_body",
        "_ended",
        "_heads",
        "_known",
        "_linger_left",
        "_lingering",
        "_misses",
        "_offered",
        "_parked",
        "_serve",
        "_switched",
        "_upload",
        "busy",
        "last",
    )

    def __init__(self, manager: "Server", **kwargs: Any) -> None:
        super().__init__(manager, write_idle_s=manager.write_idle_s, keepalive_timeout=manager.keepalive_s, **kwargs)
        self._parser = None  # reads bodies, too
        self._heads = HeadReader(self, self._loop, manager.head_limit_bytes)
        self._begin = manager.begin
        self._serve = manager.serve
        self._begun: Request | None = None  # being served since the turn in which it came
        self._parked: asyncio.Future[None] | None = None  # what the task waits for meanwhile
        self.busy = False
        self.last = False  # draining: the request being served is the last one
        self._known: _Known | None = None
        self._misses = 0
        self._body: Body | None = None  # of the last request read, while it is arriving
        self._upload: Upload | None = None  # and who gets it
        self._backlog = b""  # received, and not to be looked at yet
        self._offered = False  # the last request read offers a WebSocket: what follows may not be HTTP
        self._switched: Switched | None = None
        self._ended = False  # nothing behind the last request read is a request
        self._lingering: asyncio.Future[None] | None = None
        self._linger_left = 0
        self._active_at = self._loop.time()

    def data_received(self, data: bytes) -> None:
        known, waiter = self._known, self._waiter
        if known is not None and known.fields is not None and waiter is not None and not waiter.done():
            fields, head = known.fields, known.head
            start = head.match(data)
            if start:
                if fields.varied:
                    fields.vary(())
                    fields.varied = False
                fields.content_length = head.length
            else:
                start = known.like(data, self._heads.limit)
            if start and len(data) - start == fields.content_length:
                self._misses = 0
                self._serve_now(Request(self, known.message, Arrived(data[start:], fields)), waiter)
                return
        self._known = None
        if self._switched is not None:
            self._bound(data)
            self._switched.feed_data(data)
        elif self._backlog:
            self._backlog += data
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Bodies and heads in turn, until something has to be waited for; what is left then is the backlog."""
        while data:
            if self._lingering is not None or (self._ended and self._body is None):
                self._drop(data)
                return
            if self._body is not None:
                data = self._read_body(self._body, data)
                if data and self._body is not None:  # others have their turn
                    self._loop.call_soon(self._read_on)
                    break
            elif self._offered or len(self._messages) >= AHEAD:
                break
            else:
                data = self._read_head(data)
        self._backlog = data
        if data and not self._buffer_paused:
            self._pause_reading_for_buffer()

    def _read_on(self) -> None:
        """Look at the backlog again, unless whoever reads the upload does not keep up."""
        if self._reading_paused or self._switched is not None or self.transport is None:
            return
        data, self._backlog = self._backlog, b""
        self._read(data)
        if self._buffer_paused and not self._backlog:
            self._resume_reading_for_buffer()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Whoever reads the upload keeps up again; called with every read and every end of a body."""
        if self._reading_paused:
            super().resume_reading()
            if self._backlog and self._body is not None:
                self._loop.call_soon(self._read_on)

    def _read_head(self, data: bytes) -> bytes:
        """The next request, as far as it is there; what stands behind it."""
        heads = self._heads
        begun = bool(heads.begun)
        try:
            message = heads.feed(data)
        except BadHead as bad:
            self._ended = True
            self._take(bad, Arrived(b"", None))
            return b""
        if message is None:
            if not begun and heads.begun:
                self._limit_head()
            return b""
        end = heads.ended
        rest = data[end:]
        headers = message.headers
        chunked = "Transfer-Encoding" in headers  # another coding is refused as soon as the request is looked at
        digits = headers.get("Content-Length", "0")
        length = int(digits) if len(digits) <= _LENGTH_DIGITS else sys.maxsize
        self._ended = message.should_close or message.version != HttpVersion11 or message.method == "CONNECT"
        if not chunked and length <= len(rest):
            if length and length == len(rest) and not (begun or self._ended or self._messages):
                self._remember(message, data, end)
            self._offered = not length and message.upgrade and headers.get("Upgrade", "").lower() == "websocket"
            self._take(message, Arrived(rest[:length], None))
            return rest[length:]
        self._body = Chunked(strict=True) if chunked else Sized(length)
        self._upload = Upload(self)
        self._take(message, self._upload)
        return rest

    def _take(self, message: RawRequestMessage | BadHead, body: Upload | Arrived) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._messages.append((message, body))  # type: ignore[arg-type]
        elif isinstance(body, Arrived) and not (self._offered or isinstance(message, BadHead)):
            self._serve_now(Request(self, message, body), waiter)
        else:
            self._messages.append((message, body))  # type: ignore[arg-type]
            waiter.set_result(None)

    def _serve_now(self, request: Request, waiter: asyncio.Future[None]) -> None:
        """Serve it in this turn of the loop as far as nothing has to be waited for; the task goes on where it has.

        Nobody waits for the next request then, so that aiohttp's keep-alive timer and what is read meanwhile see a
        connection at work.
        """
        self.busy = True
        self._begun = request
        self._waiter = None
        self._parked = waiter
        if not self._begin(request):
            self._parked = None
            waiter.set_result(None)

    def answered(self, request: Request) -> None:
        """The answer to a request that no task waits for is over."""
        waiter, self._parked = self._parked, None
        if waiter is None or waiter.done():  # the task was woken by something else and sees for itself
            return
        if not (request.keep_alive and not self._paused and self.transport is not None and request.app.end(request)):
            waiter.set_result(None)
            return
        self._begun = None
        known = self._known
        if known is not None and known.message is request.message and known.fields is None:
            self._know(known, request)
        self._rest()
        self._waiter = waiter
        if self._messages:
            waiter.set_result(None)

    def _read_body(self, body: Body, data: bytes) -> bytes:
        """The next of the body that is arriving; what was not looked at."""
        upload = self._upload
        assert upload is not None
        self._bound(data)
        upload.feed(body.feed(data))
        if body.complete:
            self._body = self._upload = None
            upload.end()
        elif body.broken:
            self._body = self._upload = None
            self._ended = True
            upload.set_exception(BadRequest("The framing of the request body is invalid."))
            return b""
        return body.rest

    def _bound(self, data: bytes) -> None:
        if len(data) > READ_BYTES and self.transport is not None:
            bound_reads(self.transport, self)

    def _remember(self, message: RawRequestMessage, data: bytes, head_bytes: int) -> None:
        """`data` was one whole request and its head may be known again."""
        head = repeatable(data, head_bytes) if self._misses < MISSES else None
        if head is not None:
            self._known = _Known(head, message)
            self._misses += 1

    def _limit_head(self) -> None:
        """A head has begun: whoever sends one byte by byte does not have the time of an idle connection."""
        due = self._loop.time() + HEAD_S
        if due < self._next_keepalive_close_time:
            self._next_keepalive_close_time = due
            if self._keepalive_handle is not None:
                self._keepalive_handle.cancel()
            self._keepalive_handle = self._loop.call_at(due, self._process_keepalive)

    def switch(self, to: Switched) -> None:
        """The protocol is no longer HTTP: `to` gets the client's bytes, first those that came with the request."""
        self._switched = to
        data, self._backlog = self._backlog, b""
        if data:
            to.feed_data(data)
        if self._buffer_paused:
            self._resume_reading_for_buffer()

    def forget(self) -> None:
        """Look at the fields of the next request anew: the configuration has changed."""
        self._known = None

    @property
    def idle_since(self) -> float | None:
        """Since when no request is being served, by the loop's clock; None while one is."""
        if self.busy or self._messages:
            return None
        return self._active_at

    def turn_away(self, serve: Handler, within_s: float) -> None:
        """There is no room for this client: `serve` its next request, if that comes in time, and close."""
        self._begin = _in_its_turn
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
                    except asyncio.CancelledError:
                        task = asyncio.current_task()
                        if self._begun is None or task is None:
                            raise
                        task.uncancel()
                        task.cancel()  # the request, where it waits
                    finally:
                        self._waiter = self._parked = None
                self.busy = True
                request, self._begun = self._begun or self._next(), None
                if not await self._serve_one(request):
                    break
                if self._paused and not await self._drained():
                    break
                if self._offered and not self._messages:  # nobody took it up, and HTTP goes on (RFC 9110 7.8)
                    self._offered = False
                    self._read_on()
                self._rest()
        finally:
            self.busy = False
            if self.transport is not None:
                self._end(self.transport)

    def _next(self) -> Request:
        """The next of the requests that were read ahead."""
        message: Any
        body: Any
        message, body = self._messages.popleft()
        if self._backlog and self._body is None and not self._offered and len(self._messages) == _AHEAD_AGAIN:
            self._loop.call_soon(self._read_on)  # in a turn of its own, or thousands of requests would have one
        if not isinstance(message, BadHead):
            return Request(self, message, body)
        request = Request(self, message.message, body)
        request.error = message.error
        return request

    def _rest(self) -> None:
        """No request is being served; the time of an idle connection begins."""
        self.busy = False
        self._active_at = now = self._loop.time()
        self._next_keepalive_close_time = now + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if self._heads.begun:
            self._limit_head()

    async def _serve_one(self, request: Request) -> bool:
        """Serve one request; whether the connection can take another."""
        body = request.payload
        reply = await self._serve(request)
        known = self._known
        if known is not None and known.message is request.message and known.fields is None:
            self._know(known, request)
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        complete = body.is_eof()
        if reply is not None:
            # Behind a refused CONNECT or Upgrade may stand what was meant for a tunnel: it is nobody's request.
            keep = request.keep_alive and complete and not (self.last or reply.close or self._offered)
            transport.write(reply.encode(head_only=request.method == "HEAD", keep_alive=keep))
            request.keep_alive = keep
        if not complete or request.error is not None:
            unknown = reply is not None and reply.status == 401
            if reply is not None and reply.status == 408:  # there is nothing to read on
                return False
            await self._linger(transport, LINGER_BYTES if unknown else sys.maxsize)
            return False
        return request.keep_alive

    def _know(self, known: _Known, request: Request) -> None:
        """The request's head was found good; keep what was made of it, as little as there is."""
        fields = request.fields
        if fields.expect or not request.keep_alive or fields.content_length is None:
            self._known = None
            return
        fields.write_once()
        known.fields = fields
        known.message = request.message._replace(headers=NO_HEADERS, url=NO_URL)

    async def _linger(self, transport: asyncio.Transport, left: int) -> None:
        """Send a FIN and read on for a moment: closing over unread bytes would reset what was just written."""
        self._upload = None
        self._linger_left = left
        self._lingering = self._loop.create_future()
        data, self._backlog = self._backlog, b""
        self._drop(data)
        self._reading_paused = False
        self._resume_reading_for_buffer()
        if transport.can_write_eof():
            transport.write_eof()
        try:
            async with asyncio.timeout(LINGER_S):
                await self._lingering
        except TimeoutError:
            pass

    def _drop(self, data: bytes) -> None:
        """Read what nobody wants, to the end of the body that was arriving, where it has one."""
        lingering, body = self._lingering, self._body
        if lingering is None or lingering.done():
            return
        self._linger_left -= len(data)
        if body is not None and not body.broken:
            body.feed(data)
        if self._linger_left < 0 or (body is not None and body.complete):
            lingering.set_result(None)


def _in_its_turn(request: Request) -> bool:
    """Begin nothing before the task serves it."""
    return False


class Server(web.Server):
    """aiohttp's low-level server with `Downstream` for its protocol."""

    def __init__(
        self,
        serve: Handler,
        refuse: Handler,
        limit: ClientLimit,
        begin: Callable[[Request], bool] = _in_its_turn,
        *,
        write_idle_s: float,
        keepalive_s: float,
        head_limit_bytes: int,
        **kwargs: Any,
    ) -> None:
        """`begin` does what needs no waiting of a request whose body is here, and says whether an answer is under way.

        `serve` does the rest, or all of it. `refuse` serves the one request of a client for whom `limit` has no room;
        the rest is for `allow`.
        """
        super().__init__(serve, handler_cancellation=True, **kwargs)  # type: ignore[arg-type]
        self.begin = begin
        self.serve = serve
        self.limit = limit
        self.handshakes: set[TlsClient] = set()  # who are no connections yet
        self._refuse = refuse
        self.allow(write_idle_s, keepalive_s, head_limit_bytes)

    def allow(self, write_idle_s: float, keepalive_s: float, head_limit_bytes: int) -> None:
        """How long a client may not read, how long it may be idle, and how large its heads may be.

        Open connections look at their next request anew; their heads keep their limit, and a request that runs all.
        """
        self.write_idle_s = write_idle_s
        self.keepalive_s = keepalive_s
        self.head_limit_bytes = head_limit_bytes
        for client in self.clients:
            if not client.busy:
                client.write_idle_s = write_idle_s
            client._keepalive_timeout = keepalive_s
            client.forget()

    def __call__(self) -> Downstream:
        return Downstream(self, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """A client has connected; one too many takes the place of an idle one, or is turned away."""
        self.handshakes.discard(transport)
        crowded = not self._has_room()
        super().connection_made(handler, transport)
        if crowded:
            if self.limit.refuses(self._count):
                handler.turn_away(self._refuse, REFUSED_S)
            else:
                transport.abort()

    def shaking_hands(self, client: TlsClient) -> bool:
        """A TLS client has connected; whether there is room for it to say hello."""
        limit = self.limit
        if not self._has_room() and self._count >= limit.most + limit.refusals:
            limit.refuses(self._count + 1)
            return False
        self.handshakes.add(client)
        return True

    @property
    def _count(self) -> int:
        return len(self._connections) + len(self.handshakes)

    def _has_room(self) -> bool:
        """Whether one more client has its place, which an idle one may have had to give up."""
        if self._count < self.limit.most:
            return True
        # Not `clients`: a list of them all for each newcomer is too much in a crowd.
        everybody: Any = chain(self.handshakes, self._connections)
        return self.limit.make_room(everybody, self._loop.time())

    @property
    def clients(self) -> list[Downstream]:
        """The open connections."""
        return [connection for connection in self._connections if isinstance(connection, Downstream)]
