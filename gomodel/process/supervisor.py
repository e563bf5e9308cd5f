"""The supervisor of several worker processes.

Decides what the signals of the whole gateway mean (contract sections 7 and 12), and when the gateway is up or given up
on. Which workers there are is the `crew`'s, what they say to each other the `switchboard`'s, what they listen on
`shared_listeners`', what changes the configuration `changes`', what there is before and after this release
`generations`'.
The parent runs no event loop, serves nothing and waits for nobody. It forks before any loop exists, so that the workers
share the memory of everything that was imported. Orders reach a worker through a socket, not as signals: systemd and
terminals signal every process of a group at once, and an order must not count twice.
"""

import gc
import logging
import os
import selectors
import signal
from collections.abc import Iterable
from time import monotonic

from ..access import host_usage
from ..balancing import keys_in_flight
from ..config.settings import Config
from ..host.listeners import Listener
from ..host.signals import Signals, StopSignals
from ..host.systemd import Notifier
from ..host.taken_over import TakenOver
from ..telemetry.logs import count, name_worker
from ..upstream import host_counts
from . import start_log
from .changes import KEYS_READ, READ_AGAIN, Changes
from .crew import Crew
from .elders import Elders
from .ending import Ending
from .generations import Generations, Peer
from .handover import Taken
from .orders import Message
from .reload import Load
from .restarts import Limits, Place
from .serving import MARGIN_S, run_loop
from .shared_listeners import SharedListeners
from .switchboard import Switchboard
from .worker import serve
from .workers import Ends, Workers

_logger = logging.getLogger("gomodel")

LIMITS = Limits()
# For workers that were told to abort, before they are killed.
ABORT_S = 3.0
_NEVER = float("inf")


