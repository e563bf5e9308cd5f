"""The release before a single process: orders reach those that run, by its line or, where it was killed, by signals."""

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from gomodel.process import elders
from gomodel.process.elders import Elders
from gomodel.process.handover import Between
from gomodel.process.predecessor import Predecessor

from ...harness.verdicts import turned


class Before(NamedTuple):
    """The release before and the one before that, and what each of them was told."""

    line: Between
    processes: list[subprocess.Popen[bytes]]
    signals: list[tuple[int, int]]
    predecessor: Predecessor


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two that run until their standard input is closed."""
    found = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(2)]
    yield found
    for each in found:
        each.communicate()


@pytest.fixture
async def before(processes: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Before]:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(elders.signal, "pidfd_send_signal", lambda fd, number: sent.append((fd, number)))
    known = Elders((os.pidfd_open(each.pid), each.pid) for each in processes)
    ours, theirs = socket.socketpair()
    found = Before(Between(theirs), processes, sent, Predecessor(Between(ours), known, lambda: None))
    yield found
    found.line.close()
    ours.close()


async def ordered(now: asyncio.Event) -> None:
    await now.wait()


async def test_an_order_goes_over_the_line_and_the_end_of_all_before_is_waited_for(before: Before) -> None:
    before.predecessor.order("drain")
    await turned(lambda: before.line.receive() == [["drain"]])
    end = asyncio.create_task(before.predecessor.end(lambda: ordered(asyncio.Event()), 0.0))
    for each in reversed(before.processes):
        assert not end.done()
        each.communicate()
    before.line.finish("numbers", {})
    await end
    assert before.signals == []


async def test_where_the_one_before_is_killed_an_order_is_a_signal_to_the_next(
    before: Before, caplog: pytest.LogCaptureFixture
) -> None:
    before.processes[0].kill()
    before.line.close()
    await turned(lambda: f"still runs (process {before.processes[1].pid})" in caplog.text)
    now = asyncio.Event()
    end = asyncio.create_task(before.predecessor.end(lambda: ordered(now), 60.0))
    before.predecessor.order("abort")
    assert [number for _, number in before.signals] == [signal.SIGTERM, signal.SIGINT]
    assert len({fd for fd, _ in before.signals}) == 1
    now.set()
    before.processes[1].communicate()
    await end


async def test_one_that_does_not_end_is_waited_for_no_longer_than_was_ordered(before: Before) -> None:
    now = asyncio.Event()
    now.set()
    before.line.close()
    await before.predecessor.end(lambda: ordered(now), 0.01)
