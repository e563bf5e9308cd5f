"""What is said to the service manager, and which of its sockets are taken over."""

import logging
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gomodel.host.listeners import ListenError
from gomodel.host.systemd import Notifier, inherited_sockets


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What NOTIFY_SOCKET says, and the socket behind it."""
    name = f"@gomodel-{secrets.token_hex(8)}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name.startswith("@") else name)
        sock.setblocking(False)
        yield name, sock


def test_each_state_is_told_in_systemds_words(manager: tuple[str, socket.socket]) -> None:
    name, sock = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.reloading()
    notifier.stopping(1.5)
    notifier.alive()
    notifier.reloaded()
    notifier.reloaded()  # nobody asked for another one
    told = [sock.recv(1000).decode().split("\n") for _ in range(5)]
    with pytest.raises(BlockingIOError):
        sock.recv(1000)
    assert told[0] == ["READY=1"]
    assert told[1][0] == "RELOADING=1"
    assert told[1][1].removeprefix("MONOTONIC_USEC=").isdecimal()
    assert told[2] == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000"]
    assert told[3] == ["WATCHDOG=1"]
    assert told[4] == ["READY=1"]


def test_a_manager_that_is_gone_or_full_holds_nobody_up(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "missing")}).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "full"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "full")})
        for _ in range(2000):
            notifier.alive()


def test_that_a_manager_hears_nothing_is_a_warning_once_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})

    def warned() -> int:
        with caplog.at_level(logging.WARNING, "gomodel"):
            notifier.ready()
            notifier.alive()
        return sum(each.message.startswith("NOTIFY_SOCKET took no READY=1: ") for each in caplog.records)

    assert warned() == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        assert warned() == 1
    assert warned() == 2


def test_without_a_manager_nothing_is_said() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})
    notifier.ready()
    assert notifier.watchdog_s == 0


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({}, 0),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_wants(environ: dict[str, str], watchdog_s: float) -> None:
    assert Notifier({"NOTIFY_SOCKET": "/x", **environ}).watchdog_s == watchdog_s


@pytest.mark.parametrize(
    "environ", [{}, {"LISTEN_FDS": "1"}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_PID": str(os.getpid())}]
)
def test_sockets_that_are_not_meant_for_this_process_are_left_alone(environ: dict[str, str]) -> None:
    assert inherited_sockets(environ) == []


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a process that got one descriptor."""
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}


def test_a_listening_socket_is_taken_over(handed_over: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        monkeypatch.setattr("gomodel.host.systemd._FIRST_FD", os.dup(bound.fileno()))
        (sock,) = inherited_sockets(handed_over)
        assert sock.getsockname() == bound.getsockname()
        assert not sock.get_inheritable()
        sock.close()


def test_a_socket_that_does_not_listen_is_refused(handed_over: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as idle:
        monkeypatch.setattr("gomodel.host.systemd._FIRST_FD", os.dup(idle.fileno()))
        with pytest.raises(ListenError, match="is not a listening stream socket"):
            inherited_sockets(handed_over)


def test_a_descriptor_that_is_no_socket_is_refused(
    handed_over: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr("gomodel.host.systemd._FIRST_FD", fd)
    with pytest.raises(ListenError, match=rf"^Descriptor {fd}, handed over in LISTEN_FDS, is not a socket$"):
        inherited_sockets(handed_over)
    os.close(fd)
