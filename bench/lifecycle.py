"""What needs processes of its own: memory before and after load, cold start, a burst of clients, two workers.

Decides when a process is started and read. Knows nothing of how the figures are shown.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack

from bench import payloads, procfs, quota
from bench.load import Load, burst
from bench.measure import Bench, child_of, cold_start_s, cpu_around, per_unit_us
from bench.peers import Peer, Running
from bench.process import StartError
from bench.stats import Sample
from bench.streams import Plan
from bench.suites import MIB, run_streams

BURST = 500
SETTLE_S = 1.0
# So little that two of them, the load and the upstream fit two cores with room to spare.
WORKER_CORES = 0.3


def _fresh(bench: Bench, peer: Peer, work: Callable[[Running], None], workers: int = 1) -> None:
    """Runs `work` on a process of its own; a peer that cannot start or dies is skipped from then on."""
    if peer.name in bench.results.skipped:
        return
    try:
        subject = bench.start(peer, workers)
    except StartError as error:
        bench.results.skipped[peer.name] = str(error)
        return
    try:
        work(subject)
    except ProcessLookupError:
        bench.results.skipped[peer.name] = f"died: {child_of(subject).tail()}"
    finally:
        bench.fleet.stop(child_of(subject))


def memory(bench: Bench) -> None:
    """Resident memory idle, after a round of mixed load, and after the same round again: the last two should agree."""
    bench.stop_all()
    for peer in bench.found:
        _fresh(bench, peer, lambda subject: _memory(bench, subject))


def _mixed_load(bench: Bench, subject: Running) -> list[tuple[int, str]]:
    plan = Plan(200, 20 if bench.quick else 50, 20)
    outcomes: list[tuple[int, str]] = []
    for done in (
        bench.chat(subject, 128, bench.json_s),
        bench.exact(subject, payloads.prompt(subject.model), 8, 1.0),
        bench.exact(subject, payloads.image_model_last(subject.model), 4, 1.0),
    ):
        outcomes.append((done.errors, done.reason))
    flow = run_streams(subject, plan)
    return [*outcomes, (flow.errors, flow.reason)]


def _memory(bench: Bench, subject: Running) -> None:
    def record(metric: str, value: float, outcomes: list[tuple[int, str]]) -> None:
        errors = sum(count for count, _ in outcomes)
        reason = ", ".join(dict.fromkeys(text for _, text in outcomes if text))
        bench.results.samples.append(
            Sample("memory", "mixed load", metric, "MiB", subject.name, 1, value, errors, reason)
        )
        bench.say(f"memory {subject.name}: {metric} {value:.1f} MiB" + (f"  !! {reason}" if reason else ""))

    time.sleep(SETTLE_S)
    record("idle", procfs.memory(subject.pid).resident_bytes / MIB, [])
    for number in (1, 2):
        outcomes = _mixed_load(bench, subject)
        time.sleep(SETTLE_S)
        record(f"after load {number}", procfs.memory(subject.pid).resident_bytes / MIB, outcomes)
    record("peak", procfs.memory(subject.pid).peak_bytes / MIB, [])


def start(bench: Bench) -> None:
    """Cold start to the first 200, and 500 clients that connect at the same moment."""
    bench.stop_all()
    for number in range(1, bench.rounds + 1):
        for peer in bench.found:
            if peer.name in bench.results.skipped:
                continue
            try:
                taken = cold_start_s(bench, peer) * 1000
            except StartError as error:
                bench.results.skipped[peer.name] = str(error)
                continue
            bench.results.samples.append(Sample("start", "cold start", "first 200", "ms", peer.name, number, taken))
            bench.say(f"start {number}/{bench.rounds} {peer.name}: {taken:.0f} ms")
    bench.start_all()

    def cell(subject: Running, number: int) -> list[Sample]:
        done: Load = burst(subject.port, payloads.request(payloads.small(subject.model)), BURST)
        case = f"{BURST} simultaneous clients"
        return [
            Sample("start", case, metric, "ms", subject.name, number, value / 1000, done.errors, done.reason)
            for metric, value in (("p50", done.p50_us), ("slowest", done.max_us))
        ]

    bench.turns("burst", bench.subjects(direct=True), cell)


def workers(bench: Bench) -> None:
    """Throughput and CPU per request of one worker and of two, where possible with a share of a core for each.

    Without shares the load and the upstream take from two cores what a second worker would need.
    """
    bench.stop_all()
    for number in range(1, bench.rounds + 1):
        for peer in bench.found:
            for count in (1, 2) if peer.scales else ():
                _fresh(bench, peer, _throughput(bench, count, number), count)


def _throughput(bench: Bench, count: int, number: int) -> Callable[[Running], None]:
    def work(subject: Running) -> None:
        share, case = "", f"{count} worker{'s' if count > 1 else ''}"
        with ExitStack() as stack:
            pids = quota.workers_of(subject.pid)
            try:
                if len(pids) != count:
                    raise quota.NoQuota("its workers are threads")
                stack.enter_context(quota.share(pids, WORKER_CORES))
                share = f" of {WORKER_CORES} core each"
            except quota.NoQuota as error:
                bench.say(f"workers {subject.name}: no share of a core for each ({error})")
            done, cpu = cpu_around(subject.pid, lambda: bench.chat(subject, 64, bench.json_s))
        case += share
        for metric, unit, value in (
            ("throughput", "requests/s", done.done / done.seconds if done.seconds else 0.0),
            ("cpu", "us/request", per_unit_us(cpu, done.done)),
        ):
            bench.results.samples.append(
                Sample("workers", case, metric, unit, subject.name, number, value, done.errors, done.reason)
            )
        bench.say(f"workers {number}/{bench.rounds} {subject.name} x{count}: {done.done / done.seconds:.0f} requests/s")

    return work
