"""GET /admin/history: the last hour in numbers, and the look at the counters every ten seconds that it takes.

Decides when is looked, what is asked of all workers, and what a query means. What is kept is `telemetry.history`'s.
"""

import asyncio
from collections.abc import Mapping
from time import time
from typing import Any

from ..config.values import duration_s
from ..errors import InvalidValue
from ..telemetry.bugs import reported
from ..telemetry.counters import Telemetry
from ..telemetry.history import ALL, POINTS, SLOT_S, SLOTS, Counts, Name, Totals

_WINDOW_S = SLOT_S * SLOTS
_PLACED = frozenset({"home", "spilled", "moved"})


class Sampling:
    """`start`, then `close`: looks at the counters every SLOT_S."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._watch())
        self._task.add_done_callback(reported("The look at the counters"))

    def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """End, and return when nothing is left of it."""
        self.stop()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SLOT_S - time() % SLOT_S)
            await self.look()

    async def look(self) -> None:
        """Keep what came since the last look."""
        slot, telemetry = round(time() / SLOT_S) - 1, self._telemetry  # the one that is over
        now, running = Now(telemetry), gauges(telemetry)
        # Thousands of keys and adapters take longer than a stream should wait.
        rows = await asyncio.to_thread(lambda: telemetry.history.since(totals(now), running))
        telemetry.history.keep(slot, rows)


class Now:
    """The counters' own objects, listed at one moment; what they hold may be read in another thread."""

    def __init__(self, telemetry: Telemetry) -> None:
        self.requests = list(telemetry.requests.items())
        self.spending = list(telemetry.spending.items())
        self.wasted = list(telemetry.waste.by_key.items())
        self.latency = list(telemetry.latency.items())
        self.gaps = list(telemetry.gaps.totals())
        self.affinity = list(telemetry.affinity.items())
        self.aborted = list(telemetry.aborted.items())
        self.lag = telemetry.lag


def totals(now: Now) -> Mapping[Name, Counts]:
    """All that was counted since the start, by instance, model and key."""
    sums = Totals()
    for (instance, _, model, status), series in now.requests:
        if not instance and status < 400:  # health, metrics, this page
            continue
        names = [ALL]
        if instance:
            names.append(("instance", instance))
        if model:
            names.append(("model", f"{instance}/{model}"))
        sums.add(names, "requests", series.count)
        if status >= 500:
            sums.add(names, "failed", series.count)
        elif status >= 400 and status != 499:
            sums.add(names, "refused", series.count)
    for (instance, model, key), spent in now.spending:
        ours = [("key", key)] if key else []
        sums.add(ours, "requests", spent.known + spent.unknown)
        names = [ALL, ("instance", instance), ("model", f"{instance}/{model}"), *ours]
        sums.add(names, "prompt_tokens", spent.prompt)
        sums.add(names, "cached_tokens", spent.cached)
        sums.add(names, "completion_tokens", spent.completion)
        sums.add(names, "generation_seconds", spent.seconds)
    for (instance, key), wasted in now.wasted:
        names = [ALL, ("instance", instance), *([("key", key)] if key else [])]
        sums.add(names, "wasted_seconds", wasted.seconds)
    for (instance, _), latency in now.latency:
        if instance:
            names = [ALL, ("instance", instance)]
            sums.buckets(names, "stream_first_byte", latency.first_byte_streamed.counts)
            sums.buckets(names, "answer_first_byte", latency.first_byte.counts)
    for instance, gaps in now.gaps:
        names = [ALL, ("instance", instance)]
        sums.add(names, "events", sum(gaps.counts))
        sums.buckets(names, "gap", gaps.counts)
    for (_, result), count in now.affinity:
        if result in _PLACED:
            sums.add([ALL], f"conversations_{result}", count)
    sums.buckets([ALL], "lag", now.lag.counts)
    words = {"client": "client_left", "upstream": "upstream_broke", "gomodel": "gateway_ended"}
    for (who, _), count in now.aborted:
        sums.add([ALL], words[who], count)
    return sums.rows


def gauges(telemetry: Telemetry) -> Mapping[Name, Counts]:
    """What runs and what waits now, by instance and key."""
    sums = Totals()
    for record in telemetry.running.records:
        if record.instance:
            what = "waiting" if record.place is not None and record.place.waiting else "running"
            names = [ALL, ("instance", record.instance)]
            if record.caller is not None:
                names.append(("key", record.caller.name))
            sums.add(names, what, 1)
    return sums.rows


class Window:
    """What a query asks for: `seconds` up to now in `steps` steps of `step_s`, from slot `first` on."""

    def __init__(self, given: Mapping[str, str], now: float) -> None:
        """`given` may have `window`, a duration of 10s to 1h. Raises InvalidValue for what is not understood."""
        try:
            seconds = duration_s(given.get("window", "1h"))
        except ValueError:
            seconds = 0.0
        if not SLOT_S <= seconds <= _WINDOW_S:
            raise InvalidValue("window", "window may be 10s to 1h.", code="invalid_parameter")
        slots = int(seconds // SLOT_S)
        self.step = -(-slots // POINTS)
        self.step_s = self.step * SLOT_S
        self.steps = -(-slots // self.step)
        self.seconds = self.steps * self.step_s
        last = int(now // SLOT_S) - 1
        self.until = (last + 1) * SLOT_S
        self.first = last + 1 - self.steps * self.step

    @property
    def asked(self) -> tuple[int, int]:
        """What another worker has to know."""
        return self.first, self.step


def said(window: Window, series: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer; JSON-serialisable."""
    when = {"until": window.until, "step_s": window.step_s, "steps": window.steps}
    return {"object": "history", **when, "series": series}
