"""The command: `python -m bench`, one run, one table, and the same as Markdown, JSON and plots.

Decides what is run in which order and that nothing outlives it.
"""

import argparse
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from bench import features, fleet, lifecycle, plots, recorded, report, suites, wrk
from bench.install import install, version
from bench.measure import Bench, start_upstream
from bench.peers import PEERS, Peer
from bench.process import Fleet, StartError
from bench.stats import YARDSTICK, Results
from gomodel.recording.command import Refused

SUITES: dict[str, Callable[[Bench], None]] = {
    "json": suites.json_requests,
    "sse": suites.sse_events,
    "latency": suites.latency,
    "concurrency": suites.concurrency,
    "bodies": suites.bodies,
    "memory": lifecycle.memory,
    "start": lifecycle.start,
    "workers": lifecycle.workers,
    "fleet": fleet.conversations_over_servers,
    "keys": features.keys_and_homes,
}
# Suites that measure processes of their own come last, when the shared ones are no longer needed.
_OWN_PROCESSES = ("memory", "start", "workers", "fleet", "keys", "recording")
_DESCRIPTORS = 65536


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return names

    return parse


def _rounds(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError("between 1 and 99")
    return int(text)


def _speed(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError("a number of times above 0")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    known = [peer.name for peer in PEERS]
    made = argparse.ArgumentParser(prog="python -m bench", description="What gomodel costs beside other proxies.")
    made.add_argument("--only", type=_names(list(SUITES)), metavar="LIST", help=",".join(SUITES))
    made.add_argument(
        "--recording", type=Path, metavar="DIR", help="of gomodel record: measured instead, or with --only"
    )
    made.add_argument("--speed", type=_speed, default=1.0, help="of the recording (default 1)")
    made.add_argument("--peers", type=_names(known), default=known, metavar="LIST", help=",".join(known))
    made.add_argument("--rounds", type=_rounds, help="turns per peer and figure (default 3, quick 2)")
    made.add_argument("--quick", action="store_true", help="shorter runs: for a direction, not for a figure to quote")
    made.add_argument("--out", type=Path, default=Path("bench-results"), help="default ./bench-results")
    made.add_argument("--install", action="store_true", help="install missing peers into OUT/peers with pip")
    return made


def find(wanted: Sequence[str], installed: Path, skipped: dict[str, str]) -> dict[Peer, str]:
    """The wanted peers that are present with their programs; the others go into `skipped` with the reason."""
    found: dict[Peer, str] = {}
    for peer in PEERS:
        if peer.name not in wanted:
            continue
        program = peer.find(installed)
        if program is None:
            hint = f"--install fetches {peer.package}" if peer.package else "install it with the system's packages"
            skipped[peer.name] = f"{peer.program} is not installed ({hint})"
        else:
            found[peer] = program
    return found


def environment(found: dict[Peer, str], arguments: argparse.Namespace, rounds: int) -> dict[str, str]:
    """Where and with what the run took place."""
    model = next((line for line in _read("/proc/cpuinfo").splitlines() if line.startswith("model name")), ": unknown")
    backlog = _read("/proc/sys/net/core/somaxconn").strip() or "unknown"
    facts = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "machine": f"{os.cpu_count()} CPUs, {model.partition(':')[2].strip()}",
        "system": f"{platform.system()} {platform.release()}, somaxconn {backlog}",
        "python": platform.python_version(),
        "load generator": "wrk for small JSON requests, own client for the rest" if wrk.program() else "own client",
        "rounds": f"{rounds}{', quick' if arguments.quick else ''}",
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }
    return facts | {f"version of {peer.name}": version(peer, program) for peer, program in found.items()}


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


class Signals:
    """SIGTERM and SIGHUP take the way of a Ctrl-C: an exception raised inside a callback would be lost in the loop."""

    def __init__(self) -> None:
        self.number = signal.SIGINT

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.terminated)

    def terminated(self, number: int, frame: FrameType | None) -> None:
        self.number = signal.Signals(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt  # a shell's background jobs ignore SIGINT, and raising it would do nothing
        signal.raise_signal(signal.SIGINT)

    def exit_status(self) -> int:
        return 128 + self.number


def _allow_descriptors() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def write(out: Path, results: Results, facts: dict[str, str], why: dict[str, str]) -> None:
    """report.md, report.json and the plots; an earlier run's plots are removed, lest one be taken for this run's."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.svg"):
        old.unlink()
    drawn = plots.draw(results)
    for name, text in drawn.items():
        (out / name).write_text(text)
    (out / "report.md").write_text(report.markdown(results, facts, why, list(drawn)))
    (out / "report.json").write_text(report.as_json(results, facts, why))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for. 0: measured; 1: nothing could be; a signal ends it with 128 + its number."""
    options = parser().parse_args(arguments)
    signals = Signals()
    signals.install()
    _allow_descriptors()
    began = time.monotonic()

    def say(text: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - began:5.0f} s] {text}\n")
        sys.stderr.flush()

    out: Path = options.out.resolve()
    installed = out / "peers"
    if options.install:
        install([peer for peer in PEERS if peer.name in options.peers], installed, say)
    rounds = options.rounds or (2 if options.quick else 3)
    results = Results()
    found = find(options.peers, installed, results.skipped)
    facts = environment(found, options, rounds)
    if YARDSTICK not in {peer.name for peer in found}:
        say(f"no {YARDSTICK}: figures only, no ratios")
    chosen = options.only or ([] if options.recording else list(SUITES))
    wanted = {name: SUITES[name] for name in SUITES if name in chosen}
    if options.recording:
        try:
            wanted["recording"] = recorded.suite(options.recording, options.speed)
        except Refused as refused:
            say(f"--recording: {refused}")
            return 1
    interrupted = 0
    with tempfile.TemporaryDirectory(prefix="gomodel-bench-") as scratch, Fleet(Path(scratch)) as children:
        try:
            bench = Bench(children, start_upstream(children), found, rounds, options.quick, say, results)
            for name, suite in wanted.items():
                if name not in _OWN_PROCESSES:
                    bench.start_all()
                suite(bench)
        except StartError as error:
            say(str(error))
        except KeyboardInterrupt:
            interrupted = signals.exit_status()
            say("interrupted: what was measured so far follows")
    facts["load average after"] = f"{os.getloadavg()[0]:.2f}"
    for name, reason in results.skipped.items():
        say(f"{name} skipped: {reason}")
    if not results.samples:
        say("nothing was measured")
        return interrupted or 1
    write(out, results, facts, {peer.name: peer.why for peer in found})
    first, *others = report.tables(results)
    sys.stdout.write("\n\n".join([*(table.text() for table in others), first.text()]) + "\n")
    sys.stdout.write(f"\n{out / 'report.md'}, report.json and plots written in {time.monotonic() - began:.0f} s\n")
    return interrupted


if __name__ == "__main__":
    sys.exit(main())
