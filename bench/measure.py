"""How a figure is taken: the peers in turn, round after round, CPU of the process tree around each piece of work.

Decides the order of turns, what a cell of the result is made of, and when a peer counts as started. Knows nothing of
what is drawn from the samples.
"""

import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from bench import load, payloads, peers, procfs, wrk
from bench.answer import Answer, Broken
from bench.configurations import PROJECT
from bench.peers import Peer, Running
from bench.process import Child, Fleet, StartError, wait_until
from bench.stats import DIRECT, Results, Sample

# Fewer reads than this share of the events: the proxy held events back, which is cheap and not what is compared.
PACED_SHARE = 0.8
T = TypeVar("T")


def answers(port: int, model: str, timeout_s: float = 2.0) -> bool:
    """True when one chat request, sent on a new connection, gets a whole answer with status 200."""
    answer = Answer()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
            connection.sendall(payloads.request(payloads.small(model)))
            while not answer.done:
                data = connection.recv(65536)
                if not data:
                    return False
                answer.feed(data)
    except (OSError, Broken):
        return False
    return answer.status == 200


def start_upstream(fleet: Fleet) -> Running:
    """The upstream as a peer of its own: what a request costs without any proxy. Raises StartError."""
    command = [sys.executable, "-m", "bench.upstream"]
    child = fleet.start("upstream", command, peers.clean_environment({"PYTHONPATH": str(PROJECT)}))

    def announced() -> bool:
        return child.log.read_text().endswith("\n")

    wait_until(announced, child, 20.0)
    return Running(DIRECT, int(child.log.read_text().split()[0]), child=child)


@dataclass(slots=True)
class Bench:
    """One run: what is running, how long a piece of work may take, and where samples go."""

    fleet: Fleet
    direct: Running
    found: dict[Peer, str]
    rounds: int
    quick: bool
    say: Callable[[str], None]
    results: Results = field(default_factory=Results)
    running: dict[str, Running] = field(default_factory=dict)

    @property
    def json_s(self) -> float:
        return 2.0 if self.quick else 3.0

    def start(self, peer: Peer, workers: int = 1) -> Running:
        """Starts a peer and checks a few answers to the byte. Raises StartError when it does not serve correctly."""
        started = peers.spawn(peer, self.found[peer], self.direct.port, self.fleet, workers)
        child = child_of(started)
        try:
            wait_until(lambda: answers(started.port, started.model), child, peer.start_limit_s, 0.02)
            tried = self.exact(started, payloads.small(started.model), connections=4, seconds=0.3)
            if tried.errors:
                raise StartError(f"wrong answers at start: {tried.reason}")
        except StartError:
            self.fleet.stop(child)
            raise
        return started

    def start_all(self) -> None:
        """Starts every peer that is not up yet; one that cannot start is skipped with its reason."""
        for peer in self.found:
            if peer.name in self.running or peer.name in self.results.skipped:
                continue
            self.say(f"starting {peer.name}")
            try:
                self.running[peer.name] = self.start(peer)
            except StartError as error:
                self.results.skipped[peer.name] = str(error)
                self.say(f"{peer.name} skipped: {error}")

    def stop_all(self) -> None:
        for started in self.running.values():
            self.fleet.stop(child_of(started))
        self.running.clear()

    def exact(
        self, subject: Running, body: bytes, connections: int, seconds: float, *, chunked: bool = False
    ) -> load.Load:
        """JSON load in which every answer is read, and the upstream's count of body bytes compared."""
        sent = len(body) - subject.removed_bytes if subject.exact else None
        return load.run(subject.port, payloads.request(body, chunked=chunked), connections, seconds, sent)

    def chat(
        self, subject: Running, connections: int, seconds: float, threads: int = 1, *, distinct: bool = False
    ) -> load.Load:
        """Small chats as fast as they are answered, through wrk where it is installed; `distinct` needs wrk."""
        body = payloads.small(subject.model)
        if wrk.program():
            directory = self.fleet.directory
            return wrk.run(subject.port, body, connections, seconds, directory, threads, distinct=distinct)
        return self.exact(subject, body, connections, seconds)

    def turns(self, title: str, subjects: Sequence[Running], cell: Callable[[Running, int], Iterable[Sample]]) -> None:
        """Runs `cell` for A, B, A, B ...; a subject that dies is skipped from then on, and never compared."""
        for number in range(1, self.rounds + 1):
            for subject in subjects:
                if subject.name in self.results.skipped:
                    continue
                try:
                    samples = list(cell(subject, number))
                except ProcessLookupError:
                    self.results.skipped[subject.name] = f"died during {title}: {child_of(subject).tail()}"
                    self.running.pop(subject.name, None)
                    continue
                self.results.samples.extend(samples)
                figures = ", ".join(f"{sample.metric} {sample.value:.4g} {sample.unit}" for sample in samples)
                fault = next((f"  !! {sample.reason}" for sample in samples if sample.reason), "")
                self.say(f"{title} {number}/{self.rounds} {subject.name}: {figures}{fault}")

    def subjects(self, *, direct: bool = False) -> list[Running]:
        """The running peers in their order; with `direct` the bare upstream first."""
        return [*([self.direct] if direct else []), *self.running.values()]


def child_of(subject: Running) -> Child:
    assert subject.child is not None
    return subject.child


def cpu_around(pid: int, work: Callable[[], T]) -> tuple[T, float]:
    """What `work` returned, and the CPU seconds the tree of `pid` used meanwhile. Raises ProcessLookupError."""
    before = procfs.cpu_s(pid)
    outcome = work()
    return outcome, procfs.cpu_s(pid) - before


def per_unit_us(cpu_s: float, units: int) -> float:
    """CPU microseconds per unit of work; 0 for no work, which comes with an error."""
    return cpu_s / units * 1e6 if units else 0.0


def cold_start_s(bench: Bench, peer: Peer) -> float:
    """Seconds from the start of the process to its first whole 200 answer. Raises StartError."""
    began = time.perf_counter()
    started = peers.spawn(peer, bench.found[peer], bench.direct.port, bench.fleet)
    try:
        wait_until(lambda: answers(started.port, started.model), child_of(started), peer.start_limit_s)
        return time.perf_counter() - began
    finally:
        bench.fleet.stop(child_of(started))
