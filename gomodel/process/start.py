"""The start-up of gomodel, and the signals of its single process.

Decides the order of things: log, limits, certificate, sockets, then one process here or several under `supervisor`; and
what each signal means (contract section 7). Knows nothing of the command line or of HTTP.
"""

import asyncio
import contextlib
import logging
import os
import resource
import signal
from collections import deque
from contextlib import AbstractAsyncContextManager

from ..config.files import Files
from ..config.settings import Config
from ..host import private_sockets
from ..host.listeners import Listener, ListenError, adopt, bind
from ..host.signals import STOPPING, Signals, StopSignals
from ..host.systemd import Notifier, inherited_sockets
from ..host.taken_over import TakenOver
from ..host.tls import tls_context
from ..telemetry.logs import configure_logging
from ..upstream.root_certificates import provide
from . import data_directory, handover, start_log
from .handover import Taken
from .keys_watch import LOOK_S, KeysWatch
from .reload import Load, Rereading, settled
from .serving import MARGIN_S, Serving, run_loop
from .succession import Succession

_logger = logging.getLogger("gomodel")

_OPEN_FILES = 1 << 20


class Company:
    """What runs beside the gateway, in its loop and from before its start to after its end. Here: nothing."""

    def running(self) -> AbstractAsyncContextManager[None]:
        """Entered before requests are taken, left when all are over."""
        return contextlib.nullcontext()

    def ready(self, listeners: list[Listener]) -> None:
        """Requests are taken on `listeners`."""


_NOBODY = Company()


def start(config: Config, load: Load, signals: Signals, company: Company = _NOBODY) -> int:
    """Serve until told to end; the exit status. `load` reads the configuration again, for SIGHUP.

    0 after a drain, 1 when there is nothing to listen on, 128 + signal when a second signal aborted running requests.
    Raises ConfigError, before anything is bound, for a certificate or a data directory that cannot be used.
    """
    arrived: deque[int] = deque()
    signals.collect(arrived.append)
    configure_logging(config.log_level, config.log_format)
    taken = handover.taken(os.environ)
    if taken is not None:  # files may be in the middle of a change, as at a reload
        config = settled(load, taken.remembered(config), Files())
        taken.check(config)
    _raise_descriptor_limit()
    tls_context(config)
    provide(config)  # before there are workers, who then share them
    if config.batches.data_dir is not None:
        data_directory.prepare(config.batches.data_dir)
    with private_sockets.directory(wanted=config.batches.on):
        return _serve(config, load, signals, company, arrived, taken)


def _serve(
    config: Config, load: Load, signals: Signals, company: Company, arrived: deque[int], taken: Taken | None
) -> int:
    notifier = Notifier(os.environ, follows=taken is not None)
    held = TakenOver() if taken is None else taken.held
    try:
        sockets = held.everything() if taken is not None and taken.activated else inherited_sockets(os.environ)
        activated = adopt(sockets, config)
        if config.workers > 1:
            from .supervisor import Supervisor  # noqa: PLC0415 - a single process needs none of it

            return Supervisor(config, load, signals, notifier, taken).run(activated, arrived)
        listeners = activated or bind(config, held=held)
    except ListenError as error:
        _logger.error("%s", error)
        return 1
    alone = _Alone(config, load, notifier, taken, activated=bool(activated), upgradable=company is _NOBODY)
    return run_loop(alone.run(listeners, signals, arrived, company))


