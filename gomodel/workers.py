"""The supervisor of several worker processes.

Decides when a worker is started, started again or given up on, and what the signals of the whole gateway mean
(contract sections 1 and 7). The parent runs no event loop and serves nothing. It forks before any loop exists, so that
the workers share the memory of everything that was imported. Each listens on a socket of its own on the shared port
(SO_REUSEPORT); unix sockets and sockets from systemd are shared. Orders reach a worker through a socket, not as
signals: systemd and terminals signal every process of a group at once, and an order must not count twice.
"""

import gc
import logging
import os
import selectors
import shutil
import signal
import socket
from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

from . import notices
from .config import Config
from .daemon import MARGIN_S
from .listeners import Listener, ListenError, beside, bind
from .logs import configure_logging, name_worker
from .peers import private_directory
from .reload import Load, read_again
from .serving import run_loop
from .signals import Signals, StopSignals
from .systemd import Notifier
from .worker import CUT_SHORT, READY, encoded, serve

_logger = logging.getLogger("gomodel")

# The wait before a worker that died is started again doubles from the first to the last of these.
BACKOFF_S = 0.1
BACKOFF_MAX_S = 5.0
# A worker that lived this long did not die of its start.
STABLE_S = 10.0
# Times in a row that one worker may fail while the gateway is not up, or while all others fail too: 100 ms + 200 + ...
START_ATTEMPTS = 5
# For workers that were told to abort, before they are killed.
ABORT_S = 3.0


