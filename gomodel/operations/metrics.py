"""The metrics of contract section 8: names, labels and help, and the text that Prometheus reads.

Decides how the plain counters of `telemetry.counters` become families, and how those of several processes add up. A
snapshot is plain data, so that it can travel between workers. Counts nothing itself.

prometheus_client is imported by the first scrape: it costs more to import than the rest of the gateway.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from ..balancing.instances import Providers
from ..balancing.model_lists import ModelLists
from ..host.process_metrics import process_metrics
from ..telemetry.counters import SECONDS, Histogram, Telemetry
from ..telemetry.record import PHASE_WORDS, Record
from ..upstream.health import State
from ..version import VERSION

if TYPE_CHECKING:
    from prometheus_client import Metric

OPENMETRICS = "application/openmetrics-text"
# Version 0.0.4 is what every scraper has read for ten years; what newer ones add concerns names that none here has.
_TEXT = "text/plain; version=0.0.4; charset=utf-8"

# By family: (label values, number) pairs; a histogram's number is its counts per bucket and its sum.
Samples = list[tuple[tuple[str, ...], Any]]
Snapshot = dict[str, Samples]


def _histograms(one: list[Any], other: list[Any]) -> list[Any]:
    return [[a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]]


def _total(one: float, other: float) -> float:
    return one + other


def _all_up(one: int | None, other: int | None) -> int | None:
    return min((each for each in (one, other) if each is not None), default=None)


class Family(NamedTuple):
    """One metric; `merge` makes one number of two workers' numbers."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    merge: Callable[[Any, Any], Any] = _total


FAMILIES = (
    Family(
        "gomodel_requests_total",
        "counter",
        ("upstream", "route", "model", "code"),
        "Requests that ended; code 499: the client left before an answer.",
    ),
    Family(
        "gomodel_requests_in_flight",
        "gauge",
        ("upstream",),
        "Requests that run now; without an instance: none is chosen yet, or gomodel answers itself.",
    ),
    Family(
        "gomodel_request_duration_seconds",
        "histogram",
        ("upstream", "route"),
        "From the request's head to the end of its answer.",
        _histograms,
    ),
    Family(
        "gomodel_time_to_first_byte_seconds",
        "histogram",
        ("upstream", "route", "stream"),
        "From the request's head to the first byte of the instance's response body. stream: whether that is a stream "
        "of events; the first byte of another answer comes when all of it is made.",
        _histograms,
    ),
    Family(
        "gomodel_chunk_gap_seconds",
        "histogram",
        ("upstream",),
        "Between two pieces of a response body, as they came from the instance.",
        _histograms,
    ),
    Family("gomodel_request_bytes_total", "counter", ("upstream",), "Request body bytes received from clients."),
    Family("gomodel_response_bytes_total", "counter", ("upstream",), "Response body bytes sent to clients."),
    Family(
        "gomodel_aborted_total",
        "counter",
        ("by", "phase"),
        "Requests that did not end by themselves: who ended them (client, upstream, gomodel), and in which phase.",
    ),
    Family(
        "gomodel_upstream_connects_total",
        "counter",
        ("upstream", "result"),
        "Connections opened to an instance for requests; result is ok or an RFC 9209 error type.",
    ),
    Family(
        "gomodel_upstream_retries_total", "counter", ("upstream",), "Attempts that failed and were followed by another."
    ),
    Family(
        "gomodel_breaker_open",
        "gauge",
        ("upstream",),
        "1 while the circuit breaker keeps requests away, in any worker.",
        max,
    ),
    Family(
        "gomodel_instance_up",
        "gauge",
        ("upstream",),
        "1 when the instance answers, in every worker that knows; 0 also before anything is known.",
        _all_up,
    ),
    Family(
        "gomodel_instance_key_refused",
        "gauge",
        ("upstream",),
        "1 while the instance refuses the key of the gateway, in any worker; requests that others can take go there.",
        max,
    ),
    Family(
        "gomodel_model_list_age_seconds",
        "gauge",
        ("upstream",),
        "Since the instance's model list was last read, or since the start if it never was. The oldest of all workers.",
        max,
    ),
    Family(
        "gomodel_event_loop_lag_seconds",
        "histogram",
        (),
        "How late the event loop ran a timer, looked at about once a second.",
        _histograms,
    ),
    Family("gomodel_build_info", "gauge", ("version",), "Always 1.", max),
    # Under the names that every dashboard for processes knows. The supervisor of several workers is not among them: it
    # waits.
    Family("process_cpu_seconds_total", "counter", (), "User and system CPU time; the sum of all workers there were."),
    Family(
        "process_resident_memory_bytes", "gauge", (), "Resident memory; the sum of all workers, shared pages each time."
    ),
    Family("process_virtual_memory_bytes", "gauge", (), "Virtual memory; the sum of all workers."),
    Family("process_open_fds", "gauge", (), "Open descriptors of the worker that has most.", max),
    Family("process_max_fds", "gauge", (), "The limit of open descriptors of one worker.", min),
    Family("process_start_time_seconds", "gauge", (), "When the oldest worker started, in seconds since 1970.", min),
)

_UP = {State.UP: 1, State.UNKNOWN: None}
_ENDED_BY = ("client", "upstream", "gomodel")
_RUNNING_PHASES = PHASE_WORDS[:-1]


