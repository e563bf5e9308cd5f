"""The workers of one gateway in their places: each is started, heard, lent a queue, and followed when it is lost.

Acts on what `restarts` decides of those that die or hang. What a worker does, and what it is to the gateway that all
are ready or that one is given up on, is its employer's (`supervisor`). Waits for nobody.
"""

import logging
import signal
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from .ending import Ending
from .lending import Lending
from .orders import Line, Message
from .restarts import Limits, Place, Restarts
from .shared_listeners import SharedListeners
from .switchboard import Switchboard
from .workers import Ends, Worker, Workers

_logger = logging.getLogger("gomodel")


class Employer(Protocol):
    """Whose workers they are."""

    def work(self, place: Place, ends: Ends) -> int:
        """In a forked child: serve; the exit status."""

    def came_up(self) -> None:
        """All are ready, for the first time."""

    def give_up(self) -> None:
        """One cannot be had, and the gateway not be without it."""


class Counts(Protocol):
    """Numbers of requests, a row for each place, which all processes share."""

    def take(self, row: int) -> None:
        """In a worker: count in this row."""

    def clear(self, row: int) -> None:
        """Its worker is gone."""


class Crew:
    """`begin`, then `fill` and `look` when they are `due`; times are time.monotonic."""

    def __init__(
        self,
        employer: Employer,
        count: int,
        limits: Limits,
        workers: Workers,
        counts: Iterable[Counts],
        switchboard: Switchboard,
        listeners: SharedListeners,
        ending: Ending,
    ) -> None:
        self._employer = employer
        self._limits = limits
        self._restarts = Restarts(count, limits)
        self._workers = workers
        self._switchboard = switchboard
        self._listeners = listeners
        self._ending = ending
        self._lending = Lending(self._lend)
        self._counts = tuple(counts)

    @property
    def due(self) -> float:
        """When `fill` or `look` has something to do."""
        return self._restarts.due

    @property
    def alive(self) -> bool:
        """Whether every worker has been heard of lately."""
        return all(self._restarts.alive(worker.place) for worker in self._workers.running)

    def begin(self) -> None:
        """Every place is to be filled now."""
        self._restarts.begin(monotonic())

    def stop(self) -> None:
        """Fill no place again."""
        self._restarts.stop()

    def fill(self, now: float) -> None:
        """Start a worker for each place that is to have one now."""
        for place in self._restarts.to_start(now):
            self._start(place)

    def look(self, now: float) -> None:
        """Kill who hangs."""
        for place in self._restarts.hung(now):
            hanging = [each for each in self._workers.running if each.place is place]
            silent_s = self._limits.beat_s * self._limits.silent_beats
            self._workers.kill(hanging, f"has been silent for over {silent_s:g} s")

    def take_place(self, place: Place) -> None:
        """In a forked child: what it counts is this place's."""
        for counts in self._counts:
            counts.take(place.index - 1)

    def hear(self, worker: Worker) -> None:
        """Act on what a worker has said."""
        line = worker.line
        assert line is not None
        for message in line.receive():
            worker.place.missed = 0
            self._on_message(worker, line, message)
        if not line.open:
            self._hang_up(worker)

    def lost(self, worker: Worker, status: int) -> None:
        """A worker is gone; `status` as of os.waitstatus_to_exitcode."""
        if worker.line is not None:
            self.hear(worker)  # its last words
        self._hang_up(worker)
        self._switchboard.depart(worker)  # not earlier: now its connections are closed as well
        for counts in self._counts:
            counts.clear(worker.place.index - 1)  # what it had in flight went with it
        if self._ending.begun:
            if not self._ending.lost(status):
                _logger.error("Worker %s ended with %s while draining", worker.name, _how(status))
        elif status == 0:
            _logger.info("Worker %s ended; another takes its place", worker.name)
            self._restarts.ended(worker.place, monotonic())
        else:
            _logger.error("Worker %s ended with %s", worker.name, _how(status))
            self._start_later(worker.place)
        self._settle()

    def _start(self, place: Place) -> None:
        if self._ending.begun:  # given up on, over another place
            return
        try:
            line = self._workers.start(place, lambda ends: self._employer.work(place, ends))
        except OSError as error:
            _logger.error("No process for worker %d: %s", place.index, error.strerror)
            self._start_later(place)
        else:
            self._switchboard.join(line)

    def _start_later(self, place: Place) -> None:
        """A worker's start, or its life, failed: try again after a while, or give up on all."""
        delay_s = self._restarts.failed(place, monotonic())
        if delay_s is None:
            _logger.error("Worker %d does not %s; giving up", place.index, "stay up" if self._restarts.up else "start")
            self._employer.give_up()
        else:
            _logger.info("Worker %d starts again in %g s", place.index, delay_s)

    def _on_message(self, worker: Worker, line: Line, message: Message) -> None:
        match message:
            case ("ready",):
                # One that was about to be ready when the end began changes nothing any more.
                if self._restarts.ready(worker.place) and not self._ending.begun:
                    self._employer.came_up()
                self._settle()
            case ("leaving",):
                worker.leaving = True
                self._settle()
            case _:
                self._switchboard.take(worker, line, message, monotonic())

    def _hang_up(self, worker: Worker) -> None:
        worker.place.ready = False
        if worker.line is not None:
            self._switchboard.leave(worker.line)
        self._workers.hang_up(worker)

    def _settle(self) -> None:
        """See that each queue is read, once the gateway is up."""
        if self._restarts.up and not self._ending.begun:
            self._lending.settle(self._restarts.places, self._workers.running)

    def _lend(self, worker: Worker, index: int) -> bool:
        return worker.line is not None and worker.line.lend(index, self._listeners.own(index - 1))


def _how(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
