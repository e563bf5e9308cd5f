"""The door for the lines of batches: a socket that only the gateway's own batcher can reach.

Decides nothing of what is let in (`checks.on_behalf`); its requests end as all others do.
"""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from typing import Any

from ..downstream.client_limit import ClientLimit
from ..downstream.request import Reply, Request
from ..downstream.server import Server
from ..host import private_sockets
from .gateway import Gateway

_POLL_S = 0.02
_MOST = 1 << 16


class LinesDoor:
    """`open`, then `drain` and `close` as the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._server: Server
        self._listening: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen. Raises OSError."""
        timeouts = self._gateway.config.timeouts
        self._server = Server(
            self._serve,
            self._serve,
            ClientLimit(_MOST),
            write_idle_s=timeouts.write_idle_s,
            keepalive_s=timeouts.client_keepalive_s,
            head_limit_bytes=self._gateway.config.header_limit_bytes,
            access_log=None,
            logger=logging.getLogger("gomodel.aiohttp"),
            tcp_keepalive=False,
        )
        sock = private_sockets.bind(private_sockets.path(private_sockets.LINES))
        options: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
        self._listening = await asyncio.get_running_loop().create_unix_server(self._server, sock=sock, **options)

    def _serve(self, request: Request) -> Coroutine[Any, Any, Reply | None]:
        return self._gateway.app.serve_line(request)  # type: ignore[return-value]

    async def drain(self) -> None:
        """Return when no line runs any more."""
        while True:
            for client in self._server.clients:
                client.close_when_idle()
            if not self._server.clients:
                return
            await asyncio.sleep(_POLL_S)

    async def close(self) -> None:
        """Close what is open."""
        if self._listening is None:
            return
        self._listening.close()
        clients = self._server.clients
        ends = [task for client in clients if (task := client.task) is not None]
        for client in clients:
            client.abort()
        if ends:
            await asyncio.wait(ends, timeout=1.0)