def snapshot(
    telemetry: Telemetry, providers: Providers, models: ModelLists, asked_by: Record | None = None
) -> Snapshot:
    """Every number of this process now, without the request that asks for them."""
    names = list(providers.instances)
    in_flight = dict.fromkeys([*names, ""], 0)
    for record in telemetry.running.records:
        if record is not asked_by:
            in_flight[record.instance] = in_flight.get(record.instance, 0) + 1
    # What can be counted is there from the start, at 0: the first increase of a series that appears with it is lost.
    aborted = {(who, phase): 0 for who in _ENDED_BY for phase in _RUNNING_PHASES}
    aborted |= {(who, PHASE_WORDS[phase]): count for (who, phase), count in telemetry.aborted.items()}
    connects = dict.fromkeys([(name, "ok") for name in names], 0) | telemetry.connects
    retries = dict.fromkeys(names, 0) | telemetry.retries
    traffic = {name: telemetry.traffic[name] for name in [*names, *telemetry.traffic]}
    instances, now = providers.instances.values(), monotonic()
    numbers: dict[str, Iterable[tuple[tuple[str, ...], Any]]] = {
        "gomodel_requests_total": (((*key[:3], str(key[3])), each.count) for key, each in telemetry.requests.items()),
        "gomodel_requests_in_flight": (((name,), count) for name, count in in_flight.items()),
        "gomodel_request_duration_seconds": ((key, _plain(each.duration)) for key, each in telemetry.latency.items()),
        "gomodel_time_to_first_byte_seconds": (
            ((*key, stream), _plain(histogram))
            for key, each in telemetry.latency.items()
            for stream, histogram in (("false", each.first_byte), ("true", each.first_byte_streamed))
            if any(histogram.counts)
        ),
        "gomodel_chunk_gap_seconds": (((name,), _plain(each)) for name, each in telemetry.gaps.items()),
        "gomodel_request_bytes_total": (((name,), each.request_bytes) for name, each in traffic.items()),
        "gomodel_response_bytes_total": (((name,), each.response_bytes) for name, each in traffic.items()),
        "gomodel_aborted_total": aborted.items(),
        "gomodel_upstream_connects_total": connects.items(),
        "gomodel_upstream_retries_total": (((name,), count) for name, count in retries.items()),
        "gomodel_breaker_open": (((each.name,), int(not each.breaker.candidate(now))) for each in instances),
        "gomodel_instance_up": (((each.name,), _UP.get(each.health.state, 0)) for each in instances),
        "gomodel_instance_key_refused": (((each.name,), int(each.health.key_refused)) for each in instances),
        "gomodel_model_list_age_seconds": _ages(models),
        "gomodel_event_loop_lag_seconds": [((), _plain(telemetry.lag))],
        "gomodel_build_info": [((VERSION,), 1)],
        **{name: [((), number)] for name, number in process_metrics().items()},
    }
    return {name: list(samples) for name, samples in numbers.items()}


def _plain(histogram: Histogram) -> list[Any]:
    return [list(histogram.counts), histogram.sum]


def _ages(models: ModelLists) -> Iterator[tuple[tuple[str, ...], float]]:
    now = monotonic()
    for each in models.lists:
        age_s = each.age_s(now)
        if age_s is not None:
            yield (each.instance.name,), age_s


def expose(snapshots: Iterable[Snapshot], accept: str = "") -> tuple[bytes, str]:
    """The snapshots of all workers as one text, and its media type: OpenMetrics where `accept` names it."""
    # Deferred, see the module's docstring.
    from prometheus_client import exposition, openmetrics  # noqa: PLC0415

    collector = _Collector(list(snapshots))
    open_metrics = OPENMETRICS in accept
    render: Callable[[Any], bytes] = (openmetrics.exposition if open_metrics else exposition).generate_latest
    return render(collector), openmetrics.exposition.CONTENT_TYPE_LATEST if open_metrics else _TEXT


class _Collector:
    """What prometheus_client asks of whoever has metrics."""

    def __init__(self, snapshots: list[Snapshot]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator["Metric"]:
        from prometheus_client import Metric  # noqa: PLC0415

        for family in FAMILIES:
            # The library wants a counter without its suffix.
            name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
            metric = Metric(name, family.help, family.kind)
            for values, number in sorted(_merged(family, self._snapshots).items()):
                # Names come from instances' lists, which may hold what is no Unicode text.
                texts = (value.encode("utf-8", "replace").decode() for value in values)
                labels = dict(zip(family.labels, texts, strict=True))
                if family.kind == "histogram":
                    _add_histogram(metric, labels, *number)
                else:
                    metric.add_sample(family.name, labels, number or 0)
            yield metric


def lasting(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of what only ever grows, and so must not be lost with a worker."""
    given = list(snapshots)
    return {each.name: list(_merged(each, given).items()) for each in FAMILIES if each.kind != "gauge"}


def _merged(family: Family, snapshots: list[Snapshot]) -> dict[tuple[str, ...], Any]:
    merged: dict[tuple[str, ...], Any] = {}
    for each in snapshots:
        for values, number in each.get(family.name, ()):
            key = tuple(values)
            merged[key] = family.merge(merged[key], number) if key in merged else number
    return merged


_BOUNDS = (*map(str, SECONDS), "+Inf")


def _add_histogram(metric: "Metric", labels: dict[str, str], counts: list[int], total_s: float) -> None:
    count = 0
    for bound, count in zip(_BOUNDS, accumulate(counts), strict=True):
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
    metric.add_sample(f"{metric.name}_sum", labels, total_s)
    metric.add_sample(f"{metric.name}_count", labels, count)
