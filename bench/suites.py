"""The pieces of work that are measured on peers that are all up at once, each peer in turn.

Decides loads and units: requests, SSE events, connections, streams, body sizes. What needs a fresh process is in
lifecycle.py.
"""

import math
from collections.abc import Callable, Iterable

from bench import payloads, procfs, streams, wrk
from bench.load import Load
from bench.measure import PACED_SHARE, Bench, cpu_around, per_unit_us
from bench.peers import Running
from bench.stats import Sample
from bench.streams import Flow, Plan

CONNECTIONS = (1, 8, 32, 128, 512)
STREAMS = (50, 500, 3000)
# Constant over the stream counts, so that a rising cost per event is the price of open streams, not of more events.
EVENTS_PER_S = 10_000
ATTEMPTS = 3
MIB = 1024 * 1024

Figure = tuple[str, str, float]


def _samples(
    suite: str, case: str, subject: Running, number: int, outcome: Load | Flow, figures: Iterable[Figure]
) -> list[Sample]:
    reason = outcome.reason
    if isinstance(outcome, Flow) and not outcome.errors and not _paced(outcome):
        reason = f"not paced: {outcome.events / max(1, outcome.reads):.1f} events per read"
    return [
        Sample(suite, case, metric, unit, subject.name, number, value, outcome.errors, reason)
        for metric, unit, value in figures
        if not math.isnan(value)
    ]


def _paced(flow: Flow) -> bool:
    return flow.reads >= PACED_SHARE * flow.events


def run_streams(subject: Running, plan: Plan) -> Flow:
    return streams.run(subject.port, subject.model, plan, verbatim=subject.verbatim)


def _stream(work: Callable[[], tuple[Flow, float]]) -> tuple[Flow, float]:
    """Runs streams, again when events came in clumps: a stall of a shared machine passes, a proxy's habit does not."""
    for _ in range(ATTEMPTS - 1):
        flow, cpu = work()
        if flow.errors or _paced(flow):
            return flow, cpu
    return work()


def json_requests(bench: Bench) -> None:
    """CPU per small chat request at 32 keep-alive connections, with the same head each time and with another."""

    def cell(case: str, *, distinct: bool) -> Callable[[Running, int], list[Sample]]:
        def turn(subject: Running, number: int) -> list[Sample]:
            done, cpu = cpu_around(subject.pid, lambda: bench.chat(subject, 32, bench.json_s, distinct=distinct))
            figures = [("cpu", "us/request", per_unit_us(cpu, done.done))]
            figures.append(("throughput", "requests/s", done.done / done.seconds if done.seconds else 0.0))
            return _samples("json", case, subject, number, done, figures)

        return turn

    bench.turns("json", bench.subjects(), cell("chat, 32 connections", distinct=False))
    if wrk.program():
        bench.turns("json, other heads", bench.subjects(), cell("chat, no two heads equal", distinct=True))


def sse_events(bench: Bench) -> None:
    """CPU per SSE event: 200 streams of 100 events, 20 ms apart, asked twice."""
    plan = Plan(200, 100, 20, 2)

    def cell(subject: Running, number: int) -> list[Sample]:
        def work() -> tuple[Flow, float]:
            return cpu_around(subject.pid, lambda: run_streams(subject, plan))

        flow, cpu = _stream(work)
        figures = [] if subject is bench.direct else [("cpu", "us/event", per_unit_us(cpu, flow.events))]
        figures += [("lag p50", "us", flow.lag_p50_us), ("lag p99", "us", flow.lag_p99_us)]
        figures.append(("first event p50", "us", flow.first_p50_us))
        return _samples("sse", "200 streams", subject, number, flow, figures)

    bench.turns("sse", bench.subjects(direct=not bench.quick), cell)


