"""Which sockets are bound, what a refusal says, and what becomes of a unix socket's file."""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import Config
from gomodel.host.listeners import Listener, ListenError, adopt, beside, bind


def config(**environ: str) -> Config:
    return from_environ({"VLLM_BASE_URL": "http://127.0.0.1:1/v1", **environ})


@pytest.fixture
def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def close(listeners: list[Listener]) -> None:
    for each in listeners:
        each.close()


def test_a_port_of_zero_is_any_free_one() -> None:
    (listener,) = bind(config(HOST="127.0.0.1", PORT="0"))
    assert listener.port
    assert listener.address == f"http://127.0.0.1:{listener.port}"
    listener.close()


def test_the_ipv6_wildcard_takes_ipv4_clients_too(free: int) -> None:
    (listener,) = bind(config(HOST="::", PORT=str(free)))
    listener.sock.listen()
    with socket.create_connection(("127.0.0.1", free)), socket.create_connection(("::1", free)):
        assert listener.address == f"http://[::]:{free}"
    listener.close()


def test_localhost_is_one_port_on_both_of_its_addresses() -> None:
    listeners = bind(config(HOST="localhost", PORT="0"))
    assert len({each.port for each in listeners}) == 1
    assert {each.sock.getsockname()[0] for each in listeners} <= {"127.0.0.1", "::1"}
    close(listeners)


def test_every_address_is_every_ipv4_address_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    opened = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *arguments: int, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return opened(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    (listener,) = bind(config(GOMODEL_MASTER_KEY="k", PORT=str(free)))
    assert listener.address == f"http://0.0.0.0:{free}"
    listener.close()


def test_without_a_key_no_address_but_the_loopback_is_listened_on(free: int) -> None:
    listeners = bind(config(PORT=str(free)))
    assert {each.sock.getsockname()[0] for each in listeners} <= {"127.0.0.1", "::1"}
    close(listeners)


def test_localhost_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", None)
    listeners = bind(config(HOST="LocalHost", PORT="0"))
    assert listeners
    close(listeners)


def test_a_port_that_is_taken_is_one_line(free: int) -> None:
    with (
        socket.create_server(("127.0.0.1", free)),
        pytest.raises(
            ListenError, match=rf"^Cannot listen on 127\.0\.0\.1 port {free}: another process listens there$"
        ),
    ):
        bind(config(HOST="127.0.0.1", PORT=str(free)))


def test_sharing_a_port_with_our_own_workers_does_not_mean_sharing_it_with_another_gateway(free: int) -> None:
    settings = config(HOST="127.0.0.1", PORT=str(free))
    (reserved,) = bind(settings, reuse_port=True)
    workers = [beside(reserved), beside(reserved)]
    for each in workers:
        each.sock.listen()
    assert [each.port for each in workers] == [free, free]
    with pytest.raises(ListenError, match="another process listens there"):
        bind(settings, reuse_port=True)
    close([reserved, *workers])


@pytest.mark.parametrize(
    ("host", "reason"),
    [("203.0.113.7", "this host has no such address"), ("name.invalid", "HOST cannot be resolved")],
)
def test_an_address_that_is_not_ours_is_one_line(host: str, reason: str) -> None:
    with pytest.raises(ListenError, match=reason):
        bind(config(HOST=host, PORT="0"))


def test_nothing_stays_bound_when_one_of_two_listeners_fails(tmp_path: Path, free: int) -> None:
    path = tmp_path / "g.sock"
    with socket.create_server(("127.0.0.1", free)), pytest.raises(ListenError):
        bind(config(HOST="127.0.0.1", PORT=str(free), GOMODEL_UNIX_SOCKET=str(path)))
    assert not path.exists()


def test_a_unix_socket_is_for_owner_and_group_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    before = os.umask(0)
    try:
        (listener,) = bind(config(GOMODEL_UNIX_SOCKET=str(path)))
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert (listener.port, listener.address) == (None, f"unix:{path}")
    listener.close()
    assert not path.exists()


def test_a_unix_socket_nobody_listens_on_any_more_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    (listener,) = bind(config(GOMODEL_UNIX_SOCKET=str(path)))
    listener.close()


def test_a_unix_socket_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(ListenError, match="another process listens there"):
            bind(config(GOMODEL_UNIX_SOCKET=str(path)))
        assert path.exists()


def test_a_file_that_is_no_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenError, match="something that is no socket has this name"):
        bind(config(GOMODEL_UNIX_SOCKET=str(path)))
    assert path.read_text() == "data"


@pytest.mark.parametrize("parent", ["missing", "file"])
def test_a_unix_socket_without_its_directory_is_one_line(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ListenError, match="its directory does not exist"):
        bind(config(GOMODEL_UNIX_SOCKET=str(tmp_path / parent / "g.sock")))


def test_the_file_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    (first,) = bind(config(GOMODEL_UNIX_SOCKET=str(path)))
    path.unlink()
    (second,) = bind(config(GOMODEL_UNIX_SOCKET=str(path)))
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_an_adopted_unix_socket_keeps_its_file(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    (listener,) = adopt([sock], config())
    listener.close()
    assert path.exists()
