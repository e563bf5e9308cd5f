"""Sends the requests of a recording at their recorded times, or N times faster, and sums up what came.

Decides when each is sent, whoever has not answered by then, and when a client leaves that left then. The key and the
Host are those of the place they are sent to.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ..doctor.client import Connection, unreachable
from ..doctor.exchange import Exchange
from ..doctor.places import Place
from .credentials import with_key
from .lines import End, Recorded
from .messages import Head

# For an answer, beyond what it took when it was recorded.
_LIMIT_S = 600.0
# How an exchange ends that ends badly in the same way again.
_ALIKE = {End.CLIENT_LEFT: "timeout", End.SERVER_CLOSED: "closed", End.SERVER_RESET: "reset"}


@dataclass
class Load:
    """What came of it. Times in seconds; those of the recording are `recorded`."""

    results: Counter[str] = field(default_factory=Counter)
    first_byte_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    recorded_first_byte_s: list[float] = field(default_factory=list)
    recorded_whole_s: list[float] = field(default_factory=list)
    late_s: float = 0.0
    errors: int = 0

    def take(self, recorded: Recorded, exchange: Exchange) -> None:
        """Count one."""
        left = recorded.end is End.CLIENT_LEFT
        as_recorded = recorded.end in _ALIKE and exchange.end == _ALIKE[recorded.end]
        well = exchange.end == "complete" or as_recorded
        self.results["left, as recorded" if as_recorded and left else exchange.in_words] += 1
        before = recorded.answer.status if recorded.response else 0
        self.errors += not well or (exchange.status >= 400 and before < 400)
        if well and exchange.arrivals:
            self.first_byte_s.append(exchange.head_at - exchange.asked_at)
            if recorded.response:
                self.recorded_first_byte_s.append(recorded.response[0][0] - recorded.asked_at)
            if not as_recorded:
                self.whole_s.append(exchange.ended_at - exchange.asked_at)
                self.recorded_whole_s.append(recorded.ended_at - recorded.asked_at)


def percentile(times: Sequence[float], share: float) -> float:
    """The nearest rank of unsorted times; 0.0 of none."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def send(exchanges: Iterable[Recorded], place: Place, speed: float) -> Load:
    """Send them all. WebSockets are left out."""
    load, loop = Load(), asyncio.get_running_loop()
    sender = _Sender(place, speed)
    tasks = []
    wanted = [each for each in exchanges if each.end is not None and not Head(each.head).field(b"upgrade")]
    wanted.sort(key=lambda each: each.at)
    first = wanted[0].at if wanted else 0.0
    begun = loop.time()
    try:
        for each in wanted:
            due = begun + (each.at - first) / speed if speed else begun
            await asyncio.sleep(max(0.0, due - loop.time()))
            load.late_s = max(load.late_s, loop.time() - due if speed else 0.0)
            tasks.append(asyncio.create_task(sender.send(each)))
        for each, task in zip(wanted, tasks, strict=True):
            load.take(each, await task)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        sender.close()
    return load


class _Sender:
    """Keeps connections that are idle for the next request, as clients do."""

    def __init__(self, place: Place, speed: float) -> None:
        self._place = place
        self._speed = speed
        self._idle: list[Connection] = []

    async def send(self, recorded: Recorded) -> Exchange:
        try:
            connection = await self._connection()
        except OSError as error:
            return unreachable(error)
        stays_s = None
        if recorded.end is End.CLIENT_LEFT and self._speed:
            stays_s = (recorded.ended_at - recorded.asked_at) / self._speed
        try:
            took_s = recorded.ended_at - recorded.at
            exchange = await connection.ask(self._pieces(recorded), _LIMIT_S + took_s if stays_s is None else stays_s)
        except BaseException:
            connection.leave()
            raise
        if exchange.kept and exchange.end == "complete" and not connection.closed:
            self._idle.append(connection)
        else:
            connection.leave()
        return exchange

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return await Connection.to(self._place)

    def _pieces(self, recorded: Recorded) -> list[bytes]:
        key = None if self._place.key is None else self._place.key.reveal()
        head = with_key(recorded.head, key)
        first, _, rest = head.partition(b"\r\n")
        method, target, version = first.split(b" ", 2)
        first = b" ".join((method, self._place.prefix.encode() + target, version))
        lines = [line for line in rest.split(b"\r\n") if not line.lower().startswith(b"host:")]
        host = b"Host: " + self._place.authority.encode()
        return [b"\r\n".join([first, host, *lines]), *(data for _, data in recorded.request)]

    def close(self) -> None:
        for connection in self._idle:
            connection.leave()
