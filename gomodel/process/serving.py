"""One process that serves: its gateway, its event loop and its end.

Decides what draining, aborting and reloading mean for a process. Knows nothing of who asks for them: the process's own
signals (`start`) or the supervisor of several workers (`supervisor`).
"""

import asyncio
import errno
import gc
import logging
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..config.settings import Config
from ..host.allocator import keep_freed
from ..host.listeners import Listener
from ..telemetry.logs import configure_logging, count
from ..upstream.root_certificates import provide
from .acceptor import Relieved, nobody
from .gateway import Gateway

if TYPE_CHECKING:
    from .batching import Batching

_new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop as _new_event_loop
except ImportError:  # there is none for this platform
    _new_event_loop = asyncio.new_event_loop

_logger = logging.getLogger("gomodel")

# Given on top of the drain limit to whoever waits for our end.
MARGIN_S = 5.0
GC_THRESHOLD = 50_000

_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Serving:
    """Runs one gateway until it is told to end; what tells it calls its methods in the loop's thread."""

    def __init__(self, config: Config, *, batching: bool = True, waiting: bool = False) -> None:
        """`batching`: this process is the one that has the batcher beside it, where batches are on.

        `waiting`: once ready, it takes no client before `take_clients`.
        """
        provide(config)
        self.gateway = Gateway(config)
        self._draining = asyncio.Event()
        self._limited = asyncio.Event()
        self._relieved: Relieved = nobody
        self._aborted = asyncio.Event()
        self._waiting = waiting
        self._taking = asyncio.Event()
        self._batching: Batching | None = None
        if batching and config.batches.on:
            from . import batching as beside  # noqa: PLC0415 - who has no batches does not pay for them

            self._batching = beside.Batching(self.gateway)
        self.cut_short = False  # requests that still ran were aborted on order

    @property
    def draining(self) -> bool:
        """Whether the end has begun."""
        return self._draining.is_set()

    @property
    def limited(self) -> bool:
        """Whether the end has begun, and what runs has a limit of time."""
        return self._limited.is_set()

    def take_clients(self) -> None:
        """Wait no longer."""
        self._taking.set()

    async def until_limited(self) -> None:
        """Return when it is."""
        await self._limited.wait()

    def hand_over(self, relieved: Relieved) -> None:
        """Take no new client, since another release does; what runs may take as long as it likes, until `drain`.

        `relieved`: the listeners whose queues it reads.
        """
        if not self.draining:
            self._relieved = relieved
            self._draining.set()

    def drain(self, relieved: Relieved = nobody) -> None:
        """Take nothing new, let what runs end within GOMODEL_DRAIN_TIMEOUT, then stop; a second call changes nothing.

        `relieved`: the listeners whose queues others read.
        """
        if not self.draining:
            self._relieved = relieved
        self._limited.set()
        self._draining.set()

    def abort(self) -> None:
        """Stop now."""
        self._limited.set()
        self._draining.set()
        self._aborted.set()

    def reload(self, config: Config) -> None:
        """Serve by `config` from the next request on; its root certificates must be there
        (`root_certificates.provide`).

        Raises ConfigError, with everything unchanged, for a certificate that cannot be used.
        """
        self.gateway.reload(config)
        if self._batching is not None:
            self._batching.reload(config)
        configure_logging(config.log_level, config.log_format)

    def report(self) -> None:
        """Log how busy the process is (SIGUSR1)."""
        gateway = self.gateway
        flights = ", ".join(f"{each.title} {each.requests.own}" for each in gateway.providers.replicas)
        running = count(len(gateway.telemetry.running.records), "request")
        _logger.info("Running: %s on %s; in flight: %s", running, count(gateway.connections, "connection"), flights)

    async def run(self, listeners: list[Listener], ready: Callable[[], None]) -> None:
        """Serve on `listeners` until told to end; `ready` is called when requests are taken, or could be, before any
        other method.

        Raises ConfigError for a certificate that cannot be used.
        """
        asyncio.get_running_loop().set_exception_handler(_LoopErrors())
        gateway = self.gateway
        try:
            await gateway.start(listeners)
            if self._batching is not None:
                await self._batching.start()
            # What was imported stays; the collector need not look at it again and again while streams run. Requests
            # leave no cycles, but at 512 connections the default of 700 new objects made it run every 30 requests and
            # take a third of the CPU to find nothing.
            gc.freeze()
            gc.set_threshold(GC_THRESHOLD, 20, 50)
            gc.enable()
            keep_freed()
            if not self._waiting:
                await gateway.listen()  # when nothing can fail any more: whom it takes would be lost
            ready()
            if self._waiting and await _unless(self._draining, self._taking.wait()):
                await gateway.listen()
            await self._draining.wait()
            await self._end(gateway)
        finally:
            if self._batching is not None:
                await self._batching.close()
            await gateway.close()

    async def _end(self, gateway: Gateway) -> None:
        if not self.limited and await _unless(self._limited, self._drain(None)):
            _logger.info("Drained: every request ended by itself")
            return
        limit_s = gateway.config.drain_s
        if running := len(gateway.telemetry.running.records):
            are, them = ("is", "it") if running == 1 else ("are", "them")
            # Whoever waits for it at a terminal wants to know why, also where only warnings are logged.
            _logger.warning(
                "Draining: %s %s running and may take %g s; a second signal (Ctrl-C) ends %s now",
                *(count(running, "request"), are, limit_s, them),
            )
        else:
            _logger.info("Draining: no request is running")
        drained = await _unless(self._aborted, self._drain(limit_s))
        if left := len(gateway.telemetry.running.records):
            self.cut_short = not drained
            why = "on order" if self.cut_short else "at the drain limit"
            _logger.warning("Aborted %s %s", count(left, "request"), why)
        else:
            _logger.info("Drained: every request ended by itself")

    async def _drain(self, limit_s: float | None) -> None:
        """Let what runs end for `limit_s`; None: while another release takes what is new."""
        ends: Coroutine[Any, Any, object]
        ends = self._end_in_peace() if limit_s is None else self.gateway.drain(limit_s, relieved=self._relieved)
        drains: set[asyncio.Task[Any]] = {asyncio.create_task(ends)}
        if self._batching is not None:
            drains.add(asyncio.create_task(self._batching.drain(handing_over=limit_s is None)))
        try:
            await asyncio.wait(drains, timeout=limit_s)
        finally:
            for each in drains:
                each.cancel()
            await asyncio.wait(drains)

    async def _end_in_peace(self) -> None:
        gateway = self.gateway
        await gateway.listen_no_more(self._relieved)
        running = count(len(gateway.telemetry.running.records), "request")
        _logger.info("Handed over: no new client is taken here; running to the end: %s", running)
        await gateway.all_gone()


