"""What a client sends, cut into requests: heads by aiohttp's parser, bodies by our framing.

Decides how far ahead of the request being served is read, what is no request any more, and which heads may be known
when they come again. Knows nothing of who serves a request or when: `_take` is told of each.

Leans on `_messages`, `_buffer_paused`, `_keepalive_handle` and `_next_keepalive_close_time` of
aiohttp 3.14; see `task`.
"""

import asyncio
import sys
from typing import Any

from aiohttp.http import HttpVersion11

from ..errors import BadRequest
from ..host.bounded_reads import READ_BYTES, bound_reads
from ..http1.framing import Chunked, Sized
from ..http1.message import RequestMessage
from ..http1.repeated_head import repeatable
from ..http1.request_fields import RequestFields
from .connection import ClientConnection
from .known_head import KnownHead
from .request import Arrived, Request, Switched
from .request_head import BadHead, HeadReader
from .upload import Upload

# A connection whose heads are all different is not asked to remember any.
MISSES = 8
# Heads that are read ahead of the request being served, and when reading goes on.
AHEAD = 32
_AHEAD_AGAIN = 16
# How long a head may take from its first byte to its last; nginx allows as much.
HEAD_S = 60.0
# What no Content-Length in earnest has; more is refused before it is waited for.
_LENGTH_DIGITS = 18


class Arrivals(ClientConnection):
    """A client connection and the requests that come over it."""

    __slots__ = (
        "_backlog",
        "_body",
        "_bounded",
        "_ended",
        "_heads",
        "_known",
        "_linger_left",
        "_lingering",
        "_misses",
        "_offered",
        "_switched",
        "_upload",
    )

    def __init__(self, manager: Any, *, head_limit_bytes: int, **kwargs: Any) -> None:
        """`head_limit_bytes` is for the whole head of a request."""
        super().__init__(manager, **kwargs)
        self._parser = None  # reads bodies, too
        self._heads = HeadReader(self._loop, head_limit_bytes)
        self._known: KnownHead | None = None
        self._misses = 0
        self._body: Sized | Chunked | None = None  # of the last request read, while it is arriving
        self._bounded = False  # it is read in small pieces, which can be lent
        self._upload: Upload | None = None  # and who gets it
        self._backlog = b""  # received, and not to be looked at yet
        self._offered = False  # the last request read offers a WebSocket: what follows may not be HTTP
        self._switched: Switched | None = None
        self._ended = False  # nothing behind the last request read is a request
        self._lingering: asyncio.Future[None] | None = None
        self._linger_left = 0

    def _take(self, message: RequestMessage | BadHead, body: Upload | Arrived) -> None:
        """A request has come, with its body or with what will bring it."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        if self._switched is not None:
            self._bound(data)
            self._switched.feed_data(data)
        elif self._backlog:
            self._backlog += data
        elif self._body is None or not self._lend(memoryview(data)):
            self._read(data)

    def _read(self, data: bytes) -> None:
        """Bodies and heads in turn, until something has to be waited for; what is left then is the backlog."""
        while data:
            if self._lingering is not None or (self._ended and self._body is None):
                self._drop(data)
                return
            if self._body is not None:
                data = self._read_body(self._body, data)
            elif self._offered or len(self._messages) >= AHEAD:
                break
            else:
                data = self._read_head(data)
            if data and self._body is not None:  # others have their turn
                self._loop.call_soon(self._read_on)
                break
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
        self._known = None
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
        if length and length >= len(rest) and not (chunked or begun or self._ended or self._messages):
            self._remember(message, data, end)
        if not chunked and length <= len(rest):
            self._offered = not length and message.upgrade and headers.get("Upgrade", "").lower() == "websocket"
            self._take(message, Arrived(rest[:length], None))
            return rest[length:]
        body: Sized | Chunked = Chunked(strict=True) if chunked else Sized(length)
        upload = self._begin_body(body, rest, None)
        self._take(message, upload)
        upload.limit()
        return b"" if body.broken else body.rest

    def _begin_body(self, body: Sized | Chunked, data: bytes, fields: RequestFields | None) -> Upload:
        """A body whose first bytes are `data`, if any, and of which more may have to come."""
        self._body = body
        self._upload = upload = Upload(self, fields)
        if data:
            self._feed(body, upload, data)
        return upload

    def _read_body(self, body: Sized | Chunked, data: bytes) -> bytes:
        """The next of the body that is arriving; what was not looked at."""
        upload = self._upload
        assert upload is not None
        self._feed(body, upload, data)
        upload.limit()
        return b"" if body.broken else body.rest

    def _feed(self, body: Sized | Chunked, upload: Upload, data: bytes) -> None:
        self._bound(data)
        payload = body.feed(data)
        if body.complete:
            self._body = self._upload = None
            upload.feed(payload, last=True)
            return
        upload.feed(payload)
        if body.broken:
            self._body = self._upload = None
            self._ended = True
            upload.set_exception(BadRequest("The framing of the request body is invalid."))

    def _bound(self, data: bytes) -> None:
        if len(data) > READ_BYTES:
            self.lend_reads()

    def lend_reads(self) -> None:
        """Read in small pieces, which whoever sends an upload on may take as they stand in the buffer of the read."""
        transport = self.transport
        if not self._bounded and transport is not None and transport.get_extra_info("sslcontext") is None:
            self._bounded = True
            bound_reads(transport, self, self._lend)

    def _lend(self, data: memoryview) -> bool:
        """Whether `data` was nothing but more of a body, and is done with."""
        body, upload = self._body, self._upload
        if body is None or upload is None or upload.borrower is None or self._backlog:
            return False
        pieces = body.pieces(data)
        if pieces is None:
            return False
        if pieces and not upload.borrower(pieces):  # there are none in a read of framing alone
            upload.feed(b"".join(pieces))
            upload.limit()
        return True

    def _remember(self, message: RequestMessage, data: bytes, head_bytes: int) -> None:
        """`data` begins with the head of a request, and it may be known again."""
        head = repeatable(data, head_bytes) if self._misses < MISSES else None
        if head is not None:
            self._known = KnownHead(head, message)
            self._misses += 1
            self._heads.rest()

    def _served(self, request: Request) -> None:
        """A request was served; when its head comes again, what was made of it is known."""
        known = self._known
        if known is not None and known.message is request.message and known.fields is None and not known.learn(request):
            self._known = None

    def forget(self) -> None:
        """Look at the fields of the next request anew: the configuration has changed."""
        self._known = None

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

    def _go_on_ahead(self) -> None:
        """A request was taken from those that were read ahead: read on, once there is room."""
        if self._backlog and self._body is None and not self._offered and len(self._messages) == _AHEAD_AGAIN:
            self._loop.call_soon(self._read_on)  # in a turn of its own, or thousands of requests would have one
