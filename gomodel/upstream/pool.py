"""The connections of one replica: opened by its ClientSession's connector, kept here, the freshest taken first.

Decides which idle connection serves next, and when one is too old. What a failed connect means is said by
`connect_failure`. Knows nothing of what goes over them. `connector._factory` and `connect` are aiohttp's internals; see
`channel`.
"""

import asyncio
import ipaddress
from collections import deque
from collections.abc import Callable
from functools import partial

from aiohttp import ClientConnectorError, ClientSession, ClientTimeout, DummyCookieJar, UnixConnector
from aiohttp.client_exceptions import ClientConnectionError
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import BaseConnector
from yarl import URL

from ..config.settings import InstanceConfig, Server, Timeouts
from ..errors import GatewayError, LoopDetected
from ..host import descriptors
from ..host.stepped import Stepped
from .channel import Channel
from .connect_failure import connect_failure
from .connector import Connector, trusting
from .head_reader import MAX_FIELD_BYTES
from .line import Dial, Line, Opened, Seeker
from .network import Network

# Each request that may not be repeated leaves a fresh connection behind; a flood of them must not use up memory.
MAX_IDLE = 1024
# What a process has open besides its connections.
_OPEN_FILES = 16


class _Awaiting:
    """A task that waits for a connection."""

    def __init__(self, opened: Callable[[str], None]) -> None:
        self.channel: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self.opened = opened

    @property
    def gone(self) -> bool:
        return self.channel.done()

    def on_channel(self, channel: Channel) -> None:
        self.channel.set_result(channel)

    def on_no_channel(self, error: GatewayError) -> None:
        self.channel.set_exception(error)


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
        self._network = network
        url = self._origin.url
        self._port = url.port or 0
        # Where a connection can be opened without more ado: TCP without TLS, to a number or to a name that is known.
        self._plain = url.scheme == "http" and server.unix_socket is None
        self._host = url.raw_host or ""
        self._number = server.number or _number(self._host)
        self._idle: deque[Channel] = deque()
        self._line = Line(self._dial, self.give)
        self._waiting = self._line.waiting
        self._serving = False  # those who wait are, in this turn of the loop
        self._opened: set[Channel] = set()
        self._dials: set[Stepped | asyncio.Task[Channel]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self.closed = False
        self._leads_back = False
        self.configure(timeouts, servers)

    def configure(self, timeouts: Timeouts, servers: int) -> None:
        """Connect and keep connections by these from now on."""
        self._connect_s = timeouts.connect_s
        self._timeout = ClientTimeout(total=None, connect=timeouts.connect_s, sock_connect=timeouts.connect_s)
        self._keepalive_s = timeouts.upstream_keepalive_s
        self._max_idle = min(MAX_IDLE, descriptors.most_idle(descriptors.limit(), _OPEN_FILES, servers))
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweep()

    def take(self, *, first: bool = False) -> Channel | None:
        """The idle connection used last, or None: also where others wait for one, but for the `first` of them."""
        if self._waiting and not first:
            return None
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

    @property
    def leads_back(self) -> bool:
        """Whether requests to it would come back to this gateway."""
        return self._leads_back

    def seek(self, seeker: Seeker) -> None:
        """Give `seeker` the connection that is ready first, in a later turn of the loop; not where it `leads_back`."""
        self._line.join(seeker)

    def leave(self, seeker: Seeker) -> None:
        """It wants none any more."""
        self._line.leave(seeker)

    async def obtain(self, opened: Callable[[str], None]) -> Channel:
        """As `seek`; raises as `connect`. `opened` is told what became of a connect that was made for it."""
        if self._leads_back:
            raise LoopDetected(self._name)
        return await self._awaited(self._sought(opened))

    async def connect(self, *, probe: bool = False) -> Channel:
        """A new connection. Raises ConnectError, LoopDetected, UpstreamTimeout or Overloaded; nothing was sent then."""
        if self._leads_back and not probe:
            raise LoopDetected(self._name)
        number = self._known_number()
        if number is None:
            return await self._connect()
        return await self._awaited(self._made(number))

    # A future that fails is in no frame that its error passes: each would keep the other until the collector comes.

    def _sought(self, opened: Callable[[str], None]) -> asyncio.Future[Channel]:
        awaiting = _Awaiting(opened)
        self._line.join(awaiting)
        awaiting.channel.add_done_callback(partial(self._found, awaiting))
        return awaiting.channel

    def _found(self, awaiting: _Awaiting, channel: asyncio.Future[Channel]) -> None:
        if channel.cancelled():
            self._line.leave(awaiting)

    def _made(self, number: str) -> asyncio.Future[Channel]:
        made: asyncio.Future[Channel] = self._loop.create_future()

        def opened(channel: Channel | None, error: GatewayError | None) -> None:
            if made.done():
                if channel is not None:
                    channel.discard()
            elif channel is not None:
                made.set_result(channel)
            elif error is not None:
                made.set_exception(error)

        dial = self._dial_number(number, opened)
        made.add_done_callback(lambda _: dial.cancel())
        return made

    async def _awaited(self, channel: asyncio.Future[Channel] | None) -> Channel:
        assert channel is not None
        try:
            return await channel
        except asyncio.CancelledError:
            if channel.done() and not channel.cancelled() and channel.exception() is None:
                channel.result().discard()
            raise
        finally:
            channel = None  # whose exception knows this frame

    def _known_number(self) -> str | None:
        """The address to connect to where nothing has to be asked or chosen for it."""
        if not self._plain or self.closed:
            return None
        if self._number is not None:
            return self._number
        only = self._network.resolver.only(self._host)
        return only[1] if only is not None and "%" not in only[1] else None

    def _dial(self, opened: Opened) -> Dial:
        """Open a connection and say what became of it."""
        number = self._known_number()
        if number is not None:
            return self._dial_number(number, opened)

        def ended(task: asyncio.Task[Channel]) -> None:
            self._dials.discard(task)
            error = self._failure(ClientConnectionError()) if task.cancelled() else task.exception()
            if error is None:
                opened(task.result(), None)
            elif isinstance(error, GatewayError):
                opened(None, error)
            else:
                raise error

        task = self._loop.create_task(self._connect())
        self._dials.add(task)
        task.add_done_callback(ended)
        return task

    def _dial_number(self, number: str, opened: Opened) -> Stepped:
        """As `_dial`, without a task and without a look at other addresses."""

        def ended(made: tuple[asyncio.Transport, Channel] | None, exc: BaseException | None) -> None:
            self._dials.discard(dial)
            limit.cancel()
            if made is None:
                opened(None, self._failure(exc))
                return
            transport, channel = made
            self._opened.add(channel)
            channel.pool = self
            if self._port in self._network.ports and self._network.leads_back(
                transport.get_extra_info("peername"), transport.get_extra_info("sockname")
            ):
                transport.abort()
                opened(None, LoopDetected(self._name))
            else:
                opened(channel, None)

        make = partial(Channel, self._loop, self._name)
        dial = Stepped(self._loop, self._loop.create_connection(make, number, self._port), ended)
        self._dials.add(dial)
        limit = self._loop.call_later(self._connect_s, dial.cancel)
        return dial

    def _failure(self, exc: BaseException | None) -> GatewayError:
        if isinstance(exc, asyncio.CancelledError):
            return connect_failure(self._name, TimeoutError())
        if isinstance(exc, ClientConnectionError):
            return connect_failure(self._name, exc)
        if not isinstance(exc, OSError):  # uvloop's, of a connection that is lost before it was made
            exc = ConnectionResetError()
        return connect_failure(self._name, ClientConnectorError(self._origin.connection_key, exc))

    async def _connect(self) -> Channel:
        """By aiohttp's connector: names with several addresses, TLS, unix sockets."""
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
        if self._waiting and not self._serving:
            self._serving = True
            self._loop.call_soon(self._serve)  # whoever had it is still being told of its answer
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._keepalive_s, self._sweep)

    def forget(self, channel: Channel) -> None:
        """The connection is lost or closed, or kept by somebody else."""
        self._opened.discard(channel)
        if channel.idle_since:
            channel.idle_since = 0.0
            self._idle.remove(channel)

    def _serve(self) -> None:
        self._serving = False
        self._line.serve(partial(self.take, first=True))

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
        for dial in tuple(self._dials):
            dial.cancel()
        self._line.give_up(connect_failure(self._name, ClientConnectionError()))
        while self._idle:
            self._idle[-1].discard()
        for channel in tuple(self._opened):
            channel.close()
        await self.session.close()


def _number(host: str) -> str | None:
    """The address that a host says by itself."""
    try:
        return str(ipaddress.ip_address(host)) if "%" not in host else None
    except ValueError:
        return None
