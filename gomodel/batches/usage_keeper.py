"""Keeps what the gateway counts of usage: the sums that it says now and then, put into the hours of the database.

Decides what happens while the database is away: the newest sums wait, which hold all that earlier ones did.
"""

import asyncio
from time import time

from ..telemetry.usage_table import Row
from .database import DatabaseAway
from .usage_store import UsageStore

_AGAIN_S = 2.0


class UsageKeeper:
    """`hear` of sums while `run` runs, then `finish`."""

    def __init__(self, store: UsageStore) -> None:
        self._store = store
        self._said: tuple[str, list[Row], float] | None = None  # that is not kept yet
        self._heard = asyncio.Event()

    def hear(self, run: str, rows: list[Row]) -> None:
        """The sums of `run`, the gateway's life, are these."""
        self._said = run, rows, time()
        self._heard.set()

    async def run(self) -> None:
        """Keep what is heard."""
        while True:
            await self._heard.wait()
            self._heard.clear()
            if not await self.finish():
                self._heard.set()
                await asyncio.sleep(_AGAIN_S)

    async def finish(self) -> bool:
        """Keep what was heard last; whether nothing waits any more."""
        said = self._said
        if said is None:
            return True
        try:
            await self._store.count(*said)
        except DatabaseAway:
            return False
        if self._said is said:
            self._said = None
        return self._said is None
