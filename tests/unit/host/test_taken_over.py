"""Which of the sockets that another process hands over serve an address of the configuration."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gomodel.config.load import from_environ
from gomodel.host.listeners import ListenError, bind
from gomodel.host.taken_over import Held, TakenOver

Listen = Callable[..., Held]


@pytest.fixture
def listen(tmp_path: Path) -> Iterator[Listen]:
    """`listen("127.0.0.2")`, a TCP port that may be shared, or `listen(path)`."""
    made: list[socket.socket] = []

    def one(host: str, port: int = 0) -> Held:
        unix = host.startswith("/")
        sock = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
        made.append(sock)
        if not unix:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(host if unix else (host, port))
        sock.listen()
        found = os.stat(host) if unix else None
        return Held(sock, found and (found.st_dev, found.st_ino))

    yield one
    for each in made:
        each.close()


def test_all_on_the_address_are_taken_and_no_others(listen: Listen) -> None:
    first, other = listen("127.0.0.1"), listen("127.0.0.2")
    port = first.sock.getsockname()[1]
    second = listen("127.0.0.1", port)
    held = TakenOver([other, first, second])
    assert held.tcp(socket.AF_INET6, "::1", port) == []
    assert held.tcp(socket.AF_INET, "127.0.0.1", port + 1) == []
    assert held.tcp(socket.AF_INET, "127.0.0.1", port) == [first.sock, second.sock]
    assert held.left == [other]
    assert held.everything() == [other.sock]
    assert held.left == []


def test_any_port_is_one_port(listen: Listen) -> None:
    first, other = listen("127.0.0.1"), listen("127.0.0.1")
    held = TakenOver([first, other])
    assert held.tcp(socket.AF_INET, "127.0.0.1", 0) == [first.sock]
    assert held.left == [other]


def test_a_unix_socket_is_taken_while_its_file_is_there(listen: Listen, tmp_path: Path) -> None:
    path, elsewhere = str(tmp_path / "a.sock"), str(tmp_path / "b.sock")
    one = listen(path)
    assert TakenOver([one]).unix(elsewhere) is None
    assert TakenOver([one]).unix(path) is one
    assert TakenOver([Held(one.sock, (0, 0))]).unix(path) is None
    os.unlink(path)
    assert TakenOver([one]).unix(path) is None


def test_a_configuration_takes_what_it_wants_and_binds_the_rest(listen: Listen, tmp_path: Path) -> None:
    path = str(tmp_path / "g.sock")
    tcp, unix, unwanted = listen("127.0.0.1"), listen(path), listen("127.0.0.3")
    held = TakenOver([unwanted, unix, tcp])
    config = from_environ(
        {"HOST": "localhost", "PORT": "0", "GOMODEL_UNIX_SOCKET": path, "VLLM_BASE_URL": "http://x/v1"}
    )
    found = bind(config, reuse_port=True, held=held)
    assert [each.sock for each in found[:2]] == [unix.sock, tcp.sock]
    assert found[0].file == (path, *(unix.file or ()))
    assert {each.port for each in found[1:]} == {tcp.sock.getsockname()[1]}
    assert held.left == [unwanted]
    for each in found:
        each.close()
    assert os.path.exists(path)
    found[0].lent = False
    found[0].close()
    assert not os.path.exists(path)


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_unix_socket_that_is_lent_keeps_its_file_when_an_address_beside_it_is_taken(
    listen: Listen, tmp_path: Path, reuse_port: bool
) -> None:
    path = str(tmp_path / "g.sock")
    unix, foreign = listen(path), listen("127.0.0.1")
    port = foreign.sock.getsockname()[1]
    config = from_environ(
        {"HOST": "127.0.0.1", "PORT": str(port), "GOMODEL_UNIX_SOCKET": path, "VLLM_BASE_URL": "http://x/v1"}
    )
    with pytest.raises(ListenError, match="another process listens there"):
        bind(config, reuse_port=reuse_port, held=TakenOver([unix]))
    assert unix.sock.fileno() == -1
    assert os.path.exists(path)
