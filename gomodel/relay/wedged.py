"""Wedged engines: finds replicas that take requests and answer nothing any more, while /health says that all is well.

A look every LOOK_S at what is running costs no request anything: no byte has come from a replica, on any of its
streams, for longer than twice its usual longest gap, and LEAST_S at least; or, where no stream shows what is usual, no
answer at all for LEAST_WAITING_S. That alone proves nothing: a parser may hold a tool call back, and every request may
be a long one. So the engine is asked for a single token. Batching lets such a question in beside the requests that run;
only an engine that leaves it unanswered for ANSWER_S is wedged. Then it is asked again and again, and whatever comes
from it, on a stream that still runs or in answer to that question, ends it.

Decides when a replica is barred for that reason. A model that generates nothing refuses the question, and nothing is
concluded. Every worker judges by its own requests.
"""

import asyncio
import json
from dataclasses import dataclass, field
from time import monotonic

from ..balancing.instances import Providers
from ..telemetry.bugs import reported
from ..telemetry.counters import Telemetry
from ..telemetry.histogram import SECONDS, Histogram
from ..telemetry.record import Phase
from ..upstream.health import State
from ..upstream.own_requests import FAILURES, ask
from ..upstream.replica import WEDGED, Replica
from .exchange import Exchange

LOOK_S = 5.0
LEAST_S = 60.0
LEAST_WAITING_S = 300.0
# For one token: more than any queue in front of an engine that works leaves a short request waiting, as a rule.
ANSWER_S = 30.0
# How much of the gaps there were is usual.
_USUAL = 0.999
_WAITS = (Phase.HEAD, Phase.DATA)


@dataclass(slots=True)
class _Seen:
    """What is known of one replica."""

    activity: tuple[int, int]  # pieces of answers, and answers, that came
    active_at: float
    question: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Waiting:
    """The requests that wait for one replica: since when the oldest of those that stream do, and of all."""

    streams: list[float] = field(default_factory=list)
    all: list[float] = field(default_factory=list)


class WedgedWatch:
    """Looks at all replicas, from `start` to `close`."""

    def __init__(self, providers: Providers, telemetry: Telemetry) -> None:
        self._providers = providers
        self._telemetry = telemetry
        self._seen: dict[Replica, _Seen] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._watch())
        self._task.add_done_callback(reported("The look for wedged engines"))

    def stop(self) -> None:
        """Look no more."""
        for task in self._tasks():
            task.cancel()

    async def close(self) -> None:
        """Stop, and return when nothing is left of it."""
        self.stop()
        if tasks := self._tasks():
            await asyncio.wait(tasks)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [each for each in (self._task, *(seen.question for seen in self._seen.values())) if each is not None]

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._look(monotonic())

    def _look(self, now: float) -> None:
        waiting = self._waiting()
        before, self._seen = self._seen, {}
        for replica in self._providers.replicas:
            activity = sum(replica.gaps.counts), replica.answers
            seen = self._seen[replica] = before.pop(replica) if replica in before else _Seen(activity, now)
            if activity != seen.activity:
                seen.activity, seen.active_at = activity, now
                replica.bar(WEDGED, False)
            if seen.question is None and (replica.is_barred(WEDGED) or self._suspicious(replica, seen, waiting, now)):
                seen.question = asyncio.create_task(self._ask(replica, seen))
                seen.question.add_done_callback(reported("A question to an engine"))
        for seen in before.values():  # of replicas that left
            if seen.question is not None:
                seen.question.cancel()

    def _waiting(self) -> dict[Replica, _Waiting]:
        found: dict[Replica, _Waiting] = {}
        for record in self._telemetry.running.records:
            owner = record.owner
            if isinstance(owner, Exchange) and record.phase in _WAITS:
                waiting = found.setdefault(owner.replica, _Waiting())
                waiting.all.append(record.since)
                if record.streamed and record.first_byte:
                    waiting.streams.append(record.since)
        return found

    @staticmethod
    def _suspicious(replica: Replica, seen: _Seen, waiting: dict[Replica, _Waiting], now: float) -> bool:
        found = waiting.get(replica)
        if found is None or replica.barred or replica.health.state is not State.UP:
            return False
        if found.streams and now - max(seen.active_at, min(found.streams)) >= max(LEAST_S, 2 * usual_s(replica.gaps)):
            return True
        return now - max(seen.active_at, min(found.all)) >= LEAST_WAITING_S

    async def _ask(self, replica: Replica, seen: _Seen) -> None:
        """Ask for one token, and judge by what comes of it."""
        model = {"model": replica.models[0]} if replica.models else {}
        body = json.dumps({**model, "prompt": "1", "max_tokens": 1}).encode()
        before = seen.activity
        try:
            async with asyncio.timeout(ANSWER_S), ask(replica, "/completions", limit_s=None, body=body) as response:
                await response.read()
            wedged = False
        except TimeoutError:
            wedged = (sum(replica.gaps.counts), replica.answers) == before
        except FAILURES:
            wedged = replica.is_barred(WEDGED)  # another story, which probes and the breaker tell
        finally:
            seen.question = None
        seen.active_at = monotonic()
        replica.bar(WEDGED, wedged)


def usual_s(gaps: Histogram) -> float:
    """The longest of the gaps that are usual, in seconds; 0 while there were none."""
    left = sum(gaps.counts) * (1 - _USUAL)
    for at in reversed(range(len(gaps.counts))):
        left -= gaps.counts[at]
        if left < 0:
            return SECONDS[min(at, len(SECONDS) - 1)]
    return 0.0
