"""What operators see of requests in numbers: counters kept plain on the hot path, added to when a request ends.

Decides what is counted and under which labels, all of them bounded. Knows nothing of how the numbers are exposed
(`operations.metrics`), of what the access line says (`access_line`) or of HTTP.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from logging import INFO
from typing import TYPE_CHECKING

from ..config.settings import Config
from ..host.allocator import Heap
from . import access_line
from .histogram import SECONDS, Histogram
from .history import History
from .record import CLIENT, ENGINE, GATEWAY, Phase, Record
from .running import Running
from .spending import Spending, worked
from .waste import Waste

if TYPE_CHECKING:
    from .spans import Spans

_SWITCHING = 101
_SHORTEST_S = SECONDS[0]  # as the gateway takes, for nearly all: the first bucket, without a look for it
# Adapters come and go, so the model names of all lists ever seen are many; from here on a new one is "other".
MAX_SERIES = 5000
# Keys are as many as the keys file has, and a thousand of them may use a dozen adapters.
MAX_SPENDERS = 20_000


class ChunkGaps:
    """The time between two pieces of a response body, by instance.

    Counted per server, so that a probe can tell whether it is sending; what it counted stays when it goes.
    """

    def __init__(self) -> None:
        self._running: dict[str, list[Histogram]] = {}
        self._ended: dict[str, Histogram] = {}

    def begin(self, instance: str) -> Histogram:
        """The gaps of one more server of the instance."""
        gaps = Histogram()
        self._running.setdefault(instance, []).append(gaps)
        return gaps

    def end(self, instance: str, gaps: Histogram) -> None:
        """Such a server is gone; once is enough."""
        running = self._running.get(instance, [])
        for at, each in enumerate(running):
            if each is gaps:
                del running[at]
                self._ended.setdefault(instance, Histogram()).add(gaps)
                return

    def totals(self) -> Iterator[tuple[str, Histogram]]:
        """What was counted, by instance."""
        for instance in self._running:
            total = Histogram()
            for each in (*self._running[instance], self._ended.get(instance, Histogram())):
                total.add(each)
            yield instance, total


class Latency:
    """The durations of one route on one instance."""

    __slots__ = ("duration", "first_byte", "first_byte_streamed")

    def __init__(self) -> None:
        self.duration = Histogram()
        self.first_byte = Histogram()  # of answers that come whole
        self.first_byte_streamed = Histogram()


class Traffic:
    """The body bytes of one instance, each way."""

    __slots__ = ("request_bytes", "response_bytes")

    def __init__(self) -> None:
        self.request_bytes = 0
        self.response_bytes = 0


class Series:
    """One line of gomodel_requests_total, and the shared counters that its requests add to, found by one look-up."""

    __slots__ = ("count", "latency", "traffic")

    def __init__(self, latency: Latency, traffic: Traffic) -> None:
        self.count = 0
        self.latency = latency
        self.traffic = traffic


class Telemetry:
    """The counters of one process and the requests that run in it; they outlive a reload."""

    def __init__(self, config: Config) -> None:
        self.lag = Histogram()
        self.running = Running(on_lag=self.lag.observe, on_rest=Heap().rest)
        self.limit(config)
        self.requests: dict[tuple[str, str, str, int], Series] = {}  # by instance, route, model, status
        self.latency: dict[tuple[str, str], Latency] = defaultdict(Latency)  # by instance, route
        self.traffic: dict[str, Traffic] = defaultdict(Traffic)
        self.gaps = ChunkGaps()
        self.history = History()
        self.waits = {each: Histogram() for each in (ENGINE, GATEWAY, CLIENT)}  # of requests, by whom they waited for
        self._engine_waits, self._gateway_waits = self.waits[ENGINE], self.waits[GATEWAY]
        self.waste = Waste()
        self.spans: Spans | None = None  # where requests have some
        self.own_requests: dict[tuple[str, str], int] = defaultdict(int)  # to compare replicas: by instance, what
        self.mismatches = {"request": 0, "response": 0}  # bodies that went out with other bytes than they came with
        self.aborted: dict[tuple[str, Phase], int] = defaultdict(int)  # by who ended it
        self.connects: dict[tuple[str, str], int] = defaultdict(int)  # by instance, result
        self.retries: dict[str, int] = defaultdict(int)
        self.affinity: dict[tuple[str, str], int] = defaultdict(int)  # by what named a conversation, where it went
        self.queue_waits: dict[str, Histogram] = defaultdict(Histogram)  # of those that had their turn, by instance
        self.queue_ends: dict[tuple[str, str], int] = defaultdict(int)  # by instance and what became of them
        self.spending: dict[tuple[str, str, str], Spending] = {}  # by instance, model, key
        self.batch_lines = {"completed": 0, "failed": 0}
        # By status; all that the database has.
        self.batches = dict.fromkeys(("validating", "in_progress", "finalizing", "cancelling"), 0)

    def limit(self, config: Config) -> None:
        """End what is silent by the timeouts of `config` from now on."""
        limits = config.timeouts
        self.running.limit(
            {
                Phase.REQUEST: limits.request_idle_s,
                Phase.HEAD: limits.response_header_s,
                Phase.DATA: limits.stream_idle_s,
                Phase.WRITE: limits.write_idle_s,
            },
            limits.total_s,
        )

    def finish(self, record: Record, label_model: str, now: float, polled: bool = False, metered: bool = False) -> None:
        """Count a request that ended; `label_model` is a model of the lists or "other".

        `polled` and `metered` as in Route.
        """
        status = record.status
        series = self.requests.get((record.instance, record.route, label_model, status))
        if series is None:
            series = self._new_series(record, label_model)
        series.count += 1
        started = record.started
        seconds = now - started
        latency = series.latency
        histogram = latency.duration
        histogram.counts[bisect_left(SECONDS, seconds)] += 1
        histogram.sum += seconds
        first_byte = record.first_byte
        if first_byte:
            histogram = latency.first_byte_streamed if record.streamed else latency.first_byte
            first_byte -= started
            histogram.counts[bisect_left(SECONDS, first_byte)] += 1
            histogram.sum += first_byte
        traffic = series.traffic
        traffic.request_bytes += record.bytes_in
        traffic.response_bytes += record.bytes_out
        if record.waits_for is not ENGINE:
            record.wait_for(ENGINE, now)
        if record.client_s or not record.tried or status == _SWITCHING:
            self._blame(record, seconds)
        else:  # the same for nearly all, without a call
            histogram, gateway_s = self._gateway_waits, record.gateway_s
            histogram.counts[bisect_left(SECONDS, gateway_s) if gateway_s > _SHORTEST_S else 0] += 1
            histogram.sum += gateway_s
            histogram, engine_s = self._engine_waits, seconds - gateway_s
            histogram.counts[bisect_left(SECONDS, engine_s)] += 1
            histogram.sum += engine_s
        if record.named_by:
            self.affinity[record.named_by, record.affinity or "none"] += 1
        if record.ended_by:
            self.aborted[record.ended_by, record.phase] += 1
            if record.ended_by == "client":
                self.waste.add(record, seconds, metered=metered)
        usage, caller = record.usage, record.caller
        if caller is not None:
            caller.leave(record, now)
        if usage is not None or (metered and worked(record)):
            key = record.instance, label_model, "" if caller is None else caller.name
            spending = self.spending.get(key)
            if spending is None:
                spending = self._new_spending(key)
            spending.add(usage, seconds - record.queued_s)
        if status >= 400 or record.ended_by or polled or access_line.access.isEnabledFor(INFO):
            access_line.write(record, seconds, polled=polled)

    def took_s(self, instance: str) -> float | None:
        """How long an instance worked for a request, on average; None before it has done so."""
        of_it = [each for (name, *_), each in self.spending.items() if name == instance]
        count = sum(each.known + each.unknown for each in of_it)
        return sum(each.seconds for each in of_it) / count if count else None

    def _blame(self, record: Record, seconds: float) -> None:
        """Count whom a request waited for that took `seconds`. Of a WebSocket nobody knows whose turn it is."""
        if record.status == _SWITCHING:
            return
        waits, gateway_s, client_s = self.waits, record.gateway_s, record.client_s
        if record.instance:
            waits[GATEWAY].observe(gateway_s)
            if record.tried:
                waits[ENGINE].observe(seconds - gateway_s - client_s)
        if client_s:
            waits[CLIENT].observe(client_s)

    def _new_series(self, record: Record, model: str) -> Series:
        instance, route = record.instance, record.route
        if len(self.requests) >= MAX_SERIES and model:
            model = "other"
        key = instance, route, model, record.status
        series = self.requests.get(key)
        if series is None:
            series = self.requests[key] = Series(self.latency[instance, route], self.traffic[instance])
        return series

    def _new_spending(self, key: tuple[str, str, str]) -> Spending:
        if len(self.spending) >= MAX_SPENDERS:
            key = key[0], "other", "other" if key[2] else ""
        return self.spending.setdefault(key, Spending())
