"""`gomodel record` and `gomodel replay`: where they listen, what they say, how they end."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from ..doctor.places import Place
from .answers import Answers
from .journal import Journal
from .lines import NotARecording, Recorded, first_line, read
from .load import Load, percentile, send
from .recorder import Recorder, Target
from .replay import Replay

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Refused(Exception):
    """It cannot be done; the message is for whoever typed the command."""


class Recording(NamedTuple):
    """What `record` is asked for."""

    directory: Path
    to: Place
    host: str
    port: int
    limit_bytes: int


def record(asked: Recording) -> None:
    """Record until told to end. Raises Refused."""
    asyncio.run(_record(asked))


async def _record(asked: Recording) -> None:
    def stopped(why: str) -> None:
        print(f"Nothing more is recorded: {why}. What passes still passes.", file=sys.stderr, flush=True)

    try:
        journal = Journal(asked.directory, asked.limit_bytes, stopped)
    except OSError as error:
        raise Refused(f"{error.filename or asked.directory}: {error.strerror}") from None
    to = asked.to
    recorder = Recorder(Target(to.host, to.port, to.unix_socket, to.tls), journal)
    journal.say(first_line(journal.started, to.shown))
    try:
        limit = f"{asked.limit_bytes / (1 << 20):,.0f} MiB"
        words = f"Recording what passes from {{}} to {to.shown} into {journal.path}, {limit} at most. Ctrl-C ends it."
        await _serve(recorder.serve, asked.host, asked.port, words)
    finally:
        journal.close()
    print(
        f"{_many(recorder.exchanges, 'exchange')}, {journal.written_bytes:,} bytes in {journal.path}", file=sys.stderr
    )


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


async def _serve(serve: Serve, host: str, port: int, words: str) -> None:
    """Listen until SIGINT or SIGTERM. Raises Refused."""
    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = loop.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        server = await asyncio.start_server(accepted, host, port, backlog=1024)
    except OSError as error:
        raise Refused(f"cannot listen on {host}:{port}: {error.strerror}") from None
    address = server.sockets[0].getsockname()
    print(words.format(f"http://{address[0]}:{address[1]}"), file=sys.stderr, flush=True)
    await stop.wait()
    server.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def recorded_in(directory: Path) -> list[Recorded]:
    """The exchanges of all recordings in a directory. Raises Refused."""
    found: list[Recorded] = []
    paths = sorted(directory.glob("*.jsonl")) if directory.is_dir() else [directory]
    try:
        for path in paths:
            with open(path, encoding="utf-8", errors="replace") as file:
                found += read(file)
    except NotARecording:
        raise Refused(f"{path} is no recording") from None
    except OSError as error:
        raise Refused(f"{error.filename}: {error.strerror}") from None
    if not found:
        raise Refused(f"no recording is in {directory}")
    return found


def replay(directory: Path, host: str, port: int, speed: float, *, any_body: bool) -> None:
    """Answer by a recording until told to end. Raises Refused."""
    answers = Answers(recorded_in(directory), any_body=any_body)
    served = Replay(answers, speed)
    words = f"Answering at {{}} as recorded: {_many(answers.size, 'exchange')}. Ctrl-C ends it."
    asyncio.run(_serve(served.serve, host, port, words))
    print(f"{served.answered:,} answered, {served.absent:,} not in the recording", file=sys.stderr)


def as_load(directory: Path, place: Place, speed: float) -> bool:
    """Send what was recorded, and print what came of it; whether nothing failed. Raises Refused."""
    load = asyncio.run(send(recorded_in(directory), place, speed))
    print(summary(load), end="")
    return not load.errors


def summary(load: Load) -> str:
    """What came of it, beside what was recorded."""
    lines = [f"{_many(load.results.total(), 'request')}, {load.errors:,} failed"]
    lines += [f"  {number:>7,}  {what}" for what, number in load.results.most_common()]
    lines.append(f"{'':22}{'p50':>13}{'p90':>13}{'p99':>13}")
    for title, times in (
        ("first byte", load.first_byte_s),
        ("  as recorded", load.recorded_first_byte_s),
        ("whole answer", load.whole_s),
        ("  as recorded", load.recorded_whole_s),
    ):
        cells = [f"{percentile(times, share) * 1000:>10,.1f} ms" for share in (0.5, 0.9, 0.99)]
        lines.append(f"{title:22}{''.join(cells)}")
    if load.late_s > 0.1:
        lines.append(f"Sent up to {load.late_s:.1f} s late: this machine is too slow for this speed.")
    return "\n".join(lines) + "\n"
