"""Asks one instance directly and each gateway before it the same, one after the other, and notes what comes.

Decides in which order is asked, how long is waited, and what is asked again before somebody is accused. One request is
under way at a time, so that what is measured is not the doctor's own load; only a long silence is asked of all at once.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from . import counters, questions
from .client import Connection, request, unreachable
from .events import cadence, cut
from .exchange import Exchange
from .observed import Left, Observed
from .places import Place
from .timed import doubtful

_CHAT = "/v1/chat/completions"
_POLL_S = 0.02
# Behind a complete answer; what a gateway sends too much comes with it.
_EXTRA_S = 0.02
# For a request to get to the engine.
_BEGIN_S = 30.0
# For the first events, once the engine works.
_BEGUN_S = 0.2
# How much longer than it is watched for a piece of work must take, lest its own end be taken for a cancellation.
_SURELY = 2.0
# Of a context, for the prompt and the chat template.
_PROMPT_TOKENS = 256
# An engine that makes more of them within the time is none that anybody waits for.
_MOST_TOKENS = 10_000
_OTHERS = "others use it now"
_UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "Z29tb2RlbCBkb2N0b3IhIQ=="),
)


@dataclass(frozen=True)
class Effort:
    """How much is asked. `events`, or up to `most_events` where those take less than `stream_s`: of a stream.

    `runs`, or up to `most_runs` where a gateway would be accused of holding events back: a busy machine does so, too.
    `patience_s`: how long work may go on for who left; `limit_s`: of any one answer.
    """

    events: int = 24
    most_events: int = 512
    stream_s: float = 1.2
    runs: int = 2
    most_runs: int = 5
    large_bytes: int = 8 << 20
    patience_s: float = 3.0
    limit_s: float = 120.0
    idle_s: float = 0.0


class Examination:
    """Of one instance: `direct` is its first server, `servers` are all, `gateways` stand before it, nearest first."""

    def __init__(
        self,
        direct: Place,
        servers: Sequence[Place],
        gateways: Sequence[Place],
        effort: Effort,
        say: Callable[[str], None],
        max_model_len: int = 0,
    ) -> None:
        self._places = [direct, *gateways]
        self._direct = direct
        self._servers = servers
        self._effort = effort
        self._say = say
        self._context = max_model_len or 4096
        self._events = effort.events
        self._goes_on = False  # the work of who left may still run
        self._most = 0.0  # requests that were seen to run at once, since the last long answer began
        self.seen = [Observed(place.shown, place.model) for place in self._places]

    async def run(self) -> list[Observed]:
        """What was seen directly, then at each gateway."""
        each = list(zip(self._places, self.seen, strict=True))
        first = cadence(cut((await self._stream(self._direct)).decoded()).spoken)
        wanted = int(self._effort.stream_s / max(first.interval_s, 1e-6))
        self._events = max(self._effort.events, min(wanted, self._effort.most_events, self._context - _PROMPT_TOKENS))
        for number in range(self._effort.most_runs):
            if number >= self._effort.runs and not any(doubtful(self.seen[0], seen) for seen in self.seen[1:]):
                break
            self._say("answers and streams")
            for place, seen in each:
                if number < self._effort.runs:
                    await self._answer(place, seen, first=number == 0)
                seen.streams.append(await self._stream(place))
        self._say("fields, errors, uploads")
        for place, seen in each:
            await self._singles(place, seen)
        self._say("who leaves")
        for place, seen in each:
            for stream in (True, False):
                left = await self.leave(place, stream=stream)
                if left.goes_on and place is not self._direct and not self._of_direct(stream=stream).goes_on:
                    left = await self.confirmed(place, stream=stream)
                if stream:
                    seen.left = left
                else:
                    seen.left_whole = left
        if self._effort.idle_s:
            self._say(f"a silence of {self._effort.idle_s:.0f} s")
            for seen, exchange in zip(self.seen, await self._silence(), strict=True):
                seen.silence, seen.silence_s = exchange, self._effort.idle_s
        return self.seen

    async def _answer(self, place: Place, seen: Observed, *, first: bool) -> None:
        pieces = request(place, "POST", _CHAT, questions.chat(place.model, 8))
        try:
            async with await Connection.to(place) as connection:
                seen.answers.append(await connection.ask(pieces, self._effort.limit_s))
                await connection.quiet(_EXTRA_S)
                if first and seen.answers[0].kept and not connection.closed:
                    seen.second = await connection.ask(pieces, self._effort.limit_s)
        except OSError as error:
            seen.answers.append(unreachable(error))

    async def _stream(self, place: Place) -> Exchange:
        body = questions.stream(place.model, self._events)
        return await self._ask(place, "POST", _CHAT, body, [("Accept-Encoding", "gzip, deflate")])

    async def _singles(self, place: Place, seen: Observed) -> None:
        model = place.model
        for _ in range(self._effort.runs if place is self._direct else 1):
            metrics = [("endpoint-load-metrics-format", "TEXT")]
            seen.fields.append(await self._ask(place, "POST", _CHAT, questions.fields(model), metrics))
        seen.mistyped = await self._ask(place, "POST", _CHAT, questions.mistyped(model))
        seen.missing = await self._ask(place, "POST", _CHAT, questions.missing(model))
        seen.refused = await self._ask(place, "POST", _CHAT, questions.refused(model))
        nobody = questions.no_such_model(model, self._direct.model)
        prefixed = model != self._direct.model or place is self._direct
        if nobody is not None and prefixed:
            body = questions.chat(nobody, 1)
            seen.unknown = await self._ask(place, "POST", _CHAT, body)
        seen.chunked = await self._ask(place, "POST", _CHAT, questions.chat(model, 1), chunked=True)
        seen.large = await self._ask(place, "POST", _CHAT, questions.large(model, self._effort.large_bytes))
        seen.websocket = await self._upgrade(place)

    async def _ask(
        self,
        place: Place,
        method: str,
        path: str,
        body: bytes | None = None,
        fields: Sequence[tuple[str, str]] = (),
        *,
        chunked: bool = False,
        limit_s: float | None = None,
    ) -> Exchange:
        """One request on a connection of its own."""
        try:
            async with await Connection.to(place) as connection:
                pieces = request(place, method, path, body, fields, chunked=chunked)
                return await connection.ask(pieces, limit_s or self._effort.limit_s)
        except OSError as error:
            return unreachable(error)

    async def _upgrade(self, place: Place) -> Exchange:
        path = f"/v1/realtime?model={quote(place.model)}"
        try:
            async with await Connection.to(place) as connection:
                exchange = await connection.begin(request(place, "GET", path, None, _UPGRADE))
                limit_s = self._effort.patience_s
                await connection.until(lambda: bool(exchange.end or exchange.arrivals), limit_s)
                exchange.gave_up(asyncio.get_running_loop().time())
                return exchange
        except OSError as error:
            return unreachable(error)

    async def _counted(self) -> float | None:
        """How many requests run on all servers together; None where one does not show it."""
        total = 0.0
        for place in self._servers:
            read = counters.running((await self._ask(place, "GET", "/metrics")).body.decode("utf-8", "replace"))
            if read is None:
                return None
            total += read
        return total

    async def _running(self, wanted: Callable[[float], bool], limit_s: float) -> bool:
        """Wait until the number of requests that run is as `wanted`; whether it came to be."""
        loop = asyncio.get_running_loop()
        until = loop.time() + limit_s
        while (now := await self._counted()) is not None:
            self._most = max(self._most, now)
            if wanted(now):
                return True
            if loop.time() > until:
                break
            await asyncio.sleep(_POLL_S)
        return False

    def _tokens_for(self, wanted_s: float) -> tuple[int, float]:
        """How many tokens take about so long, as the context allows; and how long that will be."""
        streams = [cadence(cut(each.decoded()).spoken) for each in self.seen[0].streams if each.well]
        interval = sum(each.span_s for each in streams) / max(1, sum(each.events - 1 for each in streams))
        tokens = max(64, min(self._context - _PROMPT_TOKENS, _MOST_TOKENS, int(wanted_s / max(interval, 1e-6))))
        return tokens, tokens * interval

    async def leave(self, place: Place, *, stream: bool) -> Left:
        """Begin a long answer, leave, and watch the engine's counters."""
        patience_s = self._effort.patience_s
        tokens, lasts_s = self._tokens_for(patience_s * 6)
        if lasts_s < patience_s * _SURELY:
            return Left(unknown="too fast to tell")
        before = await self._counted()
        if before is None:
            return Left(unknown="no /metrics to see it by")
        # What an earlier place did not cancel runs to its end.
        limit_s = lasts_s if self._goes_on else patience_s
        if before and not await self._running(lambda running: not running, limit_s):
            return Left(unknown=_OTHERS)
        self._most = 0.0
        loop = asyncio.get_running_loop()
        try:
            async with await Connection.to(place) as connection:
                begun = loop.time()
                ask = questions.stream if stream else questions.chat
                pieces = request(place, "POST", _CHAT, ask(place.model, tokens))
                exchange = await connection.begin(pieces)
                started = await self._running(lambda running: running >= 1 or exchange.end != "", _BEGIN_S)
                if exchange.end or not started:
                    return Left(unknown=exchange.in_words if exchange.end else "it did not begin in time")
                # A part of it has come where it comes at once; a gateway that buffers has nothing yet.
                await connection.until(lambda: len(exchange.arrivals) > 1 or exchange.end != "", _BEGUN_S)
                connection.leave()
                at = loop.time()
        except OSError as error:
            return Left(unknown=unreachable(error).why)
        if await self._running(lambda running: running < 1, patience_s):
            freed_s = loop.time() - at
            if loop.time() - begun > lasts_s / _SURELY:
                return Left(unknown="the answer was too short")
            return Left(freed_s)
        self._goes_on = True
        if self._most > 1:
            return Left(unknown=_OTHERS)
        return Left(None, loop.time() - at)

    def _of_direct(self, *, stream: bool) -> Left:
        return self.seen[0].left if stream else self.seen[0].left_whole

    async def confirmed(self, place: Place, *, stream: bool) -> Left:
        """Leave again; that the work goes on is said only where an answer left directly still stops right after."""
        left = await self.leave(place, stream=stream)
        if left.goes_on and (await self.leave(self._direct, stream=stream)).freed_s is None:
            return Left(unknown=_OTHERS)
        return left

    async def _silence(self) -> list[Exchange]:
        """A long answer as one body, of all places at once."""
        tokens, _ = self._tokens_for(self._effort.idle_s * 1.2)
        limit_s = self._effort.idle_s * 4 + self._effort.limit_s
        bodies = [(each, questions.chat(each.model, tokens)) for each in self._places]
        return await asyncio.gather(*(self._ask(each, "POST", _CHAT, body, limit_s=limit_s) for each, body in bodies))
