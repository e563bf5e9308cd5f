"""The connections of one replica: opened by its ClientSession's connector, kept here, the freshest taken first.

Decides which idle connection serves next, and when one is too old. What a failed connect means is said by
`connect_failure`. Knows nothing of what goes over them. `connector._factory` and `connect` are aiohttp's internals; see
`channel`.
"""

import asyncio
from collections import deque
from functools import partial

from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, UnixConnector
from aiohttp.client_exceptions import ClientConnectionError
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import BaseConnector
from yarl import URL

from ..config.settings import InstanceConfig, Server, Timeouts
from ..errors import LoopDetected
from ..host import descriptors
from .channel import Channel
from .connect_failure import connect_failure
from .connector import Connector, trusting
from .head_reader import MAX_FIELD_BYTES
from .network import Network

# Each request that may not be repeated leaves a fresh connection behind; a flood of them must not use up memory.
MAX_IDLE = 1024
# What a process has open besides its connections.
_OPEN_FILES = 16


class Pool:
    """The connections of one replica: its ClientSession's connector opens them, the freshest idle one is taken first.

    aiohttp's own pool hands out the oldest idle connection, the one most likely to be closed by vLLM's 5 s limit
    at that very moment; here the newest goes first and none is used after `upstream_keepalive_s`.
    """

    def __init__(
        self, config: InstanceConfig, server: Server, timeouts: Timeouts, network: Network, servers: int
    ) -> None:
        """`servers`: how many share what files this process may open."""
        loop = asyncio.get_running_loop()
        self._name = config.name
        self.mark = network.mark  # of health probes
        connector: BaseConnector
        # force_close: aiohttp keeps nothing; what is kept is kept here.
        if server.unix_socket is not None:
            connector = UnixConnector(server.unix_socket, force_close=True, limit=0)
        else:
            trust = True if config.ca_pem is None else trusting(config.ca_pem)
            connector = Connector(network, server.number, force_close=True, limit=0, ssl=trust)
        connector._factory = partial(Channel, loop, config.name)  # type: ignore[assignment]
        self.session = ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            raise_for_status=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
        )
        self._connector = connector
        self._origin = ClientRequest("GET", URL(server.base_url, encoded=True), loop=loop, session=self.session)
        self._loop = loop
        self._idle: deque[Channel] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self.closed = False
        self._leads_back = False
        self.configure(timeouts, servers)

    def configure(self, timeouts: Timeouts, servers: int) -> None:
        """Connect and keep connections by these from now on."""
        self._timeout = ClientTimeout(total=None, connect=timeouts.connect_s, sock_connect=timeouts.connect_s)
        self._keepalive_s = timeouts.upstream_keepalive_s
        self._max_idle = min(MAX_IDLE, descriptors.most_idle(descriptors.limit(), _OPEN_FILES, servers))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweep()

    def take(self) -> Channel | None:
        """The idle connection used last, or None."""
        idle = self._idle
        limit = self._loop.time() - self._keepalive_s
        while idle:
            channel = idle.pop()
            transport = channel.transport
            fresh = channel.idle_since > limit
            channel.idle_since = 0.0
            if fresh and transport is not None and not transport.is_closing():
                channel.reused = True
                return channel
            channel.discard()
        return None

    def judge(self, *, leads_back: bool) -> None:
        """Take requests or not, as a health probe came back to this gateway itself or found another server."""
        self._leads_back = leads_back
        while leads_back and self._idle:
            self._idle[-1].discard()

    async def connect(self, *, probe: bool = False) -> Channel:
        """A new connection. Raises ConnectError, LoopDetected, UpstreamTimeout or Overloaded; nothing was sent then."""
        if self._leads_back and not probe:
            raise LoopDetected(self._name)
        try:
            connection = await self._connector.connect(self._origin, [], self._timeout)
        except (OSError, ClientConnectionError, UnicodeError) as exc:
            raise connect_failure(self._name, exc) from exc
        channel = connection.protocol
        assert isinstance(channel, Channel)
        channel.connection = connection
        channel.pool = self
        return channel

    def give(self, channel: Channel) -> None:
        """Keep a connection for the next exchange."""
        if self.closed or len(self._idle) >= self._max_idle:
            channel.discard()
            return
        channel.idle_since = self._loop.time()
        self._idle.append(channel)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._keepalive_s, self._sweep)

    def forget(self, channel: Channel) -> None:
        """The connection is lost or closed."""
        if channel.idle_since:
            channel.idle_since = 0.0
            self._idle.remove(channel)

    def _sweep(self) -> None:
        self._sweeper = None
        limit = self._loop.time() - self._keepalive_s
        while self._idle and self._idle[0].idle_since <= limit:
            self._idle[0].discard()
        if self._idle:
            self._sweeper = self._loop.call_at(self._idle[0].idle_since + self._keepalive_s, self._sweep)

    async def close(self) -> None:
        """Close the session and all connections; an exchange that still runs is cut off."""
        self.closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        while self._idle:
            self._idle[-1].discard()
        await self.session.close()
