"""Messages between supervisor and workers: whole or not at all, and nobody waits for whoever does not read."""

import os
import resource
import socket
from collections.abc import Iterator

import pytest

from gomodel.process.orders import Line, encoded, received_sockets

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


@pytest.fixture
def passing() -> Iterator[tuple[Line, socket.socket, socket.socket]]:
    """A line, and the worker's ends of it: for messages, and for sockets."""
    ours, theirs = socket.socketpair()
    sockets_ours, sockets = socket.socketpair(type=socket.SOCK_DGRAM)
    sockets.setblocking(False)
    line = Line(ours, sockets_ours)
    yield line, theirs, sockets
    for each in (line, theirs, sockets):
        each.close()


def test_sockets_are_there_before_the_order_that_they_are_for(
    passing: tuple[Line, socket.socket, socket.socket],
) -> None:
    line, theirs, sockets = passing
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert line.lend(3, [listener])
        assert theirs.recv(1 << 16) == encoded(("read", 3))
        (received,) = received_sockets(sockets)
        assert received.getsockname() == listener.getsockname()
        assert not received.get_inheritable()
        received.close()
    assert line.lend(4, [])
    assert received_sockets(sockets) == []
    with pytest.raises(BlockingIOError):
        received_sockets(sockets)


def test_a_worker_that_has_not_read_for_long_is_lent_nothing(
    passing: tuple[Line, socket.socket, socket.socket],
) -> None:
    line, *_ = passing
    for _ in range(10_000):
        if not line.lend(1, []):
            break
    else:
        raise AssertionError("it is waited for")


def test_sockets_for_which_there_is_no_descriptor_are_an_error_and_none_stays_open(
    passing: tuple[Line, socket.socket, socket.socket],
) -> None:
    line, _, sockets = passing
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as highest:
        assert line.lend(1, [listener, listener])
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest.fileno() + 2, before[1]))
        try:
            with pytest.raises(OSError, match="Too many open files"):
                received_sockets(sockets)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        with socket.socket() as lowest:
            assert lowest.fileno() == highest.fileno() + 1
