"""Where lines wait for their turn: as many run at once as the pace of their model allows.

Decides the order: first those that have run before and were told to come back, then those that come, one batch after
the other. Nothing new begins while one waits to come back.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable

from .politeness import Pace


class Gate:
    """One model's."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.running = 0
        self.away = 0  # told to come back, and not back yet
        self.kept = False  # since it was last looked at, somebody had to wait
        self.servers: set[str] = set()  # which answered
        self._back: deque[asyncio.Future[None]] = deque()
        self._new: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a turn; `leave` gives it back."""
        if self.away or self._new or self.running >= self.pace.limit:
            await self._wait(self._new)
        else:
            self.running += 1

    @property
    def waiting(self) -> int:
        """How many lines wait for a turn."""
        return len(self._back) + len(self._new)

    def leave(self) -> None:
        """A line is over."""
        self.running -= 1
        self.admit()

    async def come_back(self, after: Awaitable[None]) -> None:
        """Leave until `after` is over, and wait for another turn, before all that is new."""
        self.away += 1
        self.running -= 1
        self.admit()
        try:
            await after
            if self.running >= self.pace.limit or self._back:
                await self._wait(self._back)
            else:
                self.running += 1
        except BaseException:
            self.running += 1  # `leave` follows
            raise
        finally:
            self.away -= 1
            self.admit()

    async def _wait(self, queue: "deque[asyncio.Future[None]]") -> None:
        self.kept = True
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()
            elif turn in queue:
                queue.remove(turn)
            raise

    def admit(self) -> None:
        """Let in as many as there is room for."""
        for queue in (self._back, self._new):
            while queue and self.running < self.pace.limit and (queue is self._back or not self.away):
                turn = queue.popleft()
                if not turn.done():
                    self.running += 1
                    turn.set_result(None)
