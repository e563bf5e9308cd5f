"""Questions to the other worker processes of one gateway, by way of the supervisor.

Decides how a question and its answers are matched and how long they are waited for. Knows nothing of what is asked:
whoever can answer registers a function for a kind of question ("metrics", "requests"), whoever asks gets the answers.
With a single process there are no others and every question has no answers.

A process has one place among its siblings, so `register` and `ask_siblings` are also functions of this module.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from ..errors import Overloaded

_logger = logging.getLogger("gomodel")

# The question whose answers the supervisor remembers. Its argument are the asker's own numbers.
METRICS = "metrics"
# The same, without what a release has counted that this one took over from.
OWN = "own"
# The question that the supervisor itself answers: who waits for a slot, in order.
PLACES = "places"
# The question whose argument the supervisor remembers for workers that start later: an instance, and what of it is out.
ROTATION = "rotation"
# A worker whose loop is blocked for longer must not hold up a scrape of the others.
PATIENCE_S = 1.0
# For the supervisor, which itself gives up on workers after PATIENCE_S; it does nothing that takes long.
_SUPERVISOR_S = PATIENCE_S + 4.0

Answer = Callable[[Any], Any]


class Siblings:
    """One worker's view of the others."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._alone = True
        self._send: Callable[..., None] | None = None
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}
        self._numbers = count()
        self._before: Callable[[], Awaitable[list[Any]]] | None = None

    @property
    def alone(self) -> bool:
        """Whether there are no others."""
        return self._alone

    def register(self, kind: str, answer: Answer) -> None:
        """Answer questions of `kind` with `answer(argument)`. A later one for the same kind replaces it."""
        self._answers[kind] = answer

    def follow(self, numbers: Callable[[], Awaitable[list[Any]]]) -> None:
        """Another release ends, and its `numbers` count as well; where there are others the supervisor asks it."""
        self._before = numbers

    def join(self, send: Callable[..., None]) -> None:
        """There are others, to be reached through `send(*message)`."""
        self._alone = False
        self._send = send

    def leave(self) -> None:
        """The end: say what was counted last, and give up on what is asked."""
        if self._send is not None:
            for numbers in self._answer(METRICS, None):
                self._send("numbers", numbers)
        self.lost()

    def lost(self) -> None:
        """Nobody can be reached any more; whoever asks is told so."""
        self._send = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(_unreachable())

    async def ask(self, kind: str, argument: Any = None) -> list[Any]:
        """The answers of all other workers; one that is dead, slow or knows no such kind is left out.

        The answers to METRICS and OWN, which take the asker's own numbers, are snapshots that add up to all that was
        ever counted by any worker. Raises Overloaded when the supervisor does not answer: a part of the whole would
        pass for the whole.
        """
        if self._alone:
            if kind == METRICS and self._before is not None:
                return [argument, *await self._before()]
            return [argument] if kind in (METRICS, OWN) else []
        if self._send is None:
            raise _unreachable()
        number = next(self._numbers)
        waiting: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            self._send("ask", number, kind, argument)
            async with asyncio.timeout(_SUPERVISOR_S):
                return await waiting
        except TimeoutError:
            raise _unreachable() from None
        finally:
            del self._waiting[number]

    def asked(self, number: int, kind: str, argument: Any) -> None:
        """Answer question `number` of another worker."""
        if self._send is not None:
            self._send("answer", number, kind, self._answer(kind, argument))

    def answered(self, number: int, answers: list[Any]) -> None:
        """The answers to one's own question `number`."""
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answers)

    def _answer(self, kind: str, argument: Any) -> list[Any]:
        """The answer as a list of one, or an empty one."""
        answer = self._answers.get(kind)
        if answer is None:
            return []
        try:
            return [answer(argument)]
        except Exception:
            # Without an answer the asker leaves this worker out; the reason is known only here.
            _logger.exception("A question of another worker could not be answered")
            return []


def _unreachable() -> Overloaded:
    message = "The other workers cannot be asked: their supervisor does not answer."
    return Overloaded(message, code="workers_unreachable", retry_after_s=1)


process = Siblings()


def alone() -> bool:
    """Whether there are no other workers, and never were."""
    return process.alone


register = process.register
ask_siblings = process.ask