def latency(bench: Bench) -> None:
    """Added latency of one connection, and of one stream, against the upstream asked directly in the same round."""
    base: dict[tuple[int, str], float] = {}

    def added(subject: Running, number: int, figures: list[Figure]) -> list[Figure]:
        if subject is bench.direct:
            base.update({(number, metric): value for metric, _, value in figures})
            return figures
        more = [(f"added {metric}", unit, value - base[number, metric]) for metric, unit, value in figures]
        return figures + more

    def one_connection(subject: Running, number: int) -> list[Sample]:
        done = bench.chat(subject, 1, bench.json_s)
        figures = added(subject, number, [("p50", "us", done.p50_us), ("p99", "us", done.p99_us)])
        return _samples("latency", "one connection", subject, number, done, figures)

    plan = Plan(1, 100 if bench.quick else 300, 5)

    def one_stream(subject: Running, number: int) -> list[Sample]:
        flow = run_streams(subject, plan)
        figures = added(subject, number, [("lag p50", "us", flow.lag_p50_us), ("lag p99", "us", flow.lag_p99_us)])
        return _samples("latency", "one stream", subject, number, flow, figures)

    bench.turns("latency, connection", bench.subjects(direct=True), one_connection)
    bench.turns("latency, stream", bench.subjects(direct=True), one_stream)


def concurrency(bench: Bench) -> None:
    """CPU per request over connections, and per event over open streams."""
    for connections in CONNECTIONS:
        bench.turns(f"{connections} connections", bench.subjects(), _connections(bench, connections))
    for count in STREAMS:
        bench.turns(f"{count} streams", bench.subjects(), _streams(bench, count))


def _connections(bench: Bench, connections: int) -> Callable[[Running, int], list[Sample]]:
    def cell(subject: Running, number: int) -> list[Sample]:
        done, cpu = cpu_around(subject.pid, lambda: bench.chat(subject, connections, bench.json_s))
        figures = [("cpu", "us/request", per_unit_us(cpu, done.done)), ("p99", "us", done.p99_us)]
        return _samples("connections", str(connections), subject, number, done, figures)

    return cell


def _streams(bench: Bench, count: int) -> Callable[[Running, int], list[Sample]]:
    gap_ms = count / EVENTS_PER_S * 1000
    window_s = 2.0 if bench.quick else 3.0
    # Every stream has to outlive the spread of the starts, the window, and the time a slow peer takes to accept all.
    plan = Plan(count, int((window_s + 2.0) * 1000 / gap_ms) + 1, gap_ms, window_s=window_s)

    def cell(subject: Running, number: int) -> list[Sample]:
        def work() -> tuple[Flow, float]:
            flow = streams.run(
                subject.port, subject.model, plan, lambda: procfs.cpu_s(subject.pid), verbatim=subject.verbatim
            )
            return flow, flow.window_cpu_s

        procfs.forget_peak(subject.pid)
        flow, cpu = _stream(work)
        memory = procfs.memory(subject.pid).peak_bytes / MIB
        figures = [("cpu", "us/event", per_unit_us(cpu, flow.window_events))]
        figures += [("lag p99", "us", flow.lag_p99_us), ("peak rss", "MiB", memory)]
        return _samples("streams", str(count), subject, number, flow, figures)

    return cell


def bodies(bench: Bench) -> None:
    """CPU per request and peak memory over body sizes, four connections, every upload counted to the byte."""
    # Fresh processes: memory that 3000 streams left behind would hide what an upload needs.
    bench.stop_all()
    bench.start_all()
    for case, make in payloads.BODIES.items():
        bench.turns(case, bench.subjects(), _body(bench, case, make, chunked=False))
    bench.turns("chunked", bench.subjects(), _body(bench, "image 5 MB, chunked", payloads.image, chunked=True))


def _body(
    bench: Bench, case: str, make: Callable[[str], bytes], *, chunked: bool
) -> Callable[[Running, int], list[Sample]]:
    def cell(subject: Running, number: int) -> list[Sample]:
        body = make(subject.model)
        procfs.forget_peak(subject.pid)
        done, cpu = cpu_around(
            subject.pid, lambda: bench.exact(subject, body, 4, 1.0 if bench.quick else 2.0, chunked=chunked)
        )
        peak = procfs.memory(subject.pid).peak_bytes / MIB
        figures = [("cpu", "us/request", per_unit_us(cpu, done.done))]
        figures += [("p50", "us", done.p50_us), ("peak rss", "MiB", peak)]
        return _samples("bodies", case, subject, number, done, figures)

    return cell
