"""One process's gateway: listeners in front, the app behind, a drain at the end.

Decides when connections end, and what happens to running requests when the configuration changes. How they come in is
in `acceptor`. Knows nothing of signals, workers or the command line.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

from ..access.slots import Slots
from ..app import App
from ..balancing.instances import Providers
from ..config.settings import Config, Keys
from ..downstream.client_limit import ClientLimit
from ..downstream.request import Reply, Request
from ..downstream.server import Server
from ..errors import SHUTDOWN
from ..host import descriptors
from ..host.listeners import Listener, adopt
from ..host.tls import load_certificate, tls_context
from ..telemetry.counters import Telemetry
from ..telemetry.record import Record
from ..upstream.network import Network
from ..upstream.replica import Replica
from .acceptor import Acceptor, Relieved, nobody

# At a drain, a client that was active this recently may have its next request on the way, which closing would lose:
# it is answered, with `Connection: close`. Longer than any round trip.
GRACE_S = 0.5
_POLL_S = 0.02
_RETIRE_POLL_S = 0.1
_CLOSE_LIMIT_S = 1.0
# What is aborted says so to its client, where its protocol has words for it; nobody is waited for to read them.
_FAREWELL_TURNS = 100


class Gateway:
    """`start` and `listen`, then `drain` and `close`; `port` is the bound TCP port, `listeners` are all of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.telemetry = Telemetry(config)
        self.slots = Slots(config.queue_limit)
        self.app: App
        self.port = 0
        self._open_files = 0  # before the first client
        self.listeners: list[Listener] = []
        self._lent: dict[int, list[Listener]] = {}  # by place
        self._server: Server
        self._acceptor: Acceptor
        self._tls: ssl.SSLContext | None = None
        self._retiring: dict[App, asyncio.Task[None]] = {}  # replaced by a reload, with requests that still run
        self._closing: set[asyncio.Task[None]] = set()
        self._started = False
        self._listening = False

    @property
    def providers(self) -> Providers:
        """The provider table."""
        return self.app.providers

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._server.clients)

    async def start(self, listeners: list[Listener]) -> None:
        """Make ready for clients, who will come on `listeners`, which are bound.

        Raises ConfigError for a certificate that cannot be used.
        """
        config = self.config
        self.listeners = listeners
        self._tls = tls_context(config)
        if config.traces is not None:
            from ..telemetry.spans import Spans  # noqa: PLC0415 - takes as long as all the rest

            self.telemetry.spans = Spans(config.traces)
        network = Network(each.bound for each in self.listeners if each.port)
        self.app = App(config, self.telemetry, self.slots, network=network)
        quiet = logging.getLogger("gomodel.aiohttp")
        quiet.addHandler(logging.NullHandler())
        self._open_files = descriptors.open_now()
        self._server = Server(
            self._serve,
            self._refuse,
            ClientLimit(self._most_clients()),
            self._begin,
            write_idle_s=config.timeouts.write_idle_s,
            keepalive_s=config.timeouts.client_keepalive_s,
            head_limit_bytes=config.header_limit_bytes,
            access_log=None,
            logger=quiet,
            tcp_keepalive=False,  # its two hours; see ClientConnection
        )
        self._acceptor = Acceptor(self._server, self._tls)
        self._started = True
        await self.app.prepare()
        self.port = next((each.port for each in self.listeners if each.port), 0)
        self.telemetry.running.start(asyncio.get_running_loop())
        self.app.start()

    async def listen(self) -> None:
        """Take clients. Raises ListenError."""
        self._listening = True
        await self._acceptor.listen(self.listeners)

    def _begin(self, request: Request) -> bool:
        return self.app.begin(request)

    def _serve(self, request: Request) -> Coroutine[Any, Any, Reply | None]:
        app: App = request.app or self.app
        return app.serve(request)  # type: ignore[return-value]

    def _refuse(self, request: Request) -> Coroutine[Any, Any, Reply | None]:
        return self.app.refuse(request)  # type: ignore[return-value]

    def _most_clients(self) -> int:
        return descriptors.most_clients(descriptors.limit(), self._open_files, self.config.servers)

    def reload(self, config: Config) -> None:
        """Serve new requests by `config`; those that run end by the old one. Listeners stay as they are.

        Raises ConfigError, with everything unchanged, for a certificate that cannot be used.
        """
        if self._tls is not None and config.certificate is not None:
            tls_context(config)  # a certificate without its key must not reach the context in use
            load_certificate(self._tls, config.certificate)
        old = self.app
        self.app = App(config, self.telemetry, self.slots, old)
        self.slots.limit(config.queue_limit)
        old.stop()
        self.app.start()
        self.config = config
        self.telemetry.limit(config)
        self._server.allow(config.timeouts.write_idle_s, config.timeouts.client_keepalive_s, config.header_limit_bytes)
        self._server.limit.most = self._most_clients()
        self._acceptor.follow()
        task = asyncio.create_task(self._retire(old, set(self.telemetry.running.records)))
        self._retiring[old] = task
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def take_keys(self, keys: Keys | None, *, broken: bool) -> None:
        """Let in by `keys` from the next request on, or go on with those before; `broken`: their file is of no use."""
        callers = self.app.callers
        if callers is not None:
            callers.broken = broken
            if keys is not None:
                self.config = replace(self.config, keys=keys)
                callers.take(keys)

    async def _retire(self, app: App, records: set[Record]) -> None:
        """Close what only `app` uses, once the requests that ran when it was replaced are over."""
        while not records.isdisjoint(self.telemetry.running.records):  # noqa: ASYNC110 - no request pays for an event
            await asyncio.sleep(_RETIRE_POLL_S)
        del self._retiring[app]  # from here on `close` waits instead of cancelling
        if not self._retiring:
            for client in self._server.clients:
                client.write_idle_s = self._server.write_idle_s
        await app.close(self._replicas_of(self.app, *self._retiring))

    def _replicas_of(self, *apps: App) -> set[Replica]:
        return {replica for app in apps for replica in app.providers.replicas}

    async def read_for(self, place: int, sockets: list[socket.socket]) -> None:
        """Take clients of another place as well, whose listening sockets these are."""
        self._lent[place] = adopt(sockets, self.config)
        await self._acceptor.listen(self._lent[place])

    async def give_back(self, place: int) -> None:
        """Leave that place's clients to it again."""
        await self._acceptor.give_back(self._lent.pop(place, []))

    async def listen_no_more(self, relieved: Relieved) -> None:
        """Take no further client, and let each that there is make one more request.

        `relieved`: whose queues others read, so that what waits there is theirs.
        """
        self._server.close_after_next()
        await self._acceptor.finish(GRACE_S, relieved)

    async def all_gone(self) -> None:
        """Return when every client has left, after its next request or when it wants to."""
        while self._server.clients or self._server.handshakes:  # noqa: ASYNC110 - no request pays for an event
            await asyncio.sleep(_RETIRE_POLL_S)

    async def drain(self, timeout_s: float, *, relieved: Relieved = nobody) -> int:
        """Stop listening, close idle connections, let running requests end for `timeout_s`; how many did not.

        Connections idle for less than GRACE_S count as not idle yet. Requests that come within GRACE_S are served,
        later ones get 503. `relieved`: see `listen_no_more`.
        """
        loop = asyncio.get_running_loop()
        self.app.draining = True
        await self.listen_no_more(relieved)
        began = now = loop.time()
        deadline = began + timeout_s
        while True:
            for client in self._server.clients:
                client.close_when_idle(GRACE_S)
            self.app.refusing = now - began >= GRACE_S
            if not self._server.clients or now >= deadline:
                return len(self.telemetry.running.records)
            await asyncio.sleep(min(_POLL_S, deadline - now))
            now = loop.time()

    async def close(self) -> None:
        """Abort what still runs and give everything back."""
        if not self._listening:
            for each in self.listeners:
                each.close()
        if not self._started:
            return
        self._started = False
        self._acceptor.stop()
        records = self.telemetry.running.records
        for client in self._server.clients:
            client.close_when_idle()
        for record in tuple(records):
            record.abort(SHUTDOWN)
        for _ in range(_FAREWELL_TURNS):
            if not records:
                break
            await asyncio.sleep(0)
        for _ in range(2):  # for what was written to leave
            await asyncio.sleep(0)
        clients = self._server.clients
        ends = [client.task for client in clients if client.task is not None]
        for client in clients:
            client.abort()
        opening = self._acceptor.opening
        for task in (*opening, *self._retiring.values()):
            task.cancel()
        ends += [*self._closing, *opening]
        if ends:
            await asyncio.wait(ends, timeout=_CLOSE_LIMIT_S)
        self.telemetry.running.stop()
        for app in (self.app, *self._retiring):
            await app.close()
        if self.telemetry.spans is not None:
            await self.telemetry.spans.close()
