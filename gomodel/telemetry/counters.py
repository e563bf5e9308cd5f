"""What operators see of requests: counters kept plain on the hot path, and one access line when a request ends.

Decides what is counted and under which labels, all of them bounded. Knows nothing of how they are exposed
(`operations.metrics`), of how a line looks (`logs`) or of HTTP. No key, query string or body reaches a line.
"""

import logging
from bisect import bisect_left
from collections import defaultdict
from time import time

from ..config.load import Config
from ..routes.targets import shown_path
from .record import PHASE_WORDS, Phase, Record, Running

access = logging.getLogger("gomodel.access")

# One ladder for every duration, from one token at full speed to a long generation.
SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)

# Adapters come and go, so the model names of all lists ever seen are many; from here on a new one is "other".
MAX_SERIES = 5000

# A model's name may be as long as a request body, and a path as a request line.
_SHOWN_CHARS = 200

# What only the operator of the gateway can mend: a bug in it, and descriptors or disk that it lacks.
_OURS = frozenset({"internal_error", "connection_limit", "spool_full"})
# A client that speaks another version of HTTP is no failure of the server's, whatever the number says.
_VERSION_NOT_SUPPORTED = 505


class Histogram:
    """Counts per bucket of SECONDS, the last one for everything above, and the sum in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, value_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(SECONDS, value_s)] += 1
        self.sum += value_s


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
        self.running = Running(on_lag=self.lag.observe)
        self.limit(config)
        self.requests: dict[tuple[str, str, str, int], Series] = {}  # by instance, route, model, status
        self.latency: dict[tuple[str, str], Latency] = defaultdict(Latency)  # by instance, route
        self.traffic: dict[str, Traffic] = defaultdict(Traffic)
        self.gaps: dict[str, Histogram] = defaultdict(Histogram)
        self.aborted: dict[tuple[str, Phase], int] = defaultdict(int)  # by who ended it
        self.connects: dict[tuple[str, str], int] = defaultdict(int)  # by instance, result
        self.retries: dict[str, int] = defaultdict(int)

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

    def finish(self, record: Record, label_model: str, now: float, *, polled: bool = False) -> None:
        """Count a request that ended; `label_model` is a model of the lists or "other", `polled` as `Route.polled`."""
        series = self.requests.get((record.instance, record.route, label_model, record.status))
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
        if record.ended_by:
            self.aborted[record.ended_by, record.phase] += 1
        level = logging.INFO
        if record.ended_by or record.status >= 400 or polled:
            level = severity(record, polled=polled)
        if access.isEnabledFor(level):
            # What Logger.info does besides, looking for its caller above all, costs as much as relaying a request.
            line = logging.LogRecord.__new__(logging.LogRecord)
            line.__dict__ = values = _LINES[level].copy()
            values["created"] = time()
            values["fields"] = fields(record, seconds)
            access.handle(line)

    def _new_series(self, record: Record, model: str) -> Series:
        instance, route = record.instance, record.route
        if len(self.requests) >= MAX_SERIES and model:
            model = "other"
        key = instance, route, model, record.status
        series = self.requests.get(key)
        if series is None:
            series = self.requests[key] = Series(self.latency[instance, route], self.traffic[instance])
        return series


_LINES = {
    level: vars(
        logging.makeLogRecord(
            {"name": access.name, "levelno": level, "levelname": logging.getLevelName(level), "fields": None}
        )
    )
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
}


def severity(record: Record, *, polled: bool) -> int:
    """The level of a request's access line; contract section 8.

    ERROR for a failure that the gateway's operator has to mend; WARNING for one by an instance or by the gateway; INFO
    for all that went well or was the client's own doing; DEBUG for what monitors and the status page ask for again and
    again (`polled`), not ready included, which is an answer there.
    """
    if record.reason in _OURS:
        return logging.ERROR
    if record.ended_by == "client":
        return logging.INFO
    if polled and (record.status < 400 or (record.status == 503 and not record.reason)):
        return logging.DEBUG
    if record.ended_by or (record.status >= 500 and record.status != _VERSION_NOT_SUPPORTED):
        return logging.WARNING
    return logging.INFO


def fields(record: Record, seconds: float) -> dict[str, object]:
    """What the access line says of a request that took `seconds`; contract section 8."""
    first_byte, model = record.first_byte, record.model
    found: dict[str, object] = {
        "request_id": record.id,
        "client": record.client,
        "method": record.method,
        "route": record.route,
        "instance": record.instance,
        "model": model if len(model) <= _SHOWN_CHARS else shown(model),
        "status": record.status,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "first_byte_ms": round((first_byte - record.started) * 1000, 1) if first_byte else None,
        "duration_ms": round(seconds * 1000, 1),
    }
    if path := path_of(record):
        found["path"] = path
    if record.ended_by:
        found["ended_by"] = record.ended_by
        found["phase"] = PHASE_WORDS[record.phase]
    if record.reason:
        found["reason"] = record.reason
    if record.retries:
        found["retries"] = record.retries
    if record.trace:
        found["traceparent"] = shown(record.trace)
    return found


def path_of(record: Record) -> str:
    """The path that the client asked for, where the route's template does not say it; `shown_path` bounds it."""
    route = record.route
    return shown_path(record.target, _SHOWN_CHARS) if route.endswith("*") or route == "unknown" else ""


def shown(text: str) -> str:
    """What a client sent, at a length that a log line or a listing can bear."""
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
