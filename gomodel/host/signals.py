"""The signals of a process from its first line to its last.

Decides that no signal but a fault's and Ctrl-Z's ever meets its default action. A loop's own handlers exist only while
the loop runs: before it a container's PID 1 would not even notice SIGTERM, and after it a late second one would turn a
clean end into a death. Knows nothing of what a signal means to a running process; imports nothing that takes time.
"""

import os
import signal
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

# What ends a gateway in good order: from people and supervisors, from those used to nginx, and from an LXC host.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, *([signal.SIGPWR] if hasattr(signal, "SIGPWR") else []))
# Longer than two deliveries of one signal are apart, shorter than it takes a person to send another.
DUPLICATE_S = 0.2
_HANDLED = (*STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# A fault must leave its core, Ctrl-Z stops what runs in a terminal, and the rest harms nobody or cannot be caught.
_LEFT_ALONE = {
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
    *(signal.SIGTSTP, signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL, signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH),
}


class Signals:
    """The signals that mean something, handed to whoever is in charge at the moment; the others are ignored."""

    def __init__(self) -> None:
        self._deliver: Callable[[int], object] = _before_anything_runs
        self._loop: AbstractEventLoop | None = None

    def install(self) -> None:
        """Take over; until something else is called, those to stop end the process with status 0."""
        for number in _HANDLED:
            signal.signal(number, self._handle)
        # Timers, CPU limits, terminals (a log line in the background is no reason to stop), real-time signals: nobody
        # means the gateway, and the default of nearly all of them is its death.
        for number in signal.valid_signals() - _LEFT_ALONE - set(_HANDLED):
            signal.signal(number, signal.SIG_IGN)

    def collect(self, arrived: Callable[[int], object]) -> None:
        """Hand every signal to `arrived`, while nothing waits for one."""
        self._deliver = arrived

    def attach(self, loop: "AbstractEventLoop", deliver: Callable[[int], object]) -> None:
        """Hand every signal to `deliver` in the loop, which it wakes up."""
        self._loop = loop
        with self.held():
            for number in _HANDLED:
                loop.add_signal_handler(number, deliver, number)

    def write_to(self, fd: int) -> None:
        """Write each signal, and SIGCHLD, to `fd` as a byte; for one that waits without a loop.

        The interpreter's own handler writes it. A handler in Python runs only when the interpreter gets around to it,
        which for a signal that comes just before a system call is when that returns.
        """
        self._deliver = _ignore
        signal.signal(signal.SIGCHLD, self._handle)
        signal.set_wakeup_fd(fd, warn_on_full_buffer=False)

    def detach(self) -> None:
        """Hear no more signals: the end has begun and cannot be hurried, or a fork has other plans."""
        self._deliver = _ignore
        if self._loop is None:
            signal.set_wakeup_fd(-1)
            return
        with self.held():
            for number in _HANDLED:
                self._loop.remove_signal_handler(number)
            self.install()
        self._loop = None

    def held(self) -> "_Held":
        """A block of code in which no signal arrives; they are delivered after it."""
        return _Held((*_HANDLED, signal.SIGCHLD))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._deliver(number)


class StopSignals:
    """Which signals to stop are signals of their own; one object hears all that a process gets.

    GNU timeout signals its child and then the child's group, and a terminal signals a group whose leader passes it on:
    one and the same signal arrives twice at once. It must not count as the second one, which cuts streams.
    """

    def __init__(self) -> None:
        self._first = 0
        self._first_at = 0.0

    def counts(self, number: int) -> bool:
        """Whether `number` is not merely the first signal again, less than DUPLICATE_S after it."""
        now = monotonic()
        if not self._first:
            self._first, self._first_at = number, now
            return True
        return number != self._first or now - self._first_at >= DUPLICATE_S


class _Held:
    def __init__(self, numbers: tuple[int, ...]) -> None:
        self._numbers = numbers

    def __enter__(self) -> None:
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)

    def __exit__(self, *_: object) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def _before_anything_runs(number: int) -> None:
    if number in STOPPING:
        # Not SystemExit: half of the imports still to come would be unwound through, and the next signal hits that.
        os._exit(0)


def _ignore(number: int) -> None:
    pass
