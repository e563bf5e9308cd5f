"""Takes clients in: from the listeners to the server that speaks with them, with TLS or without.

Decides how many connections are taken in one turn of the loop, and that none is lost which the kernel had accepted when
listening ends. Knows nothing of requests, nor of when that is.
"""

import asyncio
import socket
import ssl
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ..downstream.handshakes import TlsClient
from ..downstream.server import Server
from ..host.listeners import Listener, listen

# A client in its TLS handshake holds a descriptor.
_HANDSHAKE_LIMIT_S = 10.0
# Connections taken in one turn of the loop, so that a burst of them does not stall the streams that run, nor take the
# descriptors of those that are served before the limit of clients is looked at.
_ACCEPTED_PER_TURN = 128
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
        self._listening: list[tuple[Listener, asyncio.Server]] = []
        self.opening: set[asyncio.Task[None]] = set()

    async def listen(self, listeners: Iterable[Listener]) -> None:
        """Take connections on these listeners, too."""
        loop = asyncio.get_running_loop()
        for each in listeners:
            options: dict[str, Any] = {"sock": each.sock}
            # A turn accepts as many connections as the backlog that asyncio is told; the kernel's is set after it.
            options["backlog"] = min(_ACCEPTED_PER_TURN, self._server.limit.refusals)
            create: Any = loop.create_server
            if each.sock.family == socket.AF_UNIX:
                create = loop.create_unix_server
                if sys.version_info >= (3, 13):
                    options["cleanup_socket"] = False  # the file may be another process's to remove
            server = await create(self._shake_hands if each.tls else self._server, **options)
            self._listening.append((each, server))
            listen([each])

    async def finish(self, grace_s: float, relieved: Relieved = nobody) -> None:
        """Stop, and wait until all that the kernel had accepted is a connection; closing a listener would reset them.

        But for listeners whose queue others read as well (`relieved`): what waits there is theirs. TLS handshakes are
        waited for too, but none that was silent for `grace_s`.
        """
        loop = asyncio.get_running_loop()
        await self._pause(self._listening)
        listeners = [listener for listener, _ in self._listening if not relieved(listener)]
        while _ACCEPTED_PER_TURN in [self._take(each) for each in listeners]:  # noqa: ASYNC110 - the kernel's queue
            await asyncio.sleep(0)
        self.stop()  # without a turn of the loop after the last of them
        await _turns()
        if self.opening:
            await asyncio.wait(self.opening, timeout=_HANDSHAKE_S)
        while any(loop.time() - (each.idle_since or 0.0) < grace_s for each in self._server.handshakes):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def give_back(self, listeners: list[Listener]) -> None:
        """Take no more connections on these; others do."""
        theirs = [each for each in self._listening if any(each[0] is one for one in listeners)]
        await self._pause(theirs)
        for listener, server in theirs:
            server.close()
            self._listening.remove((listener, server))

    async def _pause(self, listening: list[tuple[Listener, asyncio.Server]]) -> None:
        """Lose nothing that was accepted when the servers are closed."""
        loop = asyncio.get_running_loop()
        for _, server in listening:
            if isinstance(server, asyncio.Server):  # it loses what it has accepted when it is closed; uvloop's does not
                for each in server.sockets:
                    loop.remove_reader(each.fileno())
        await _turns()

    def stop(self) -> None:
        """Listen no more."""
        for listener, server in self._listening:
            server.close()
            listener.remove_file()
        self._listening = []

    def _shake_hands(self) -> TlsClient:
        """A client of a TLS listener."""
        assert self._tls is not None
        return TlsClient(self._server, self._tls, handshake_limit_s=_HANDSHAKE_LIMIT_S)

    def _take(self, listener: Listener) -> int:
        """Take up to _ACCEPTED_PER_TURN connections; how many there were."""
        for count in range(_ACCEPTED_PER_TURN):
            try:
                sock, _ = listener.sock.accept()
            except OSError:  # none is left, or no descriptor for it
                return count
            sock.setblocking(False)
            task = asyncio.create_task(self._open(sock, tls=listener.tls))
            self.opening.add(task)
            task.add_done_callback(self.opening.discard)
        return _ACCEPTED_PER_TURN

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


async def _turns() -> None:
    """For callbacks of the loop that are due."""
    for _ in range(5):
        await asyncio.sleep(0)
