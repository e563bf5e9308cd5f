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
        self._coroutine = coroutine
        self._waits_for: asyncio.Future[Any] | None = None
        self._ended: Ended = self._soon
        self._step()
        self._ended = ended

    def _soon(self, value: Any, exc: BaseException | None) -> None:
        self._loop.call_soon(lambda: self._ended(value, exc))

    def _step(self, _: "asyncio.Future[Any] | None" = None) -> None:
        try:
            future = self._waits_for = self._coroutine.send(None)
        except StopIteration as end:
            self._ended(end.value, None)
        except (OSError, RuntimeError, asyncio.CancelledError) as exc:
            self._ended(None, exc)
        else:
            future.add_done_callback(self._step)

    def cancel(self) -> None:
        """Let it raise CancelledError where it waits."""
        if self._waits_for is not None:
            self._waits_for.cancel()
