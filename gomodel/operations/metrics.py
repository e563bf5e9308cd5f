"""GET /metrics: the numbers of this process as a snapshot, and all workers' snapshots as one text for Prometheus.

A snapshot is plain data, so that it can travel between workers. Names, labels and help are in `families`. Counts
nothing itself.

prometheus_client is imported by the first scrape: it costs more to import than the rest of the gateway.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, product
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..access.callers import Callers
from ..balancing.equivalence import WHAT
from ..balancing.instance import Instance
from ..balancing.instances import Providers
from ..balancing.model_lists import ModelLists
from ..balancing.replica_guard import ASKED
from ..host.process_metrics import process_metrics
from ..telemetry.counters import Telemetry
from ..telemetry.histogram import SECONDS, Histogram
from ..telemetry.record import PHASE_WORDS, Record
from ..telemetry.spending import Spending
from ..telemetry.waste import Wasted
from ..upstream.health import State
from ..upstream.replica import ASLEEP, DIFFERS, OUT, WEDGED
from ..version import VERSION
from .families import FAMILIES, Family

if TYPE_CHECKING:
    from prometheus_client import Metric

OPENMETRICS = "application/openmetrics-text"
# Version 0.0.4 is what every scraper has read for ten years; what newer ones add concerns names that none here has.
_TEXT = "text/plain; version=0.0.4; charset=utf-8"

# By family: (label values, number) pairs; a histogram's number is its counts per bucket and its sum.
Samples = list[tuple[tuple[str, ...], Any]]
Snapshot = dict[str, Samples]


# From when on the counters count, however often those that did were replaced.
SINCE = "process_start_time_seconds"
_UP = {State.UP: 1, State.UNKNOWN: None}
_SPENT = (
    "gomodel_tokens_total",
    "gomodel_usage_requests_total",
    "gomodel_generation_seconds_total",
    "gomodel_audio_seconds_total",
    "gomodel_prompt_tokens_total",
)
_NO_SPANS = {"made": 0, "exported": 0, "failed": 0}
_OUTCOMES = ("served", "left", "timeout", "refused")
_ENDED_BY = ("client", "upstream", "gomodel")
_RUNNING_PHASES = PHASE_WORDS[:-1]


def snapshot(
    telemetry: Telemetry,
    providers: Providers,
    models: ModelLists,
    asked_by: Record | None = None,
    callers: Callers | None = None,
    *,
    addresses: bool = True,
    batches: bool = False,
) -> Snapshot:
    """Every number of this process now, without the request that asks for them.

    `addresses`: also the numbers of each replica, by its address, where an instance has several.
    """
    names = list(providers.instances)
    in_flight, in_line = dict.fromkeys([*names, ""], 0), dict.fromkeys(names, 0)
    for record in telemetry.running.records:
        if record is not asked_by:
            counts = in_line if record.place is not None and record.place.waiting else in_flight
            counts[record.instance] = counts.get(record.instance, 0) + 1
    # What can be counted is there from the start, at 0: the first increase of a series that appears with it is lost.
    aborted = {(who, phase): 0 for who in _ENDED_BY for phase in _RUNNING_PHASES}
    aborted |= {(who, PHASE_WORDS[phase]): count for (who, phase), count in telemetry.aborted.items()}
    connects = dict.fromkeys([(name, "ok") for name in names], 0) | telemetry.connects
    retries = dict.fromkeys(names, 0) | telemetry.retries
    asked = dict.fromkeys(product(names, ASKED), 0) | telemetry.own_requests
    queued = dict.fromkeys(product(names, _OUTCOMES), 0) | telemetry.queue_ends
    waits = {name: telemetry.queue_waits[name] for name in [*names, *telemetry.queue_waits]}
    wasted = {(name, ""): Wasted() for name in names} | telemetry.waste.by_key
    cancels = {name: telemetry.waste.cancels[name] for name in [*names, *telemetry.waste.cancels]}
    traffic = {name: telemetry.traffic[name] for name in [*names, *telemetry.traffic]}
    instances, now = providers.instances.values(), monotonic()
    shown = [each for each in providers.replicas if each.several and addresses]
    replicas = [((each.name, each.address), each) for each in shown]
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
        "gomodel_chunk_gap_seconds": (((name,), _plain(each)) for name, each in telemetry.gaps.totals()),
        "gomodel_gap_seconds": (((whom,), _plain(each)) for whom, each in telemetry.waits.items()),
        "gomodel_byte_mismatch_total": (((direction,), count) for direction, count in telemetry.mismatches.items()),
        "gomodel_wasted_seconds_total": ((key, each.seconds) for key, each in wasted.items()),
        "gomodel_wasted_events_total": ((key, each.events) for key, each in wasted.items()),
        "gomodel_cancel_seconds": (((name,), _plain(each)) for name, each in cancels.items()),
        "gomodel_request_bytes_total": (((name,), each.request_bytes) for name, each in traffic.items()),
        "gomodel_response_bytes_total": (((name,), each.response_bytes) for name, each in traffic.items()),
        "gomodel_aborted_total": aborted.items(),
        "gomodel_upstream_connects_total": connects.items(),
        "gomodel_affinity_total": telemetry.affinity.items(),
        "gomodel_batch_lines_total": (((state,), count) for state, count in telemetry.batch_lines.items() if batches),
        "gomodel_batches": (((status,), count) for status, count in telemetry.batches.items() if batches),
        "gomodel_upstream_retries_total": (((name,), count) for name, count in retries.items()),
        "gomodel_queue_waiting": (((name,), count) for name, count in in_line.items()),
        "gomodel_queue_wait_seconds": (((name,), _plain(each)) for name, each in waits.items()),
        "gomodel_queue_requests_total": queued.items(),
        **_spent(telemetry.spending),
        "gomodel_breaker_open": (((each.name,), int(_nobody_admits(each, now))) for each in instances),
        "gomodel_instance_up": (((each.name,), _up(each)) for each in instances),
        "gomodel_instance_key_refused": (
            ((each.name,), int(any(one.health.key_refused for one in each.replicas))) for each in instances
        ),
        "gomodel_replica_up": ((key, _UP.get(each.health.state, 0)) for key, each in replicas),
        "gomodel_replica_breaker_open": ((key, int(not each.breaker.candidate(now))) for key, each in replicas),
        "gomodel_replica_requests_in_flight": ((key, each.requests.own) for key, each in replicas),
        "gomodel_replicas_kept_out": (
            ((each.name, why), sum(one.kept_back if why == DIFFERS else one.is_barred(why) for one in each.replicas))
            for each in instances
            for why in (OUT, ASLEEP, WEDGED, DIFFERS)
        ),
        "gomodel_replicas_differing": (
            ((each.name, what), sum(what in one.differs for one in each.replicas))
            for each in instances
            for what in WHAT
        ),
        "gomodel_guard_requests_total": asked.items(),
        "gomodel_replica_set_age_seconds": (
            ((each.name,), max(name.age_s(now) for name in each.names.values())) for each in instances if each.names
        ),
        "gomodel_model_list_age_seconds": _ages(models),
        "gomodel_event_loop_lag_seconds": [((), _plain(telemetry.lag))],
        "gomodel_spans_total": (
            ((outcome,), count) for outcome, count in (telemetry.spans.counts if telemetry.spans else _NO_SPANS).items()
        ),
        "gomodel_build_info": [((VERSION,), 1)],
        **{name: [((), number)] for name, number in process_metrics().items()},
    }
    if callers is not None:
        numbers |= _of_keys(callers, telemetry, asked_by)
    return {name: list(samples) for name, samples in numbers.items()}


def _nobody_admits(instance: Instance, now: float) -> bool:
    """Whether the breakers of all its replicas, if it has any, keep requests away."""
    return bool(instance.replicas) and not any(each.breaker.candidate(now) for each in instance.replicas)


def _up(instance: Instance) -> int | None:
    """1 when one of its replicas is up, None while that is not known."""
    states = [each.health.state for each in instance.replicas]
    return 1 if State.UP in states else None if State.UNKNOWN in states else 0


def _of_keys(callers: Callers, telemetry: Telemetry, asked_by: Record | None) -> dict[str, Iterable[Any]]:
    met = list(callers.met)
    running = {each.name: 0 for each in met}
    for record in telemetry.running.records:
        if record.caller is not None and record is not asked_by:
            running[record.caller.name] += 1
    return {
        "gomodel_key_requests_total": (
            ((each.name, str(code)), count) for each in met for code, count in each.ended.items()
        ),
        "gomodel_key_requests_in_flight": (((name,), count) for name, count in running.items()),
        "gomodel_key_refused_total": (
            ((each.name, limit), count)
            for each in met
            if each.limits is not None
            for limit, count in each.limits.refused.items()
        ),
        "gomodel_redis_up": [((), callers.leases.up)] if callers.leases is not None else [],
        "gomodel_keys_file_broken": [((), int(callers.broken))],
    }


def _spent(spending: dict[tuple[str, str, str], Spending]) -> dict[str, Samples]:
    """What requests took, by instance, model and key; what never came up is not there."""
    found: dict[str, Samples] = {name: [] for name in _SPENT}
    sources: dict[tuple[str, ...], int] = defaultdict(int)
    for key, each in spending.items():
        counts = {"prompt": each.prompt, "cached": each.cached, "completion": each.completion}
        found["gomodel_tokens_total"] += [((*key, kind), count) for kind, count in counts.items()]
        requests = {"known": each.known, "unknown": each.unknown}
        found["gomodel_usage_requests_total"] += [((*key, usage), count) for usage, count in requests.items()]
        found["gomodel_generation_seconds_total"].append((key, each.seconds))
        if each.audio_s:
            found["gomodel_audio_seconds_total"].append((key, each.audio_s))
        if each.measured:
            sources[key[0], "cached"] += each.cached
            sources[key[0], "computed"] += each.measured - each.cached
    found["gomodel_prompt_tokens_total"] += sources.items()
    return found


def _plain(histogram: Histogram) -> list[Any]:
    return [list(histogram.counts), histogram.sum]


def _ages(models: ModelLists) -> Iterator[tuple[tuple[str, ...], float]]:
    now = monotonic()
    for each in models.lists:
        age_s = each.age_s(now)
        if age_s is not None:
            yield (each.replica.name,), age_s


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
    """The sum of what only ever grows, and so must not be lost with a worker; and since when it does."""
    given = list(snapshots)
    return {
        each.name: list(_merged(each, given).items()) for each in FAMILIES if each.kind != "gauge" or each.name == SINCE
    }


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
