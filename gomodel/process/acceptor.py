"""Takes clients in: from the listeners to the server that speaks with them, with TLS or without.

Decides how many connections are taken in one turn of the loop, and that none is lost which the kernel had accepted when
listening ends. Knows nothing of requests, nor of when that is.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from ..downstream.handshakes import TlsClient
from ..downstream.server import Server
from ..host.kernel import fail_when_silent
from ..host.listeners import Listener, listen
from ..host.stepped import Stepped

# A client in its TLS handshake holds a descriptor.
_HANDSHAKE_LIMIT_S = 10.0
# Connections taken in one turn of the loop, so that a burst of them does not stall the streams that run, nor take the
# descriptors of those that are served before the limit of clients is looked at; and no fewer, so that those who ask
# over and over do not keep newcomers waiting: uvloop's own servers take one in a turn.
_ACCEPTED_PER_TURN = 32
# Until a listener is looked at again after an accept that failed, for want of a descriptor for one.
_AGAIN_S = 0.1
# For the TLS handshakes of clients that the kernel had accepted when a drain began: hundreds, on a busy CPU.
_HANDSHAKE_S = 2.0
_POLL_S = 0.02


Relieved = Callable[[Listener], bool]


def nobody(listener: Listener) -> bool:
    """No listener's queue is read by others."""
    return False


def everybody(listener: Listener) -> bool:
    """Every listener's queue is read by others."""
    return True


class Acceptor:
    """`listen`, then `finish`, which loses no client, or `stop`; `opening` are the tasks of those that come in late."""

    def __init__(self, server: Server, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._listening: list[Listener] = []
        self.opening: set[asyncio.Task[None]] = set()

    async def listen(self, listeners: Iterable[Listener]) -> None:
        """Take connections on these listeners, too."""
        listeners = list(listeners)
        for each in listeners:
            each.sock.setblocking(False)
        self._listening += listeners
        self.follow()
        listen(listeners)
        for each in listeners:
            self._loop.add_reader(each.sock.fileno(), self._accept, each)

    def follow(self) -> None:
        """Tell the kernel how long a client's host may be silent from now on: connections have it of their listener."""
        for each in self._listening:
            fail_when_silent(each.sock, self._server.silent_s)

    async def finish(self, grace_s: float, relieved: Relieved = nobody) -> None:
        """Stop, and wait until all that the kernel had accepted is a connection; closing a listener would reset them.

        But for listeners whose queue others read as well (`relieved`): what waits there is theirs. TLS handshakes are
        waited for too, but none that was silent for `grace_s`.
        """
        listeners = [each for each in self._listening if not relieved(each)]
        self._pause(self._listening)
        await _turns()
        while _ACCEPTED_PER_TURN in [self._take_late(each) for each in listeners]:  # noqa: ASYNC110 - the kernel's queue
            await asyncio.sleep(0)
        self.stop()  # without a turn of the loop after the last of them
        await _turns()
        if self.opening:
            await asyncio.wait(self.opening, timeout=_HANDSHAKE_S)
        while any(self._loop.time() - (each.idle_since or 0.0) < grace_s for each in self._server.handshakes):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def give_back(self, listeners: list[Listener]) -> None:
        """Take no more connections on these; others do."""
        theirs = [each for each in self._listening if any(each is one for one in listeners)]
        self._pause(theirs)
        for each in theirs:
            each.sock.close()
            self._listening.remove(each)

    def _pause(self, listeners: Iterable[Listener]) -> None:
        for each in listeners:
            self._loop.remove_reader(each.sock.fileno())

    def stop(self) -> None:
        """Listen no more."""
        self._pause(self._listening)
        for each in self._listening:
            each.close()
        self._listening = []

    def _shake_hands(self) -> TlsClient:
        """A client of a TLS listener."""
        assert self._tls is not None
        return TlsClient(self._server, self._tls, handshake_limit_s=_HANDSHAKE_LIMIT_S)

    def _accept(self, listener: Listener) -> None:
        """Make connections of those who wait, up to _ACCEPTED_PER_TURN of them."""
        protocol: Any = self._shake_hands if listener.tls else self._server
        for sock in self._take(listener, min(_ACCEPTED_PER_TURN, self._server.limit.refusals)):
            Stepped(self._loop, self._loop.connect_accepted_socket(protocol, sock), _opened)

    def _take(self, listener: Listener, most: int) -> list[socket.socket]:
        """Up to so many who wait."""
        taken: list[socket.socket] = []
        accept = listener.sock.accept
        try:
            while len(taken) < most:
                sock, _ = accept()
                sock.setblocking(False)
                taken.append(sock)
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass  # none is left, or one that left again
        except OSError:
            self._pause([listener])
            self._loop.call_later(_AGAIN_S, self._again, listener)
        return taken

    def _again(self, listener: Listener) -> None:
        if any(each is listener for each in self._listening):
            self._loop.add_reader(listener.sock.fileno(), self._accept, listener)

    def _take_late(self, listener: Listener) -> int:
        """Take up to _ACCEPTED_PER_TURN connections; how many there were."""
        taken = self._take(listener, _ACCEPTED_PER_TURN)
        for sock in taken:
            task = asyncio.create_task(self._open(sock, tls=listener.tls))
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)
        return len(taken)

    async def _open(self, sock: socket.socket, *, tls: bool) -> None:
        loop = asyncio.get_running_loop()
        try:
            if tls:
                _, transport = await loop.connect_accepted_socket(self._shake_hands, sock)
                await transport.opened
            else:
                await loop.connect_accepted_socket(self._server, sock)
        except OSError:
            pass  # the client left, or did not speak TLS


def _opened(_: Any, __: BaseException | None) -> None:
    """A client is connected, or has left."""


async def _turns() -> None:
    """For callbacks of the loop that are due."""
    for _ in range(5):
        await asyncio.sleep(0)
