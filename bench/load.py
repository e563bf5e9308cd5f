"""Keep-alive JSON load: so many connections, each asking again as soon as its answer is complete.

Decides what counts as a correct answer and how its time is taken. Knows nothing of proxies. `wrk` does the same at far
less cost to the machine (wrk.py); this one is for what wrk cannot check or send.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import uvloop

from bench.answer import Answer, Broken
from bench.stats import percentile

GRACE_S = 15.0


@dataclass(slots=True)
class Load:
    """What one load run did; times in microseconds."""

    done: int = 0
    seconds: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    max_us: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)

    def take(self, times_us: list[float]) -> None:
        """Fills the percentiles from unsorted times."""
        times_us.sort()
        self.p50_us, self.p99_us = percentile(times_us, 0.5), percentile(times_us, 0.99)
        self.max_us = times_us[-1] if times_us else 0.0

    @property
    def errors(self) -> int:
        return sum(self.faults.values())

    @property
    def reason(self) -> str:
        return ", ".join(f"{count}x {what}" for what, count in self.faults.most_common(3))


def check(body: bytes, sent_bytes: int | None) -> str:
    """What is wrong with a 200 answer's body: "" or a few words.

    `sent_bytes` is how many request body bytes the upstream must have counted; None when the proxy rebuilds bodies.
    """
    try:
        answer = json.loads(body)
        complete = answer["choices"][0]["finish_reason"] == "stop"
        counted = answer["usage"]["prompt_tokens"]
    except (ValueError, KeyError, IndexError, TypeError):
        return "truncated or foreign body"
    if not complete:
        return "foreign body"
    return f"upstream got {counted} of {sent_bytes} bytes" if sent_bytes not in (None, counted) else ""


class _Caller(asyncio.Protocol):
    def __init__(self, request: bytes, sent_bytes: int | None, load: Load, times: list[float], until: float) -> None:
        self.request, self.sent_bytes, self.load, self.times, self.until = request, sent_bytes, load, times, until
        self.ended = asyncio.get_running_loop().create_future()
        self.answer: Answer | None = None
        self.body: list[bytes] = []
        self.started = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        self.answer, self.body = Answer(), []
        self.started = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.answer is None:
            self.fail("bytes after the end of the response")
            return
        try:
            self.body.append(self.answer.feed(data))
        except Broken as broken:
            self.fail(str(broken))
            return
        if not self.answer.done:
            return
        now = time.perf_counter()
        if self.answer.status != 200:
            self.fail(f"status {self.answer.status}")
        elif fault := check(b"".join(self.body), self.sent_bytes):
            self.fail(fault)
        else:
            self.load.done += 1
            self.times.append((now - self.started) * 1e6)
            closing, self.answer = self.answer.closing, None
            if now >= self.until:
                self.transport.close()
            elif closing:
                self.fail("keep-alive refused")
            else:
                self.ask()

    def fail(self, what: str) -> None:
        self.load.faults[what] += 1
        self.answer = None
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.answer is not None:
            self.load.faults["connection closed before the answer was complete"] += 1
        if not self.ended.done():
            self.ended.set_result(None)


async def _call(port: int, connections: int, make: Callable[[], _Caller], load: Load) -> None:
    loop = asyncio.get_running_loop()

    async def one() -> None:
        try:
            _, caller = await loop.create_connection(make, "127.0.0.1", port)
        except OSError as error:
            load.faults[f"connect: {type(error).__name__}"] += 1
            return
        await caller.ended

    await asyncio.gather(*[one() for _ in range(connections)])


def run(port: int, request: bytes, connections: int, seconds: float, sent_bytes: int | None = None) -> Load:
    """Loads `port` for `seconds` (0: one request per connection) over `connections` connections; never raises for what
    the server does, but counts it in `faults`. A server that hangs costs `GRACE_S` at most."""
    load, times = Load(), list[float]()
    began = time.perf_counter()

    async def bounded() -> None:
        try:
            async with asyncio.timeout(seconds + GRACE_S):
                await _call(port, connections, lambda: _Caller(request, sent_bytes, load, times, began + seconds), load)
        except TimeoutError:
            load.faults["no answer in time"] += 1

    uvloop.run(bounded())
    load.seconds = time.perf_counter() - began
    load.take(times)
    return load


def burst(port: int, request: bytes, connections: int) -> Load:
    """New connections all at once, one request each. The times run from the call of connect, so that a dropped SYN
    (retried by the kernel after one second) shows in `max_us`."""
    load, times = Load(), list[float]()

    async def one() -> None:
        mine, started = Load(), time.perf_counter()
        await _call(port, 1, lambda: _Caller(request, None, mine, [], 0.0), mine)
        load.done += mine.done
        load.faults += mine.faults
        if mine.done:
            times.append((time.perf_counter() - started) * 1e6)

    async def bounded() -> None:
        try:
            async with asyncio.timeout(GRACE_S):
                await asyncio.gather(*[one() for _ in range(connections)])
        except TimeoutError:
            load.faults["no answer in time"] += 1

    uvloop.run(bounded())
    load.take(times)
    return load
