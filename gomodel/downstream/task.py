"""The task of a client connection: serves one request after the other where something has to be waited for.

Decides when a connection lives on, when it closes and when it lingers. Knows nothing of routes, keys or instances: a
request goes to one composed handler, which returns a `Reply` to be written here or `None` when it wrote the answer
itself.

Leans on these internals of aiohttp 3.14 (tests/wire/test_aiohttp_internals.py fails when they move):
`Server.__call__` makes the protocol; `RequestHandler.connection_lost` cancels `_task_handler`
(`handler_cancellation`); `_messages`, `_waiter`, `_buffer_paused`, `_keepalive_handle`,
`_next_keepalive_close_time`, `_force_close` mean what they mean in its own `start`.
aiohttp's `start` makes a task, a StreamWriter and a BaseRequest per request, answers parse errors in text and writes a
clean end after a fault; this one does not.
"""

import asyncio
import sys
from typing import Any

from .arrivals import Arrivals
from .request import Handler, Request
from .request_head import BadHead

# A refused upload is read on for this long, so that its answer is not lost to a reset (RFC 9112 9.6); without the key
# only this far, since nobody is to make the gateway read for nothing.
LINGER_S = 2.0
LINGER_BYTES = 1 << 20


class ServedByTask(Arrivals):
    """A client connection whose requests are served one after the other."""

    __slots__ = ("_active_at", "_begun", "_parked", "_serve", "busy", "last")

    def __init__(self, manager: Any, serve: Handler, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._serve = serve
        self._begun: Request | None = None  # being served since the turn in which it came
        self._parked: asyncio.Future[None] | None = None  # what the task waits for meanwhile
        self.busy = False
        self.last = False  # draining: the request being served is the last one
        self._active_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Made here, so that the first request does not have to wait for the task to begin.
        self._waiter = waiter = self._loop.create_future()
        self.task = self._loop.create_task(self._serve_all(waiter))

    async def _serve_all(self, waiter: asyncio.Future[None] | None) -> None:
        """Serve every request that is not served at once; `waiter` is for the first."""
        loop = self._loop
        try:
            while not self._force_close:
                if waiter is None and not self._messages:
                    self._waiter = waiter = loop.create_future()
                if waiter is not None:
                    try:
                        await waiter
                    except asyncio.CancelledError:
                        if self._begun is None:
                            raise
                        _cancel_next_wait()  # of the request
                    finally:
                        self._waiter = self._parked = waiter = None
                self.busy = True
                if not await self._serve_next():
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

    def answered(self, request: Request) -> None:
        """The answer to a request that no task waits for is over."""
        raise NotImplementedError

    def to_task(self) -> None:
        """A request that no task waits for has to wait for something: the task goes on with it."""
        raise NotImplementedError

    def _next(self) -> Request:
        """The next of the requests that were read ahead."""
        message: Any
        body: Any
        message, body = self._messages.popleft()
        self._go_on_ahead()
        if not isinstance(message, BadHead):
            return Request(self, message, body)
        request = Request(self, message.message, body)
        request.error = message.error
        return request

    async def _serve_next(self) -> bool:
        """Serve one request; whether the connection can take another."""
        request, self._begun = self._begun or self._next(), None
        body = request.payload
        reply = await self._serve(request)
        self._served(request)
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

    def _rest(self) -> None:
        """No request is being served; the time of an idle connection begins."""
        self.busy = False
        self._active_at = now = self._loop.time()
        self._next_keepalive_close_time = now + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if self._heads.begun:
            self._limit_head()

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

    @property
    def idle_since(self) -> float | None:
        """Since when no request is being served, by the loop's clock; None while one is."""
        if self.busy or self._messages:
            return None
        return self._active_at

    def close_when_idle(self, quiet_s: float = 0.0) -> None:
        """Draining: close now if no request is being served and none was for `quiet_s`, else after the next."""
        self.last = True
        active = self.idle_since
        if active is not None and self._loop.time() - active >= quiet_s:
            self.force_close()


def _cancel_next_wait() -> None:
    """What cancelled the wait of this task is meant for its next one.

    A frame that the error of a cancelled task passes must not name the task: the two would keep each other, and the
    connection, until the collector comes.
    """
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()