async def _unless(order: asyncio.Event, what: Coroutine[Any, Any, object]) -> bool:
    """Do `what`, unless and until `order` is given; whether it was done."""
    doing, ordered = asyncio.create_task(what), asyncio.create_task(order.wait())
    await asyncio.wait({doing, ordered}, return_when=asyncio.FIRST_COMPLETED)
    doing.cancel()
    ordered.cancel()
    await asyncio.wait({doing, ordered})
    if not doing.cancelled():
        doing.result()
    return not doing.cancelled()


class _LoopErrors:
    """Logs what no task would; once a second at most that there are no descriptors left to accept with.

    A connection that the system or TLS ended, which is what an OSError is here, is no fault, and its protocol has been
    told. Whoever scans ports can cause as many as he likes.
    """

    def __init__(self) -> None:
        self._said_at = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in _OUT_OF_FILES:
            if monotonic() - self._said_at >= 1:
                self._said_at = monotonic()
                _logger.error("New connections have to wait: %s", error.strerror)
            return
        if isinstance(error, OSError) and ("transport" in context or "protocol" in context):
            _logger.debug("A connection was lost: %s", error.strerror or type(error).__name__)
            return
        _logger.error("%s", context.get("message", "Unhandled error in the event loop"), exc_info=error)


def run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on uvloop where it is installed, on asyncio elsewhere; what it returned.

    asyncio.run would wait for the threads of its resolver at the end, which a dead name server keeps for a minute.
    """
    loop = _new_event_loop()
    try:
        return loop.run_until_complete(main)
    finally:
        try:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
