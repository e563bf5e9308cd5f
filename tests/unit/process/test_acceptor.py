"""How clients are taken from the kernel's queue."""

import errno
import socket
from contextlib import ExitStack

import pytest

from gomodel.host.listeners import Listener
from gomodel.process import acceptor as acceptor_module
from gomodel.process.acceptor import Acceptor

from ...harness.verdicts import turned


class Taking:
    """In the place of a server: counts the clients."""

    silent_s = 120.0

    def __init__(self, refusals):
        self.limit = self
        self.refusals = refusals
        self.handshakes = set()
        self.made = 0

    def __call__(self):
        return Client(self)


class Client(acceptor_module.asyncio.Protocol):
    def __init__(self, server):
        self.server = server

    def connection_made(self, transport):
        self.server.made += 1
        transport.abort()


@pytest.fixture
async def listening():
    """An acceptor of a listener in whose queue `count` clients are."""
    with ExitStack() as stack:

        def make(count, refusals=1000):
            listener = Listener(stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=128)))
            listener.sock.setblocking(False)
            for _ in range(count):
                stack.enter_context(socket.create_connection(listener.sock.getsockname()))
            acceptor = Acceptor(Taking(refusals), None)
            stack.callback(acceptor.stop)
            return acceptor, listener

        yield make


@pytest.mark.parametrize(("refusals", "turns"), [(1000, [32, 33, 33]), (8, [8, 16, 24])])
async def test_several_in_one_turn_of_the_loop_but_no_more_than_can_be_turned_away(listening, refusals, turns):
    acceptor, listener = listening(33, refusals)
    for expected in turns:
        acceptor._accept(listener)
        await turned(lambda expected=expected: acceptor._server.made == expected)


async def test_those_who_come_later_are_taken_as_well(listening):
    acceptor, listener = listening(0)
    await acceptor.listen([listener])
    for expected in (1, 2):
        with socket.create_connection(listener.sock.getsockname()):
            await turned(lambda expected=expected: acceptor._server.made == expected)


async def test_after_an_accept_that_failed_the_listener_is_looked_at_again(listening, monkeypatch):
    monkeypatch.setattr(acceptor_module, "_AGAIN_S", 0.0)
    acceptor, listener = listening(1)

    class Full:
        accepts = 0

        def accept(self):
            Full.accepts += 1
            if Full.accepts == 1:
                raise OSError(errno.EMFILE, "no descriptor")
            return listener.sock.accept()

        def fileno(self):
            return listener.sock.fileno()

        def close(self):
            """The fixture's."""

        setblocking = close_no_more = lambda *_: None
        family, type, proto = socket.AF_INET, socket.SOCK_STREAM, 0
        setsockopt = listen = getsockname = lambda *_: None

    full = Listener(Full())
    await acceptor.listen([full])
    await turned(lambda: acceptor._server.made == 1)
    assert Full.accepts >= 2
