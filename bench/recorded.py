"""One's own traffic through each proxy: a recording is sent at its times, and a replay of it answers.

Decides what is sent where and what is read of it. The replay answers by method and path where a proxy
wrote a body anew; what it costs is not counted.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import payloads, peers
from bench.configurations import PROJECT
from bench.measure import Bench, child_of, cpu_around, per_unit_us
from bench.peers import Running
from bench.process import StartError, free_port, wait_until
from bench.stats import DIRECT, Sample
from gomodel.config.settings import Secret
from gomodel.doctor.places import place_of
from gomodel.recording.command import recorded_in
from gomodel.recording.lines import Recorded
from gomodel.recording.load import Load, percentile, send


def suite(directory: Path, speed: float) -> Callable[[Bench], None]:
    """The suite for this recording, sent and answered `speed` times faster than it was recorded. Raises Refused."""
    exchanges = recorded_in(directory)
    return lambda bench: _recording(bench, directory.resolve(), exchanges, speed)


def _recording(bench: Bench, directory: Path, exchanges: Sequence[Recorded], speed: float) -> None:
    bench.stop_all()
    port = free_port()
    command = [sys.executable, "-m", "gomodel", "replay", str(directory), "--any-body", "--speed", f"{speed:g}"]
    command += ["--listen", f"127.0.0.1:{port}"]
    replay = bench.fleet.start("replay", command, peers.clean_environment({"PYTHONPATH": str(PROJECT)}))
    wait_until(lambda: _listens(port), replay, 20.0)
    bench.running[DIRECT] = Running(DIRECT, port, child=replay)
    for peer, program in bench.found.items():
        if peer.name in bench.results.skipped:
            continue
        started = peers.spawn(peer, program, port, bench.fleet)
        try:
            wait_until(lambda at=started.port: _listens(at), child_of(started), peer.start_limit_s)  # type: ignore[misc]
            bench.running[peer.name] = started
        except StartError as error:
            bench.results.skipped[peer.name] = str(error)
            bench.fleet.stop(child_of(started))

    def cell(subject: Running, number: int) -> list[Sample]:
        load, cpu_s = cpu_around(subject.pid, lambda: _send(exchanges, subject.port, speed))
        return _samples(subject, number, f"{len(exchanges)} requests, {speed:g} times as fast", load, cpu_s)

    try:
        bench.turns("recording", list(bench.running.values()), cell)
    finally:
        bench.stop_all()


def _send(exchanges: Sequence[Recorded], port: int, speed: float) -> Load:
    return asyncio.run(send(exchanges, place_of(f"http://127.0.0.1:{port}", Secret(payloads.KEY)), speed))


def _samples(subject: Running, number: int, case: str, load: Load, cpu_s: float) -> list[Sample]:
    figures = [
        ("first byte p50", "ms", percentile(load.first_byte_s, 0.5) * 1000),
        ("first byte p99", "ms", percentile(load.first_byte_s, 0.99) * 1000),
        ("whole p50", "ms", percentile(load.whole_s, 0.5) * 1000),
    ]
    if subject.name != DIRECT:
        figures.insert(0, ("cpu", "us/request", per_unit_us(cpu_s, load.results.total())))
    reason = ", ".join(f"{count}x {what}" for what, count in load.results.most_common(3)) if load.errors else ""
    return [
        Sample("recording", case, metric, unit, subject.name, number, value, load.errors, reason)
        for metric, unit, value in figures
    ]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
