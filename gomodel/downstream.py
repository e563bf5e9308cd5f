"""The client's side of a connection: aiohttp parses, one task per connection serves its requests in order.

Decides when a connection lives on, lingers or is aborted. Knows nothing of routes, keys or instances: a request
goes to one composed handler, which returns a `Reply` to be written here or `None` when it wrote the answer itself.

Leans on these internals of aiohttp 3.14 (tests/test_aiohttp_internals.py fails when they move): `web.Server.__call__`
makes the protocol and cancels `_task_handler` when the client leaves (`handler_cancellation`); `RequestHandler.start`
is the task; `_messages`, `_waiter`, `_parser`, `_upgraded`, `_message_tail`, `_buffer_paused`, `_keepalive_handle`,
`_next_keepalive_close_time`, `_force_close` mean what they mean in its own `start`. aiohttp's `start` makes a task, a
StreamWriter and a BaseRequest per request, answers parse errors in text and writes a clean end after a fault; this
one does not.
"""

import asyncio
import fcntl
import logging
import socket
import struct
import sys
import termios
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http import HttpVersion10, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from .errors import BadRequest
from .message import Handler, Request

_logger = logging.getLogger("gomodel")

# A refused upload is read on for this long, so that its answer is not lost to a reset (RFC 9112 9.6); without the key
# only this far, since nobody is to make the gateway read for nothing.
LINGER_S = 2.0
LINGER_BYTES = 1 << 20
# How often a client that is not read from is looked at; within what rule 3 of the contract allows.
LOOK_S = 0.03
# TCP_CLOSE and TCP_CLOSE_WAIT, as linux/tcp_states.h counts them.
_PEER_GONE = (7, 8)
_RESET = struct.pack("ii", 1, 0)


class Pausing(Protocol):
    """Whoever feeds the client and must stop when it does not read."""

    def hold(self) -> None: ...
    def release(self) -> None: ...


_UNPARSED = RawRequestMessage(
    "UNKNOWN", "/", HttpVersion10, CIMultiDictProxy(CIMultiDict()), (), True, None, False, False, URL("/")
)


