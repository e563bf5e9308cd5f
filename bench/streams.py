"""Paced SSE load: so many concurrent streams, every event timed and every byte of every stream accounted for.

Decides what a complete stream is and how its lag is taken. Knows nothing of proxies. The upstream stamps each event
with its send time, so lag needs no second connection; both ends share the machine's clock.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench import payloads
from bench.answer import Answer, Broken
from bench.stats import percentile

GRACE_S = 20.0
_STAMP_BYTES = len(payloads.STAMP) + payloads.STAMP_DIGITS


@dataclass(slots=True)
class Flow:
    """What one run of streams did. `reads` counts socket reads that carried an event: far fewer than events means that
    events were held back and arrived in clumps."""

    events: int = 0
    reads: int = 0
    seconds: float = 0.0
    lag_p50_us: float = 0.0
    lag_p99_us: float = 0.0
    first_p50_us: float = 0.0
    first_p99_us: float = 0.0
    window_events: int = 0
    window_cpu_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        return sum(self.faults.values())

    @property
    def reason(self) -> str:
        return ", ".join(f"{count}x {what}" for what, count in self.faults.most_common(3))


@dataclass(frozen=True, slots=True)
class Plan:
    """`streams` connections, each asking `rounds` times for `events` events `gap_ms` apart.

    With `window_s` CPU is taken only while every stream runs, from the moment each has seen its first event.
    """

    streams: int
    events: int
    gap_ms: float
    rounds: int = 1
    window_s: float = 0.0

    @property
    def expected_s(self) -> float:
        return self.rounds * self.events * self.gap_ms / 1000 + self.gap_ms / 1000


class _Session:
    """What the streams of one run share."""

    def __init__(self, plan: Plan, request: bytes, *, verbatim: bool) -> None:
        self.plan, self.request, self.verbatim = plan, request, verbatim
        self.flow = Flow()
        self.lags_ns: list[int] = []
        self.firsts_us: list[float] = []
        self.waiting_first = plan.streams
        self.all_running = asyncio.Event()
        self.body_bytes = payloads.stream_bytes(plan.events)

    def started(self) -> None:
        self.waiting_first -= 1
        if self.waiting_first == 0:
            self.all_running.set()


class _Stream(asyncio.Protocol):
    def __init__(self, session: _Session) -> None:
        self.session = session
        self.left = session.plan.rounds
        self.seen_any = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        self.answer = Answer()
        self.events = 0
        self.tail = b""
        self.asked = time.perf_counter()
        self.transport.write(self.session.request)

    def data_received(self, data: bytes) -> None:
        now = time.time_ns()
        try:
            body = self.answer.feed(data)
        except Broken as broken:
            self.fail(str(broken))
            return
        if body:
            self.take(body, now)
        if self.answer.done:
            self.finish()

    def take(self, body: bytes, now_ns: int) -> None:
        session = self.session
        # A chunk may end inside the mark: it is counted where it is complete.
        count = (self.tail[1 - len(payloads.MARK) :] + body).count(payloads.MARK)
        self.tail = (self.tail + body)[-len(payloads.DONE) :]
        if count:
            flow = session.flow
            flow.events += count
            flow.reads += 1
            if not self.events:
                session.firsts_us.append((time.perf_counter() - self.asked) * 1e6)
                if not self.seen_any:
                    self.seen_any = True
                    session.started()
            self.events += count
        at = body.rfind(payloads.STAMP)
        if at >= 0 and len(stamp := body[at + len(payloads.STAMP) : at + _STAMP_BYTES]) == payloads.STAMP_DIGITS:
            session.lags_ns.append(now_ns - int(stamp))

    def finish(self) -> None:
        plan = self.session.plan
        if self.answer.status != 200:
            self.fail(f"status {self.answer.status}")
        elif self.events != plan.events:
            self.fail("events lost or added")
        elif self.tail != payloads.DONE:
            self.fail("no [DONE]")
        elif self.session.verbatim and self.answer.body_bytes != self.session.body_bytes:
            self.fail("bytes lost or added")
        else:
            self.left -= 1
            if self.left:
                self.ask()
            else:
                self.transport.close()

    def fail(self, what: str) -> None:
        self.left = 0
        self.session.flow.faults[what] += 1
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.left:
            self.session.flow.faults["connection closed before the stream was complete"] += 1
        if not self.seen_any:
            self.session.started()
        if not self.ended.done():
            self.ended.set_result(None)


async def _drive(port: int, session: _Session) -> None:
    loop = asyncio.get_running_loop()
    plan = session.plan

    async def one(index: int) -> None:
        # Starts are spread over one gap: streams of different clients do not tick together.
        await asyncio.sleep(index / plan.streams * plan.gap_ms / 1000)
        try:
            _, stream = await loop.create_connection(lambda: _Stream(session), "127.0.0.1", port)
        except OSError as error:
            session.flow.faults[f"connect: {type(error).__name__}"] += 1
            session.started()
            return
        await stream.ended

    await asyncio.gather(*[one(index) for index in range(plan.streams)])


async def _window(session: _Session, cpu_s: Callable[[], float]) -> None:
    await session.all_running.wait()
    cpu, events = cpu_s(), session.flow.events
    await asyncio.sleep(session.plan.window_s)
    session.flow.window_cpu_s = cpu_s() - cpu
    session.flow.window_events = session.flow.events - events


def run(port: int, model: str, plan: Plan, cpu_s: Callable[[], float] | None = None, *, verbatim: bool = True) -> Flow:
    """Runs the plan against `port`; never raises for what the server does, but counts it in `faults`.

    `cpu_s` reads the proxy's CPU seconds for a plan with a window. Without `verbatim` events are counted but not their
    bytes: for a proxy that writes events anew; when it drops their time stamps, the lag is NaN. A server that falls
    behind for more than `GRACE_S` is cut off and has an error.
    """
    session: _Session | None = None

    async def bounded() -> None:
        nonlocal session
        session = _Session(plan, payloads.request(payloads.stream(model, plan.events, plan.gap_ms)), verbatim=verbatim)
        try:
            async with asyncio.timeout(plan.expected_s * 1.5 + GRACE_S):
                if cpu_s is None or not plan.window_s:
                    await _drive(port, session)
                else:
                    await asyncio.gather(_drive(port, session), _window(session, cpu_s))
        except TimeoutError:
            session.flow.faults["not finished in time"] += 1

    began = time.perf_counter()
    uvloop.run(bounded())
    assert session is not None
    flow = session.flow
    flow.seconds = time.perf_counter() - began
    lags = sorted(lag / 1000 for lag in session.lags_ns)
    firsts = sorted(session.firsts_us)
    flow.lag_p50_us = percentile(lags, 0.5) if lags else math.nan
    flow.lag_p99_us = percentile(lags, 0.99) if lags else math.nan
    flow.first_p50_us, flow.first_p99_us = percentile(firsts, 0.5), percentile(firsts, 0.99)
    return flow
