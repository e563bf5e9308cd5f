"""The releases before this one that still run, as processes: how one is told to end when nothing passes it on any more.

A release tells the one before it by their line, and that one passes it on. Where one in the middle was killed, those
before it hear nothing. They are known by descriptors of their processes (pidfd), which are handed on from release to
release and never mean another process; SIGTERM means to them what the order would. Knows nothing of loops.
"""

import logging
import os
import select
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

_logger = logging.getLogger("gomodel")

# A second signal ends a process at once; another than the first, since one that waits is not queued twice.
_ORDERS = {"drain": (signal.SIGTERM,), "abort": (signal.SIGTERM, signal.SIGINT)}


class Elders:
    """`known`: their descriptors, each with the process's number, the newest first. `forget` those that are over."""

    def __init__(self, known: Iterable[tuple[int, int]] = ()) -> None:
        """`known` becomes this object's."""
        self.known = dict(known)
        self._next = next(iter(self.known.values()), 0)  # the one just before

    @property
    def running(self) -> list[int]:
        """The numbers of those that have not ended."""
        over = select.poll()
        for fd in self.known:
            over.register(fd, select.POLLIN)
        ended = {fd for fd, _ in over.poll(0)}
        return [pid for fd, pid in self.known.items() if fd not in ended]

    def lost(self) -> None:
        """The line to the one just before is lost; say whom that leaves, since in good order it ends after them."""
        left = [pid for pid in self.running if pid != self._next]
        if left:
            _logger.warning(
                "The release before this one is gone, and what it took over from still runs (process %s): told to end "
                "with this one; what is counted there from now on is lost",
                ", ".join(map(str, left)),
            )

    def order(self, order: str) -> None:
        """Tell the newest that runs to end, "drain" or "abort"; it tells those before it."""
        newest = next(iter(self.running), None)
        for fd, pid in self.known.items():
            if pid == newest:
                for number in _ORDERS[order]:
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(fd, number)

    def forget(self, fd: int) -> None:
        """It has ended."""
        if self.known.pop(fd, None) is not None:
            os.close(fd)

    def close(self) -> None:
        """Forget all of them."""
        for fd in [*self.known]:
            self.forget(fd)

    @contextmanager
    def handed_on(self) -> Iterator[list[tuple[int, int]]]:
        """This process and those before it, for one that inherits the descriptors; none where the kernel has none."""
        found = []
        try:
            with suppress(OSError):
                found.append((os.pidfd_open(os.getpid()), os.getpid()))
            for fd, pid in tuple(self.known.items()):
                with suppress(OSError):  # it ends at this moment
                    found.append((os.dup(fd), pid))
            yield found
        finally:
            for fd, _ in found:
                os.close(fd)