class Downstream(RequestHandler):
    """One client connection."""

    __slots__ = ("_look", "_payload", "_serve", "_unsent", "busy", "client", "feeder", "last", "write_idle_s")

    def __init__(self, manager: "Server", **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._serve = manager.serve
        self.write_idle_s = manager.write_idle_s
        self.busy = False
        self.last = False  # draining: the request being served is the last one
        self.feeder: Pausing | None = None
        self._payload: StreamReader | None = None
        self._look: asyncio.TimerHandle | None = None
        self._unsent = 0  # when writing was paused or `progressed` was last asked
        self.client = ""  # the peer's address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.client = str(peer[0]) if isinstance(peer, tuple) else "unix"

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except ValueError:
            # aiohttp's parser in Python passes on what int() says of a Content-Length of thousands of digits.
            self.force_close()
            return
        payload = self._payload
        if (
            payload is not None
            and self._messages
            and isinstance(self._messages[-1][0], _ErrInfo)
            and not payload.is_eof()
        ):
            # The C parser tells nobody but the queue when a body's framing breaks; its reader would wait for ever.
            payload.set_exception(BadRequest("The framing of the request body is invalid."))

    def _pause_transport_reading(self) -> None:
        super()._pause_transport_reading()
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._look_for_the_end)

    def _resume_transport_reading(self) -> None:
        super()._resume_transport_reading()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_for_the_end(self) -> None:
        """A client that leaves while it is not read from shows in the kernel's state alone."""
        self._look = None
        if self.transport is None:
            return
        if _left(self.transport):
            self.abort()
        else:
            self._look = self._loop.call_later(LOOK_S, self._look_for_the_end)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Every read and every end of a body calls this; aiohttp then parses again although nothing was paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = _unsent(self.transport)
        if self.feeder is not None:
            self.feeder.hold()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.feeder is not None:
            self.feeder.release()

    def progressed(self) -> bool:
        """Whether the client has read anything since writing was paused, or since this was last asked.

        The transport says nothing until megabytes in the kernel are gone, which takes a slow client longer than any
        limit for one that does not read.
        """
        before, self._unsent = self._unsent, _unsent(self.transport)
        return self._unsent < before

    def close_when_idle(self, quiet_s: float = 0.0) -> None:
        """Draining: close now if no request is being served and none was for `quiet_s`, else after the next."""
        self.last = True
        if self.busy or self._messages:
            return
        active = self._next_keepalive_close_time - self._keepalive_timeout
        if self._loop.time() - active >= quiet_s:
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

    async def _serve_one(self, message: Any, payload: StreamReader) -> bool:
        """Serve one request; whether the connection can take another."""
        if isinstance(message, _ErrInfo):
            request = Request(self, _UNPARSED, payload)
            request.error = BadRequest("The request is not valid HTTP/1.1.")
        else:
            request = Request(self, message, payload)
        self._payload = payload
        try:
            reply = await self._serve(request)
        finally:
            self._payload = None
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

    async def _drained(self) -> bool:
        """Take no further request from a client that has not read its answers; whether it did in time."""
        while True:
            try:
                async with asyncio.timeout(self.write_idle_s):
                    await self._drain_helper()
            except TimeoutError:
                self._drain_waiter = None  # cancelled with the wait
                if not self.progressed():
                    self.abort()
                    return False
            except ConnectionError:
                return False
            else:
                return True

    async def _linger(self, transport: asyncio.Transport, payload: StreamReader, left: int) -> None:
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

    def truncate(self, *, close_delimited: bool) -> None:
        """End the connection so that no client can take what it has for a whole answer.

        What was written before is delivered. Without the last chunk, or short of Content-Length, a FIN says enough;
        a close-delimited body needs a reset (RFC 9112 8). A client that does not read is cut off after the write limit.
        """
        transport = self.transport
        if transport is None:
            return
        if close_delimited:
            if transport.get_extra_info("sslcontext") is not None:
                transport.abort()  # closing would send close_notify, a clean end
                return
            sock = transport.get_extra_info("socket")
            if sock is not None and sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._end(transport)

    def force_close(self) -> None:
        transport = self.transport
        super().force_close()
        if transport is not None:
            self._end(transport)

    def _end(self, transport: asyncio.Transport, unsent: int | None = None) -> None:
        """Close when all is sent. A client that stops reading is cut off, or it would keep the descriptor for ever."""
        left = _unsent(transport)
        if left and left == unsent:
            transport.abort()
            return
        transport.close()
        if left:
            self._loop.call_later(self.write_idle_s, self._end, transport, left)

    def abort(self) -> None:
        """Drop the connection and what was not sent yet."""
        if self.transport is not None:
            self.transport.abort()


def _left(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its side; False where the kernel does not say (unix sockets)."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family == socket.AF_UNIX:
        return False
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _PEER_GONE
    except OSError:
        return True


class Server(web.Server):
    """aiohttp's low-level server with `Downstream` for its protocol."""

    def __init__(self, serve: Handler, *, write_idle_s: float, **kwargs: Any) -> None:
        super().__init__(serve, handler_cancellation=True, **kwargs)  # type: ignore[arg-type]
        self.serve = serve
        self.write_idle_s = write_idle_s

    def __call__(self) -> Downstream:
        return Downstream(self, loop=self._loop, **self._kwargs)

    @property
    def clients(self) -> list[Downstream]:
        """The open connections."""
        return [connection for connection in self._connections if isinstance(connection, Downstream)]


def _unsent(transport: asyncio.Transport | None) -> int:
    """Bytes the client has not confirmed, the transport's and the kernel's; 0 when the transport has none."""
    left = transport.get_write_buffer_size() if transport is not None else 0
    if left and transport is not None:
        sock = transport.get_extra_info("socket")
        left += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return left