class _Worker:
    """A worker as the supervisor sees it; the process may be gone and another about to take its place."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.pid = 0
        self.orders: socket.socket | None = None
        self.ready = False
        self.started_at = 0.0
        self.restart_at = float("inf")
        self.failures = 0

    @property
    def name(self) -> str:
        return f"{self.index}-{self.pid}"


class Supervisor:
    """The parent process. `run` once."""

    def __init__(self, config: Config, load: Load, signals: Signals, notifier: Notifier) -> None:
        self._config = config
        self._load = load
        self._signals = signals
        self._notifier = notifier
        self._workers = [_Worker(index) for index in range(1, config.workers + 1)]
        self._listeners: list[Listener] = []
        self._reserved: list[Listener] = []
        self._directory: Path | None = None
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = os.pipe()
        self._announced = False
        self._ending = False
        self._kill_at = float("inf")
        self._beat_at = float("inf")
        self._stops = StopSignals()
        self._forced = 0
        self._cut_short = False
        self._status = 0

    def run(self, inherited: list[Listener], arrived: Iterable[int]) -> int:
        """Serve with workers on `inherited`, or on what the configuration says, until told to end; the exit status.

        `arrived`: signals from before. Raises ListenError.
        """
        os.set_blocking(self._wake_out, False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._signals.write_to(self._wake_out)
        os.write(self._wake_out, bytes(arrived))
        try:
            self._listeners = inherited or bind(self._config, reuse_port=True)
            # Our own TCP sockets never listen: they keep the port while the workers bind theirs beside them.
            self._reserved = [each for each in self._listeners if each.port is not None and not inherited]
            self._directory = _directory()
            gc.freeze()  # what was imported is shared as long as no collector writes to it
            gc.enable()
            for worker in self._workers:
                self._start(worker)
            while any(worker.pid for worker in self._workers) or not self._ending:
                self._turn()
        finally:
            self._signals.detach()
            self._stop_listening()
            self._selector.close()
            os.close(self._wake_in)
            os.close(self._wake_out)
            if self._directory is not None:
                shutil.rmtree(self._directory, ignore_errors=True)
        return 128 + self._forced if self._cut_short and self._forced else self._status

    def _turn(self) -> None:
        now = monotonic()
        due = min(self._kill_at, self._beat_at, *(worker.restart_at for worker in self._workers))
        for key, _ in self._selector.select(max(0.0, due - now) if due < float("inf") else None):
            if key.fd == self._wake_in:
                for number in os.read(self._wake_in, 1024):
                    self._on_signal(number)
            elif key.fileobj is key.data.orders:  # otherwise it was lost a moment ago
                self._on_word(key.data)
        now = monotonic()
        for worker in self._workers:
            if now >= worker.restart_at:
                self._start(worker)
        if now >= self._kill_at:
            self._kill()
        if now >= self._beat_at:
            self._beat()

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR1:
            self._order("report")
        elif not self._stops.counts(number):
            _logger.debug("%s, delivered twice", name)
        elif not self._ending:
            _logger.info("%s: ending, %d workers", name, len(self._workers))
            self._end("drain", self._config.drain_s + MARGIN_S)
        else:
            _logger.warning("%s, a second signal: ending now", name)
            self._forced = number
            self._end("abort", ABORT_S)

    def _end(self, order: str, limit_s: float) -> None:
        self._ending = True
        self._kill_at = monotonic() + limit_s
        self._notifier.stopping(limit_s)
        for worker in self._workers:
            worker.restart_at = float("inf")
        self._stop_listening()
        self._order(order)

    def _stop_listening(self) -> None:
        for each in self._listeners:
            each.close()

    def _reload(self) -> None:
        if self._ending:
            _logger.warning("SIGHUP comes too late: the gateway is ending")
            return
        self._notifier.reloading()
        config = read_again(self._load, self._config)
        if config is not None:
            self._config = config
            configure_logging(config.log_level, config.log_format)
            self._order("reload", config)
        self._notifier.ready()

    def _order(self, order: str, argument: Any = None) -> None:
        data = encoded(order, argument)
        for worker in self._workers:
            if worker.orders is None:
                continue
            try:
                worker.orders.sendall(data)
            except OSError:
                _logger.warning("Worker %s takes no orders any more", worker.name)

    def _start(self, worker: _Worker) -> None:
        worker.restart_at = float("inf")
        worker.ready = False
        worker.started_at = monotonic()
        assert self._directory is not None
        if not self._directory.is_dir():
            self._replace_directory()
        worker.orders, theirs = socket.socketpair()
        worker.orders.settimeout(1.0)
        for handler in _logger.handlers:
            handler.flush()  # a copy of what waits there would be written twice
        with self._signals.held():
            try:
                pid = os.fork()
            except OSError as error:
                _logger.error("No process for worker %d: %s", worker.index, error.strerror)
                pid = None
            if pid == 0:
                self._signals.detach()
        if pid == 0:
            self._become(worker, theirs)
        theirs.close()
        self._selector.register(worker.orders, selectors.EVENT_READ, worker)
        if pid is None:
            self._hang_up(worker)
            self._start_later(worker)
        else:
            worker.pid = pid

    def _replace_directory(self) -> None:
        """Somebody who tidied up temporary files took the workers' sockets along: all of them move to a new place."""
        try:
            self._directory = _directory()
        except ListenError as error:
            _logger.error("%s", error)
            return
        _logger.warning("The directory of the workers' sockets was removed; they move to another")
        self._order("move", self._directory)

    def _become(self, worker: _Worker, orders: socket.socket) -> NoReturn:
        """The forked child: give up what is the parent's, serve, and end without running the parent's code."""
        status = 1
        try:
            self._selector.close()
            os.close(self._wake_in)
            os.close(self._wake_out)
            for each in self._workers:
                if each.orders is not None:
                    each.orders.close()
            for listener in self._listeners:
                listener.file = None  # the parent's to remove
            twins = [beside(each) for each in self._reserved]
            shared = [each for each in self._listeners if each not in self._reserved]
            for listener in self._reserved:
                listener.sock.close()
            worker.pid = os.getpid()
            name_worker(worker.name)
            assert self._directory is not None
            place = self._directory, worker.name
            status = run_loop(serve(self._config, [*shared, *twins], orders, self._signals, *place))
        except ListenError as error:
            _logger.error("%s", error)
        except BaseException:
            _logger.exception("Worker %s failed", worker.name)
        finally:
            logging.shutdown()
            os._exit(status)

    def _on_word(self, worker: _Worker) -> None:
        try:
            worker.ready = worker.orders is not None and worker.orders.recv(len(READY)) == READY
        except OSError:
            worker.ready = False
        if not worker.ready:
            self._hang_up(worker)
            return
        if all(each.ready for each in self._workers) and not self._announced:
            self._announced = True
            notices.started(self._config, self._listeners)
            self._notifier.ready()
            self._beat()

    def _beat(self) -> None:
        if self._notifier.watchdog_s:
            self._notifier.alive()
            self._beat_at = monotonic() + self._notifier.watchdog_s

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for worker in self._workers:
                if worker.pid == pid:  # otherwise an orphan that PID 1 inherits
                    self._lost(worker, os.waitstatus_to_exitcode(status))

    def _lost(self, worker: _Worker, status: int) -> None:
        if self._directory is not None:
            (self._directory / f"{worker.name}.sock").unlink(missing_ok=True)
        name, worker.pid = worker.name, 0
        self._hang_up(worker)
        if self._ending:
            if status == CUT_SHORT or (status and self._forced):
                self._cut_short = True
            elif status:
                _logger.error("Worker %s ended with %s while draining", name, _how(status))
                self._status = 1
            return
        if status == 0:
            _logger.info("Worker %s ended; another takes its place", name)
            worker.failures = 0
            worker.restart_at = monotonic()
        else:
            _logger.error("Worker %s ended with %s", name, _how(status))
            self._start_later(worker)

    def _start_later(self, worker: _Worker) -> None:
        """A worker's start, or its life, failed: try again after a while, or give up on all."""
        now = monotonic()
        worker.failures = 1 if now - worker.started_at >= STABLE_S else worker.failures + 1
        # One that is ready, or has not failed yet, may go on serving without this one.
        hope = self._announced and any(each.ready or not each.failures for each in self._workers)
        if worker.failures >= START_ATTEMPTS and not hope:
            _logger.error("Worker %d does not %s; giving up", worker.index, "stay up" if self._announced else "start")
            self._status = 1
            self._end("abort", ABORT_S)
            return
        delay_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (worker.failures - 1))
        _logger.info("Worker %d starts again in %gs", worker.index, delay_s)
        worker.restart_at = now + delay_s

    def _hang_up(self, worker: _Worker) -> None:
        orders, worker.orders = worker.orders, None
        worker.ready = False
        if orders is not None:
            self._selector.unregister(orders)
            orders.close()

    def _kill(self) -> None:
        self._kill_at = float("inf")
        for worker in self._workers:
            if worker.pid:
                _logger.error("Worker %s does not end and is killed", worker.name)
                os.kill(worker.pid, signal.SIGKILL)


def _directory() -> Path:
    try:
        return private_directory()
    except OSError:
        raise ListenError("Workers need a directory for their sockets and none is writable; set TMPDIR") from None


def _how(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
