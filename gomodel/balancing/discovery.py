"""Discovery: asks in the background for the names of which every address is a replica, and follows their answers.

Decides when a name is asked: at the start, every INTERVAL_S, and soon after a connect to one of its addresses failed.
What an answer means is `upstream.name_sets`', what becomes of replicas `instance`'s. Nothing waits for a name but the
start, for a moment, and a request for which there is no replica at all.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable

from ..telemetry.bugs import reported
from ..upstream.name_sets import NameSet

INTERVAL_S = 5.0
# Many gateways must not ask in step.
_JITTER = 0.1
# Between two questions that failed connects ask for.
SOONEST_S = 0.5
# The start waits so long for the first answers.
FIRST_ANSWER_S = 0.5


class Discovery:
    """One task per name, from `start` to `close`."""

    def __init__(self, names: Iterable[NameSet], follow: Callable[[], Awaitable[None]]) -> None:
        """`follow` is called after every look-up: the replicas are to be those of all sets now."""
        self._names = list(dict.fromkeys(names))
        self._follow = follow
        self._soon = {each: asyncio.Event() for each in self._names}
        self._tasks: list[asyncio.Task[None]] = []

    async def first_answers(self, limit_s: float = FIRST_ANSWER_S) -> None:
        """Ask for every name that was never answered; returns when they are, after `limit_s` at the latest."""
        questions = [asyncio.create_task(each.ask()) for each in self._names if each.answered_at is None]
        if questions:
            await asyncio.wait(questions, timeout=limit_s)
            for each in questions:
                each.cancel()  # the look-up goes on, and whoever asks next shares it
            await asyncio.gather(*questions, return_exceptions=True)
            await self._follow()

    def start(self) -> None:
        """Ask for every name from now on."""
        self._tasks = [asyncio.create_task(self._watch(each)) for each in self._names]
        for task in self._tasks:
            task.add_done_callback(reported("Following a name"))

    def soon(self, name: NameSet) -> None:
        """Ask for a name soon: one of its addresses cannot be reached."""
        self._soon[name].set()

    def stop(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Stop, and return when nothing is left of it."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _watch(self, name: NameSet) -> None:
        soon = self._soon[name]
        if name.answered_at is None:
            await self._ask(name)
        while True:
            try:
                async with asyncio.timeout(INTERVAL_S * (1 + random.uniform(-_JITTER, _JITTER))):
                    await soon.wait()
            except TimeoutError:
                pass
            soon.clear()
            await self._ask(name)
            await asyncio.sleep(SOONEST_S)

    async def _ask(self, name: NameSet) -> None:
        await name.ask()
        await self._follow()
