"""The worker processes there are, and the lines to them.

Decides what a child must not inherit of its parent and in which order a process that is gone is taken leave of: its
last words, its line, its exit status. Knows nothing of why workers are started and what is said.
"""

import logging
import os
import selectors
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from ..host.signals import Signals
from .fork import fork
from .orders import Line
from .restarts import Place

_logger = logging.getLogger("gomodel")


class Ends(NamedTuple):
    """A worker's ends: for messages, and for sockets (`orders`)."""

    orders: socket.socket
    sockets: socket.socket


class Worker:
    """A worker process from its fork until it is reaped; `line` is None once it has closed its end."""

    def __init__(self, place: Place, pid: int, line: Line) -> None:
        self.place = place
        self.pid = pid
        self.line: Line | None = line
        self.leaving = False  # it was told, alone, to end, and goes on until another reads its queue
        self.killed = False

    @property
    def name(self) -> str:
        """The worker's name in the log."""
        return f"{self.place.index}-{self.pid}"

    @property
    def heard(self) -> bool:
        """Whether it can be told something."""
        return self.line is not None

    def send(self, *message: object) -> None:
        """Tell it something, while it listens."""
        if self.line is not None:
            self.line.send(*message)


class Workers:
    """All worker processes of this parent. Their lines are registered with `selector`, with the worker as data."""

    def __init__(self, signals: Signals, selector: selectors.BaseSelector) -> None:
        self.running: list[Worker] = []
        self._signals = signals
        self._selector = selector

    def start(self, place: Place, child: Callable[[Ends], int]) -> Line:
        """Fork a process that runs `child` with its ends of a line, and ends with what that returns; our end.

        Raises OSError.
        """
        ours, orders = socket.socketpair()
        sockets_ours, sockets = socket.socketpair(type=socket.SOCK_DGRAM)
        line = Line(ours, sockets_ours)

        def run() -> int:
            line.close()
            return child(Ends(orders, sockets))

        try:
            worker = Worker(place, fork(self._signals, run), line)
        except OSError:
            line.close()
            raise
        finally:
            orders.close()
            sockets.close()
        self.running.append(worker)
        self._selector.register(line, selectors.EVENT_READ, worker)
        return line

    def order(self, *order: object) -> None:
        """Send an order to all."""
        for worker in self.running:
            if worker.line is not None:
                worker.line.send(*order)

    def watch(self) -> None:
        """Let the selector tell of what can be read, and written where something waits."""
        for worker in self.running:
            if worker.line is not None:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.line.waiting else 0)
                self._selector.modify(worker.line, events, worker)

    def hang_up(self, worker: Worker) -> None:
        """Close the line to a worker."""
        if worker.line is not None:
            self._selector.unregister(worker.line)
            worker.line.close()
            worker.line = None

    def reaped(self) -> Iterator[tuple[int, Worker | None, int]]:
        """Every child that is gone, its worker, which is none of `running` any more, and its status as of waitpid.

        None is no worker: a release that was being started, or an orphan that PID 1 inherits.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = next((each for each in self.running if each.pid == pid), None)
            if worker is not None:
                self.running.remove(worker)
            yield pid, worker, status

    def kill(self, workers: Iterable[Worker], why: str) -> None:
        """Kill each of `workers`, once."""
        for worker in workers:
            if not worker.killed:
                worker.killed = True
                _logger.error("Worker %s %s and is killed", worker.name, why)
                os.kill(worker.pid, signal.SIGKILL)

    def release(self) -> None:
        """In a child: forget them all, without a word to them."""
        for worker in self.running:
            if worker.line is not None:
                worker.line.close()
