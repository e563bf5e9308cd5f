"""Messages between supervisor and workers: whole or not at all, and nobody waits for whoever does not read."""

import os
import socket
from collections.abc import Iterator

import pytest

from gomodel.process.orders import Line, encoded

MESSAGES = [
    ("ready",),
    ("ask", 1, "abort", "r-1"),
    ("numbers", {"a": [(("\ud800", "x" * 300), [[1, 2], 0.5])]}),
    ("beat",),
]


@pytest.fixture
def pair() -> Iterator[tuple[Line, socket.socket]]:
    ours, theirs = socket.socketpair()
    line = Line(ours)
    yield line, theirs
    line.close()
    theirs.close()


def test_messages_arrive_in_order_however_they_are_cut(pair: tuple[Line, socket.socket]) -> None:
    line, theirs = pair
    data = b"".join(encoded(each) for each in MESSAGES)
    theirs.sendall(data)
    assert line.receive() == MESSAGES
    received = []
    for at in range(len(data)):
        theirs.sendall(data[at : at + 1])
        received += line.receive()
    assert received == MESSAGES
    assert line.open


def test_nothing_has_arrived_yet(pair: tuple[Line, socket.socket]) -> None:
    line, _ = pair
    assert line.receive() == []
    assert line.open


@pytest.mark.parametrize("left", [0, 1, 3, 4, 5])
def test_what_a_worker_said_before_it_died_counts_and_half_a_message_does_not(
    pair: tuple[Line, socket.socket], left: int
) -> None:
    line, theirs = pair
    theirs.sendall(encoded(("numbers", {})) + encoded(("beat",))[:left])
    theirs.close()
    assert line.receive() == [("numbers", {})]
    assert not line.open


def test_a_worker_that_does_not_read_is_not_waited_for_and_gets_all_when_it_does(
    pair: tuple[Line, socket.socket],
) -> None:
    line, theirs = pair
    padding = os.urandom(3_000_000)
    line.send("question", 1, padding)
    assert line.waiting > 1_000_000
    line.send("drain")
    other = Line(theirs)
    received = []
    while line.waiting:
        received += other.receive()
        line.flush()
    assert [*received, *other.receive()] == [("question", 1, padding), ("drain",)]


def test_a_worker_that_is_gone_takes_what_is_sent_to_it_along(pair: tuple[Line, socket.socket]) -> None:
    line, theirs = pair
    theirs.close()
    line.send("drain")
    assert line.waiting == 0
    assert line.receive() == []
    assert not line.open
