"""TLS clients that have not shaken hands yet: counted among the clients, and like idle ones they make room for others.

No key is needed to open a connection and say nothing, and who says nothing is no connection yet: uncounted, such
clients would keep every descriptor from those who speak. How many there may be is decided by `client_limit`.
"""

import asyncio
import ssl
from typing import Protocol

from ..host.tls_transport import TlsTransport


class Door(Protocol):
    """Whoever makes the connections and counts the clients."""

    handshakes: "set[TlsClient]"

    def __call__(self) -> asyncio.Protocol: ...
    def shaking_hands(self, client: "TlsClient", /) -> bool: ...


class TlsClient(TlsTransport):
    """A client of a TLS listener from its accept on; until it has shaken hands a `client_limit.Client`."""

    __slots__ = ("_door", "idle_since")

    def __init__(self, door: Door, context: ssl.SSLContext, *, handshake_limit_s: float) -> None:
        super().__init__(door(), context, server_side=True, handshake_limit_s=handshake_limit_s)
        self._door = door
        self.idle_since: float | None = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self._door.shaking_hands(self):
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._door.handshakes.discard(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """See asyncio.WriteTransport."""
        self.idle_since = None
        super().abort()