class Supervisor:
    """The parent process. `run` once."""

    def __init__(
        self, config: Config, load: Load, signals: Signals, notifier: Notifier, taken: Taken | None = None
    ) -> None:
        """`taken`: what the release that this one takes over from hands over."""
        self._signals = signals
        self._notifier = notifier
        counts = (  # before the switchboard, whose line looks at what keys use
            host_counts.share(config.workers),
            keys_in_flight.share(config.workers),
            host_usage.share(config.workers),
        )
        self._switchboard = Switchboard(config.queue_limit)
        self._listeners = SharedListeners()
        self._selector = selectors.DefaultSelector()
        self._workers = Workers(signals, self._selector)
        self._changes = Changes(config, load, notifier, self._wake, self._workers.order)
        self._held = TakenOver() if taken is None else taken.held
        self._activated = False
        self._generations = Generations(self._selector, taken, self._switchboard)
        self._wake_in, self._wake_out = os.pipe()
        self._ending = Ending()
        self._crew = Crew(
            self, config.workers, LIMITS, self._workers, counts, self._switchboard, self._listeners, self._ending
        )
        self._feed_at = _NEVER
        self._stops = StopSignals()

    def run(self, inherited: list[Listener], arrived: Iterable[int]) -> int:
        """Serve with workers on `inherited`, or on what the configuration says, until told to end; the exit status.

        `arrived`: signals from before. Raises ListenError.
        """
        self._activated = bool(inherited)
        os.set_blocking(self._wake_out, False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._signals.write_to(self._wake_out)
        os.write(self._wake_out, bytes(arrived))
        try:
            self._listeners.bind(inherited, self._changes.config, self._held)
            if not self._generations.awaited:
                self._listeners.listen()
            gc.freeze()  # what was imported is shared as long as no collector writes to it
            gc.enable()
            self._crew.begin()
            while self._workers.running or not self._ending.begun or self._generations.followed:
                if self._ending.overdue and not self._workers.running:
                    break  # the release before this one was told as well
                self._turn()
            self._generations.successor.finish("numbers", self._switchboard.numbers())
        finally:
            self._signals.detach()
            self._listeners.close()
            self._release()
        return self._ending.status

    def _turn(self) -> None:
        """Act on what is due, then on what happens until something else is."""
        now = monotonic()
        self._changes.look(now)
        successor = self._generations.successor
        successor.expire(now)
        if not self._changes.busy:  # whose locks would be taken for ever in a child that is forked in its middle
            self._crew.fill(now)
        self._crew.look(now)
        self._switchboard.expire(now)
        if self._ending.kills(now):
            self._workers.kill(self._workers.running, "does not end")
        if now >= self._feed_at:
            self._feed()
        self._workers.watch()
        self._generations.watch()
        due = min(self._switchboard.due, self._ending.kill_at, self._feed_at, self._changes.due, successor.due)
        if not self._changes.busy:
            due = min(due, self._crew.due)
        for key, events in self._selector.select(max(0.0, due - monotonic()) if due < _NEVER else None):
            if key.fd == self._wake_in:
                for number in os.read(self._wake_in, 1024):
                    self._on_signal(number)
            elif isinstance(key.data, Peer):
                self._generations.heard(key.data, writable=bool(events & selectors.EVENT_WRITE))
            elif isinstance(key.data, Elders):
                self._generations.ended(key.fd)
            elif key.data.line is not None:  # otherwise it was lost a moment ago
                if events & selectors.EVENT_WRITE:
                    key.data.line.flush()
                self._crew.hear(key.data)

    def _on_signal(self, number: int) -> None:
        if number in (READ_AGAIN, KEYS_READ):
            if not self._ending.begun and self._changes.happened(number):
                self._switchboard.limit(self._changes.config.queue_limit)
            return
        name = signal.Signals(number).name
        if number == signal.SIGCHLD:
            for pid, worker, status in self._workers.reaped():
                if worker is not None:
                    self._crew.lost(worker, os.waitstatus_to_exitcode(status))
                elif self._generations.failed(pid, status):
                    self._notifier.reloaded()
        elif number == signal.SIGHUP:
            if self._ending.begun:
                _logger.warning("SIGHUP comes too late: the gateway is ending")
            else:
                self._changes.reload()
        elif number == signal.SIGUSR1:
            self._workers.order("report")
        elif number == signal.SIGUSR2:
            self._upgrade()
        elif not self._stops.counts(number):
            _logger.debug("%s, delivered twice", name)
        elif not self._ending.limited:
            _logger.info("%s: ending, %s", name, count(self._changes.config.workers, "worker"))
            self._end("drain", self._changes.config.drain_s + MARGIN_S)
        else:
            _logger.warning("%s, a second signal: ending now", name)
            self._end("abort", ABORT_S, insisted=number)

    def _end(self, order: str, limit_s: float, *, failed: bool = False, insisted: int = 0) -> None:
        self._ending.begin(monotonic(), limit_s, failed=failed, insisted=insisted)
        self._notifier.stopping(limit_s)
        self._stop()
        self._generations.successor.cancel()
        if not failed:  # the one before it did not fail
            self._generations.order(order)
        self._workers.order(order)

    def _stop(self) -> None:
        """Take nothing new."""
        self._crew.stop()
        self._changes.stop()
        self._listeners.close()

    def _upgrade(self) -> None:
        """SIGUSR2: start the installed release anew, beside this one; contract section 12."""
        if not self._generations.successor.may_start(ending=self._ending.begun):
            return
        self._notifier.reloading()
        if not self._generations.begin(
            self._listeners.everything, self._changes.config, self._hear_successor, activated=self._activated
        ):
            self._notifier.reloaded()

    def _hear_successor(self, message: Message) -> None:
        match message:
            case ("ready", left) if not self._ending.begun:
                self._hand_over([self._listeners.everything[index] for index in left])
            case ("drain",) if self._ending.begun and not self._ending.limited:
                self._end("drain", self._changes.config.drain_s + MARGIN_S)
            case ("abort",) if self._ending.begun:
                self._end("abort", ABORT_S, insisted=signal.SIGTERM)

    def _hand_over(self, left: list[Listener]) -> None:
        """The new release takes clients on all listeners but those that it has `left`."""
        successor = self._generations.successor
        if not successor.take_over():
            return
        self._notifier.handed_over(successor.pid)
        successor.send("go", self._switchboard.numbers())
        self._ending.hand_over()
        self._workers.order("hand_over", [each.sock.getsockname() for each in left])
        for each in self._listeners.everything:
            if each not in left:
                each.file = None  # the other one's to remove
        self._stop()

    def _in_charge(self) -> None:
        """The release before takes no more clients, or is gone."""
        for each in self._listeners.everything:
            each.lent = False
        self._notifier.in_charge()

    def _wake(self, what: int) -> None:
        """In another thread: something was read."""
        if not self._ending.begun:
            os.write(self._wake_out, bytes((what,)))

    def work(self, place: Place, ends: Ends) -> int:
        """The forked child: give up what is the parent's, and serve."""
        self._release()
        listeners = self._listeners.of_worker(place.index - 1)
        for held in self._held.left:  # by the release before alone
            held.sock.close()
        name_worker(f"{place.index}-{os.getpid()}")
        self._crew.take_place(place)
        batching = place.index == 1
        waiting = self._generations.awaited
        return run_loop(
            serve(
                self._changes.config,
                listeners,
                ends,
                self._signals,
                LIMITS.beat_s,
                batching=batching,
                waiting=waiting,
            )
        )

    def came_up(self) -> None:
        """All workers are ready: clients are taken, which is said."""
        if self._generations.awaited:  # whoever came before would be lost with a release that fails
            self._listeners.listen()
            self._workers.order("take_clients")
        start_log.started(self._changes.config, self._listeners.all)
        self._notifier.ready()
        self._generations.ready(self._in_charge)
        self._feed()

    def give_up(self) -> None:
        """End: a worker cannot be had, and the gateway not be without it."""
        self._end("abort", ABORT_S, failed=True)

    def _release(self) -> None:
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)
        self._workers.release()
        self._generations.release()

    def _feed(self) -> None:
        """Tell systemd's watchdog that all is well; when it is not, that is for the watchdog to notice."""
        if self._notifier.watchdog_s:
            delay_s = self._notifier.watchdog_s
            if self._crew.alive:
                self._notifier.alive()
            else:
                delay_s = min(delay_s, LIMITS.beat_s)  # by then the one that hangs may be replaced
            self._feed_at = monotonic() + delay_s
