"""Runs a coroutine of the event loop that waits once or twice, as for a connection, without a task for it.

A task would be begun, woken and ended in turns of the loop of their own, for each connection of a crowd. Only for
coroutines that wait for plain futures and do not ask which task they are in.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Ended = Callable[[Any, BaseException | None], None]


class Stepped:
    """A coroutine on its way; `ended` gets what it returns or raises, never before this is made."""

    __slots__ = ("_coroutine", "_ended", "_loop", "_waits_for")

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], ended: Ended) -> None:
        self._loop = loop
        self._coroutine: Coroutine[Any, Any, Any] | None = coroutine
        self._waits_for: asyncio.Future[Any] | None = None
        self._ended: Ended | None = None
        self._step()
        self._ended = ended

    def _step(self, _: "asyncio.Future[Any] | None" = None) -> None:
        assert self._coroutine is not None
        try:
            future = self._waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self._end(end.value, None)
        except (OSError, RuntimeError, asyncio.CancelledError) as exc:
            self._end(None, exc)
        else:
            future.add_done_callback(self._step)

    def _end(self, value: Any, exc: BaseException | None) -> None:
        """Say so, and keep nothing: whoever is told may keep this."""
        self._coroutine = self._waits_for = None
        ended, self._ended = self._ended, None
        if ended is None:  # it did not wait
            self._loop.call_soon(self._end, value, exc)
        else:
            ended(value, exc)

    def cancel(self) -> None:
        """Let it raise CancelledError where it waits."""
        if self._waits_for is not None:
            self._waits_for.cancel()
