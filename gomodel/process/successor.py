"""SIGUSR2: the installed release, started anew on the sockets of this one, until it serves or has failed.

Decides how it is started (the same command line and environment, in a fresh interpreter), how long it may take, and
what the log says where it does not come about: then nothing has changed. Knows nothing of how this process ends. Waits
for nothing; whoever reaps the process says so.
"""

import logging
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from time import monotonic
from typing import Any

from ..config.settings import Config
from ..host.listeners import Listener
from .elders import Elders
from .handover import Between, environment, offer

_logger = logging.getLogger("gomodel")

# A start takes well under a second, and some seconds on a busy machine with many workers.
LIMIT_S = 60.0
_AGAIN_S = 0.1
_NEVER = float("inf")


class Successor:
    """At most one process at a time; times are time.monotonic."""

    def __init__(self) -> None:
        self.line: Between | None = None  # while there is one
        self._busy = False
        self.due = _NEVER
        self.serves = False  # it has taken over
        self.pid = 0
        self._why = ""

    def may_start(self, *, ending: bool, upgradable: bool = True) -> bool:
        """Whether SIGUSR2 can be followed, by `start`; says why not."""
        if os.getpid() == 1:
            _logger.warning(
                "SIGUSR2 changes nothing: this is a container's process 1, whose end is the container's; "
                "whoever runs the container replaces it by one of the new release"
            )
        elif not upgradable:
            _logger.warning("SIGUSR2 changes nothing: the demonstration has no successor")
        elif ending or self.serves:
            _logger.warning("SIGUSR2 comes too late: the process is ending")
        elif self._busy:
            _logger.warning("SIGUSR2 changes nothing: a new release is being started already")
        else:
            self._busy = True
            return True
        return False

    def start(self, listeners: list[Listener], config: Config, *, activated: bool, elders: Elders) -> Between | None:
        """Start it; the line to it, or None, logged, where no process can be had. For the time of a fork this waits.

        `elders`: the releases before this one.
        """
        try:
            ours, theirs = socket.socketpair()
            with theirs, elders.handed_on() as known:
                self.line = Between(ours)
                offered = offer(theirs.fileno(), listeners, config, activated=activated, elders=known)
                inherited = [theirs.fileno(), *(each.sock.fileno() for each in listeners), *(fd for fd, _ in known)]
                process = subprocess.Popen(
                    [sys.executable, *sys.orig_argv[1:]],
                    env=environment(os.environ, offered),
                    pass_fds=inherited,
                )
        except OSError as error:  # no descriptor is left, perhaps
            self._failed(f"cannot be started: {error.strerror}")
        else:
            self.pid = process.pid
            process.returncode = 0  # who reaps it is not this object
            self.due = monotonic() + LIMIT_S
            _logger.info("SIGUSR2: process %d of the installed release is starting", self.pid)
        return self.line

    def take_over(self) -> bool:
        """It serves; whether it may: one that was told to end before that does not."""
        if self._why or self.line is None:
            return False
        self.serves = True
        self.due = _NEVER
        _logger.info("Process %d serves; what runs here runs to its end", self.pid)
        return True

    def expire(self, now: float) -> None:
        """Kill it where it has not served in time, and has said nothing that is still to be read."""
        if self.line is not None and not self.serves and self.due <= now:
            said = select.poll()
            said.register(self.line, select.POLLIN)
            if said.poll(0):
                self.due = now + _AGAIN_S  # it was this process that stood still
                return
            self.due = _NEVER
            self._why = f"did not serve within {LIMIT_S:g} s and was killed"
            self._signal(signal.SIGKILL)

    def cancel(self) -> None:
        """This process ends before it has taken over, and so shall it."""
        if self.line is not None and not self.serves:
            self._why = "is told to end as this one is"
            self.due = _NEVER
            self._signal(signal.SIGTERM)

    def is_it(self, pid: int) -> bool:
        """Whether this is its process."""
        return pid != 0 and pid == self.pid

    def ended(self, pid: int, status: int) -> bool:
        """A process is gone, with this status as of waitpid; whether it was the one, and failed."""
        if not self.is_it(pid):
            return False
        self.pid = 0
        code = os.waitstatus_to_exitcode(status)
        how = f"status {code}" if code >= 0 else signal.Signals(-code).name
        if self.serves:
            _logger.error(
                "The process that took over ended with %s; what runs here runs to its end, or to the drain limit once "
                "process %d gets SIGTERM",
                how,
                os.getpid(),
            )
            return False
        self._failed(self._why or f"ended with {how} before it served; what it said of it is above")
        return True

    def send(self, *message: Any) -> None:
        """Tell it something, while it is there."""
        if self.line is not None:
            self.line.send(*message)

    def finish(self, *message: Any) -> None:
        """Say the last thing to it, where it has taken over."""
        if self.line is not None and self.serves and self.line.open:
            self.line.finish(*message)

    def _failed(self, why: str) -> None:
        self._why = ""
        self._busy = False
        self.due = _NEVER
        if self.line is not None:
            self.line.close()
            self.line = None
        _logger.error("The new release %s; this one goes on serving", why)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self.pid:
                os.kill(self.pid, number)