class _Alone:
    """The single process: its own signals tell it what to do."""

    def __init__(
        self,
        config: Config,
        load: Load,
        notifier: Notifier,
        taken: Taken | None,
        *,
        activated: bool,
        upgradable: bool,
    ) -> None:
        self._serving = Serving(config)
        self._succession = Succession(self._serving, notifier, taken, activated=activated, upgradable=upgradable)
        self._rereading = Rereading(load, self._read_again)
        self._watch = KeysWatch(self._keys_read)
        self._looking: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop
        self._notifier = notifier
        self._follows = taken is not None
        self._stops = StopSignals()
        self._last_signal = 0
        self._watching: asyncio.TimerHandle | None = None

    async def run(self, listeners: list[Listener], signals: Signals, arrived: deque[int], company: Company) -> int:
        loop = self._loop = asyncio.get_running_loop()
        if os.getpid() == 1:
            # Whatever else ran in the container becomes our child at its end; nobody would reap it.
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)

        def stopped() -> list[int]:
            """Signals to stop one that has taken over nothing yet, and shall not."""
            return [number for number in arrived if number in STOPPING] if self._follows else []

        def ready() -> None:
            ending = stopped()
            if not ending:
                start_log.started(self._serving.gateway.config, listeners)
                self._notifier.ready()
                self._succession.ready(listeners)
                self._show_life(loop)
                self._look()
                company.ready(listeners)
                self._watch_files()
            signals.attach(loop, self._on_signal)
            for number in ending or arrived:
                self._on_signal(number)

        if ending := stopped():
            _logger.info("%s: ending", signal.Signals(ending[0]).name)
            return 0
        async with company.running():
            await self._serving.run(listeners, ready)
            await self._succession.end()
        signals.detach()
        return 128 + self._last_signal if self._serving.cut_short else 0

    def _on_signal(self, number: int) -> None:
        serving, name = self._serving, signal.Signals(number).name
        if number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR1:
            serving.report()
        elif number == signal.SIGUSR2:
            self._succession.begin()
        elif not self._stops.counts(number):
            _logger.debug("%s, delivered twice", name)
        elif not serving.limited:
            _logger.info("%s: ending", name)
            self._notifier.stopping(serving.gateway.config.drain_s + MARGIN_S)
            self._succession.cancel("drain")
            serving.drain()
        else:
            _logger.warning("%s, a second signal: ending now", name)
            self._last_signal = number
            self._succession.cancel("abort")
            serving.abort()

    def _reload(self) -> None:
        serving = self._serving
        if serving.draining:
            _logger.warning("SIGHUP comes too late: the process is ending")
            return
        self._notifier.reloading()
        self._rereading.begin(serving.gateway.config)

    def _watch_files(self) -> None:
        """GOMODEL_WATCH: see whether a file has changed, now and from time to time."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        config = self._serving.gateway.config
        if config.watch_s and not self._serving.draining:
            self._rereading.look(config)
            self._watching = self._loop.call_later(config.watch_s, self._watch_files)

    def _read_again(self) -> None:
        """In another thread: there is a result."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take_up)

    def _take_up(self) -> None:
        serving = self._serving
        if serving.draining:
            return
        config = self._rereading.result(serving.gateway.config)
        if config is not None:
            watch_s = serving.gateway.config.watch_s
            serving.reload(config)
            self._look()
            if config.watch_s != watch_s:
                self._watch_files()
        if not self._rereading.busy:
            self._notifier.reloaded()

    def _look(self) -> None:
        """See whether the keys file has changed, now and from time to time, where there is one."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        config = self._serving.gateway.config
        if config.keys is not None and not self._serving.draining:
            self._watch.look(config.keys, config.master_keys)
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def _keys_read(self) -> None:
        """In another thread: there may be news of the keys file."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._take_keys)

    def _take_keys(self) -> None:
        gateway = self._serving.gateway
        news = self._watch.news(gateway.config.keys) if gateway.config.keys is not None else None
        if news is not None and not self._serving.draining:
            gateway.take_keys(news.keys, broken=news.broken)

    def _show_life(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._notifier.watchdog_s:
            self._notifier.alive()
            loop.call_later(self._notifier.watchdog_s, self._show_life, loop)


def _raise_descriptor_limit() -> None:
    """A stream takes two descriptors; the usual soft limit of 1024 is for programs that use select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        _logger.debug("The limit of open files could not be raised")
