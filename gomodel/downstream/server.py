"""The connections of all clients: makes one for each, and gives it its place or turns it away.

Decides nothing of what comes over them: see `at_once`, `task` and `arrivals`. Leans on aiohttp's low-level `Server`;
see `task`.
"""

import asyncio
from itertools import chain
from typing import Any

from aiohttp.web_server import Server as LowLevelServer

from ..host.kernel import INHERITED, fail_when_silent
from .at_once import Downstream, in_its_turn
from .client_limit import REFUSED_S, ClientLimit
from .handshakes import TlsClient
from .request import Begin, Handler

# A client whose host is gone is noticed within minutes, also where nothing is written to it; later where the operator
# waits longer for one that does not read.
SILENT_CLIENT_S = 120.0


class Server(LowLevelServer):
    """aiohttp's low-level server with `Downstream` for its protocol."""

    def __init__(
        self,
        serve: Handler,
        refuse: Handler,
        limit: ClientLimit,
        begin: Begin = in_its_turn,
        *,
        write_idle_s: float,
        keepalive_s: float,
        head_limit_bytes: int,
        **kwargs: Any,
    ) -> None:
        """`begin` does what needs no waiting of a request whose body is here, and says whether an answer is under way.

        `serve` does the rest, or all of it. `refuse` serves the one request of a client for whom `limit` has no room;
        the rest is for `allow`.
        """
        super().__init__(serve, handler_cancellation=True, **kwargs)  # type: ignore[arg-type]
        self.begin = begin
        self.serve = serve
        self.limit = limit
        self.handshakes: set[TlsClient] = set()  # who are no connections yet
        self._refuse = refuse
        self._last = False
        self.allow(write_idle_s, keepalive_s, head_limit_bytes)

    def allow(self, write_idle_s: float, keepalive_s: float, head_limit_bytes: int) -> None:
        """How long a client may not read, how long it may be idle, and how large its heads may be.

        Open connections look at their next request anew; their heads keep their limit, and a request that runs all.
        """
        self.write_idle_s = write_idle_s
        self.keepalive_s = keepalive_s
        self.head_limit_bytes = head_limit_bytes
        for client in self.clients:
            if not client.busy:
                client.write_idle_s = write_idle_s
            client._keepalive_timeout = keepalive_s
            client.forget()

    @property
    def silent_s(self) -> float:
        """How long the host of a client may be silent."""
        return max(SILENT_CLIENT_S, self.write_idle_s)

    def close_after_next(self) -> None:
        """Answer each client, those that are yet to come as well, once more at most."""
        self._last = True
        for client in self.clients:
            client.last = True

    def __call__(self) -> Downstream:
        return Downstream(
            self,
            self.begin,
            serve=self.serve,
            head_limit_bytes=self.head_limit_bytes,
            write_idle_s=self.write_idle_s,
            keepalive_timeout=self.keepalive_s,
            loop=self._loop,
            **self._kwargs,
        )

    def connection_made(self, handler: Any, transport: asyncio.Transport) -> None:
        """A client has connected; one too many takes the place of an idle one, or is turned away."""
        self.handshakes.discard(transport)
        handler.last = self._last
        if not INHERITED:
            fail_when_silent(transport.get_extra_info("socket"), self.silent_s)
        crowded = not self._has_room()
        super().connection_made(handler, transport)
        if crowded:
            now = self._loop.time()
            if self.limit.may_wait(self._count, now):
                self.limit.waits(handler, now)
                handler.turn_away(self._refuse, REFUSED_S)
            else:
                transport.abort()

    def connection_lost(self, handler: Any, exc: BaseException | None = None) -> None:
        """A client is gone."""
        super().connection_lost(handler, exc)
        self.limit.left(handler)

    def shaking_hands(self, client: TlsClient) -> bool:
        """A TLS client has connected; whether there is room for it to say hello."""
        limit = self.limit
        full = not self._has_room() and self._count >= limit.most + limit.refusals
        if full and not limit.may_wait(self._count + 1, self._loop.time()):
            return False
        self.handshakes.add(client)
        return True

    @property
    def _count(self) -> int:
        return len(self._connections) + len(self.handshakes)

    def _has_room(self) -> bool:
        """Whether one more client has its place, which an idle one may have had to give up."""
        if self._count < self.limit.most:
            return True
        # Not `clients`: a list of them all for each newcomer is too much in a crowd.
        everybody: Any = chain(self.handshakes, self._connections)
        return self.limit.make_room(everybody, self._loop.time())

    @property
    def clients(self) -> list[Downstream]:
        """The open connections."""
        return [connection for connection in self._connections if isinstance(connection, Downstream)]
