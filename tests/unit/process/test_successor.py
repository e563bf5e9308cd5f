"""When SIGUSR2 starts nothing, and what is said then; what it starts is in process/test_upgrade."""

import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator

import pytest

from gomodel.config.load import from_environ
from gomodel.process import successor
from gomodel.process.elders import Elders
from gomodel.process.handover import Between
from gomodel.process.successor import LIMIT_S, Successor

PID = 4711


@pytest.mark.parametrize(
    ("pid", "ending", "upgradable", "said"),
    [
        (1, False, True, "SIGUSR2 changes nothing: this is a container's process 1"),
        (7, True, True, "SIGUSR2 comes too late: the process is ending"),
        (7, False, False, "SIGUSR2 changes nothing: the demonstration has no successor"),
        (7, False, True, ""),
    ],
)
def test_who_has_no_successor_says_why(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pid: int,
    ending: bool,
    upgradable: bool,
    said: str,
) -> None:
    monkeypatch.setattr(successor.os, "getpid", lambda: pid)
    with caplog.at_level(logging.WARNING, "gomodel"):
        assert Successor().may_start(ending=ending, upgradable=upgradable) == (not said)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * bool(said)
    assert said in caplog.text


class Started:
    """A new release that is starting: its end of the line, and the signals that it got."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ours, theirs = socket.socketpair()
        self.theirs = Between(theirs)
        self.signals: list[int] = []
        self.successor = Successor()
        assert self.successor.may_start(ending=False)
        self.successor.line, self.successor.pid, self.successor.due = Between(ours), PID, 100.0
        monkeypatch.setattr(successor.os, "kill", lambda pid, number: self.signals.append(number))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    found = Started(monkeypatch)
    yield found
    found.theirs.close()
    if found.successor.line is not None:
        found.successor.line.close()


def test_one_that_does_not_serve_in_time_is_killed_and_then_another_may_be_started(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    started.successor.expire(99.9)
    assert started.signals == []
    started.successor.expire(100.0)
    started.successor.expire(200.0)
    assert started.signals == [signal.SIGKILL]
    assert not started.successor.take_over()  # what it says now it said too late
    assert started.successor.ended(PID, signal.SIGKILL)
    assert f"did not serve within {LIMIT_S:g} s and was killed; this one goes on serving" in caplog.text
    assert started.successor.may_start(ending=False)


def test_one_that_has_taken_over_is_never_killed(started: Started) -> None:
    assert started.successor.take_over()
    for now in (100.0, 1e9, float("inf")):
        started.successor.expire(now)
    started.successor.cancel()
    assert started.signals == []


def test_one_whose_word_is_still_to_be_read_is_not_killed(started: Started) -> None:
    started.theirs.send("ready", [])
    started.successor.expire(150.0)
    assert started.signals == []
    assert started.successor.due == pytest.approx(150.1)
    assert started.successor.line is not None
    assert started.successor.line.receive() == [["ready", []]]
    started.successor.expire(151.0)
    assert started.signals == [signal.SIGKILL]


def test_without_a_descriptor_nothing_is_started_and_the_next_signal_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(successor.socket, "socketpair", none_left)
    found = Successor()
    assert found.may_start(ending=False)
    assert found.start([], from_environ({}), activated=False, elders=Elders()) is None
    assert "The new release cannot be started: Too many open files; this one goes on serving" in caplog.text
    assert found.may_start(ending=False)
