"""Serves a request in the turns of the loop in which it comes, and its answer in those in which that does.

What need not wait, but for its own bytes, goes through the chain by plain calls, and its answer ends it likewise, in
the turn in which that ends; the connection's task sleeps meanwhile, serves the rest, and goes on with what turns out to
wait.
Decides which of the two serves a request, and which are known again without parsing. Leans on aiohttp's `_waiter` and
`_messages`; see `task`.
"""

import asyncio
from typing import Any

from ..http1.framing import Sized
from ..http1.message import RequestMessage
from .request import Arrived, Begin, Handler, Request
from .request_head import BadHead
from .task import ServedByTask
from .upload import Upload


class Downstream(ServedByTask):
    """One client connection and the requests that come over it."""

    __slots__ = ("_begin",)

    def __init__(self, manager: Any, begin: Begin, **kwargs: Any) -> None:
        """`begin` as for `Server`."""
        super().__init__(manager, **kwargs)
        self._begin = begin

    def data_received(self, data: bytes) -> None:
        known, waiter = self._known, self._waiter
        if known is not None and waiter is not None and (fields := known.fields) is not None and not waiter.done():
            head = known.head
            start = 0 if fields.varied else head.match(data)
            if start:
                fields.content_length = length = head.length
            else:
                start = known.like(data, self._heads.limit)
                length = fields.content_length or 0
            if start and (missing := length - len(data) + start) >= 0:
                self._misses = 0
                if missing:
                    upload = self._begin_body(Sized(length), data[start:], fields)
                    self._serve_now(Request(self, known.message, upload), waiter)
                    upload.limit()
                else:
                    self._serve_now(Request(self, known.message, Arrived(data[start:], fields)), waiter)
                return
        super().data_received(data)

    def _take(self, message: RequestMessage | BadHead, body: Upload | Arrived) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._messages.append((message, body))  # type: ignore[arg-type]
        elif not (self._offered or isinstance(message, BadHead)):
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
            self.to_task()

    def to_task(self) -> None:
        """See ServedByTask."""
        waiter, self._parked = self._parked, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def answered(self, request: Request) -> None:
        """See ServedByTask."""
        waiter, self._parked = self._parked, None
        if waiter is None or waiter.done():  # the task was woken by something else and sees for itself
            return
        if not (request.keep_alive and not self._paused and self.transport is not None and request.app.end(request)):
            waiter.set_result(None)
            return
        self._begun = None
        known = self._known
        if known is not None and known.fields is None:
            self._served(request)
        self._rest()
        self._waiter = waiter
        if self._messages:
            waiter.set_result(None)

    @property
    def to_spare(self) -> bool:
        """Whether nothing is being done for this client: no request of it runs, or its answer has been sent."""
        return self._lingering is not None or self.idle_since is not None

    def turn_away(self, serve: Handler, within_s: float) -> None:
        """There is no room for this client: `serve` its next request, if that comes in time, and close."""
        self._begin = in_its_turn
        self._serve = serve
        self.last = True
        self._loop.call_later(within_s, self.close_when_idle)


def in_its_turn(request: Request) -> bool:
    """Begin nothing before the task serves it."""
    return False
