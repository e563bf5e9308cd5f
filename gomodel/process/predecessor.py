"""The release that this single process has taken over from, until that has ended: what it has counted, and its end.

Decides that no counter falls: what it counted goes on counting here. Those that it took over from itself end before it;
where it is killed, they are told to end by this process. Knows nothing of how sockets came.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ..operations.siblings import PATIENCE_S
from ..telemetry.tally import Numbers
from .elders import Elders
from .handover import Between
from .line_in_loop import LineInLoop
from .orders import Message


class Predecessor:
    """From the start of this one on."""

    def __init__(self, line: Between, elders: Elders, going: Callable[[], object]) -> None:
        """`elders`: it and those before it; `going` is called when it takes no more clients, or is gone before that."""
        self._elders = elders
        self._all_ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for fd in elders.known:
            self._loop.add_reader(fd, self._ended, fd)
        self._line = LineInLoop(line, self._hear, self._lost)
        self._going: Callable[[], object] | None = going
        self._known: Numbers = {}
        self._asked = 0
        self._answered = asyncio.Event()
        self._gone = asyncio.Event()

    async def numbers(self) -> list[Numbers]:
        """What it has counted: now, or last where it does not say or is gone."""
        if not self._gone.is_set():
            self._asked += 1
            self._answered.clear()
            self._line.send("question", self._asked)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._answered.wait()
            except TimeoutError:
                pass
        return [self._known]

    def order(self, order: str) -> None:
        """Pass on that the gateway is to end: "drain" or "abort"."""
        if self._gone.is_set():
            self._elders.order(order)
        else:
            self._line.send(order)

    async def end(self, ordered: Callable[[], Coroutine[Any, Any, object]], within_s: float) -> None:
        """Wait for the end of all before: as long as it takes, but `within_s` once that was `ordered`."""
        waits = {asyncio.create_task(self._over()), asyncio.create_task(ordered())}
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        await asyncio.wait(waits)
        try:
            async with asyncio.timeout(within_s):
                await self._over()
        except TimeoutError:
            pass
        self._line.release()
        for fd in self._elders.known:
            self._loop.remove_reader(fd)
        self._elders.close()

    async def _over(self) -> None:
        await self._gone.wait()
        if self._elders.known:
            await self._all_ended.wait()

    def _ended(self, fd: int) -> None:
        """One of those before is no more."""
        self._loop.remove_reader(fd)
        self._elders.forget(fd)
        if not self._elders.known:
            self._all_ended.set()

    def _hear(self, message: Message) -> None:
        match message:
            case ("go", numbers) | ("numbers", numbers):
                self._known = numbers
                self._go()
            case ("answer", number, numbers):
                self._known = numbers
                if number == self._asked:
                    self._answered.set()

    def _lost(self) -> None:
        self._gone.set()
        self._answered.set()
        self._elders.lost()
        self._go()

    def _go(self) -> None:
        going, self._going = self._going, None
        if going is not None:
            going()
