"""What one batch does while its disk is full or its database away: waits, says so, and tries again.

Decides which failures pass by themselves. Knows nothing of lines.
"""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .batch_store import BatchStore
from .database import DatabaseAway
from .records import Work
from .results import LeaseLost

_logger = logging.getLogger("gomodel")

_T = TypeVar("_T")

_RETRY_S = 2.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Patience:
    """That of one batch. `paused` says why it does not move, "" while it does."""

    def __init__(self, work: Work, batches: BatchStore, hold: Callable[[], None]) -> None:
        """`hold` is called when nothing new may run for now."""
        self._work = work
        self._batches = batches
        self._hold = hold
        self.paused = ""

    async def persist(self, what: Callable[[], Awaitable[_T]]) -> _T:
        """Do `what`, again and again while that fails for a reason that passes. Raises LeaseLost, OSError."""
        while True:
            try:
                result = await what()
            except DatabaseAway as away:
                await self._pause(str(away))
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                await self._pause("the disk is full")
            else:
                if self.paused:
                    _logger.info("Batch %s goes on", self._work.id)
                    self.paused = ""
                return result

    async def _pause(self, why: str) -> None:
        self._hold()
        if why != self.paused:
            self.paused = why
            _logger.error("Batch %s is paused: %s", self._work.id, why)
        try:
            if await self._batches.say(self._work, why) is None:
                raise LeaseLost
        except DatabaseAway:
            pass
        await asyncio.sleep(_RETRY_S)
