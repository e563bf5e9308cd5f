"""Reads the files that a configuration names: never beyond a limit, never waiting longer than a moment.

Such a path may lead to a pipe that nobody writes to (password managers mount secrets as pipes), to a device without
an end or to gigabytes. Decides how long is waited and how much is read; what is wrong is an OSError, whatever it is.
"""

import errno
import os
import select
import stat
from collections.abc import Iterable
from time import monotonic

# A writer of a pipe has it ready or asks a person first, which no start and no reload can wait for. Under a second for
# all files together, so that whoever sent SIGHUP has the answer within one.
PATIENCE_S = 0.8


# What tells a file from another one, or from itself before it was written; None for one that is not there.
Mark = tuple[int, int, int, int] | None


def marks(paths: Iterable[str]) -> dict[str, Mark]:
    """What stands at these paths now, as `Files.seen` says it."""
    found: dict[str, Mark] = {}
    for path in paths:
        try:
            found[path] = _mark(os.stat(path))
        except (OSError, ValueError):  # ValueError: a path that holds NUL
            found[path] = None
    return found


def _mark(status: os.stat_result) -> Mark:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class Files:
    """What is read for one configuration, once or several times, with one patience for all of it."""

    def __init__(self, patience_s: float | None = None) -> None:
        self._left_s = PATIENCE_S if patience_s is None else patience_s
        self._streams: dict[str, bytes] = {}
        self._seen: dict[str, Mark] = {}

    @property
    def seen(self) -> dict[str, Mark]:
        """The files that were read, by absolute path, as they were when they were read last; pipes are none."""
        return self._seen.copy()

    def read(self, path: str | os.PathLike[str], limit_bytes: int) -> bytes:
        """All that is in the file; a pipe or device is read only once, since its end is its writer's word.

        Raises OSError, whose `strerror` says what is wrong also where that is the size or the waiting.
        """
        name = os.fspath(path)
        if name in self._streams:
            return self._streams[name]
        self._seen |= marks([os.path.abspath(name)])  # before it is read: a change meanwhile is one from this
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            data = self._read(fd, limit_bytes)
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
        finally:
            os.close(fd)
        if not regular:
            self._streams[name] = data
            del self._seen[os.path.abspath(name)]
        return data

    def _read(self, fd: int, limit_bytes: int) -> bytes:
        # A pipe without a writer reads as ended, but is not readable until there was one.
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        data = b""
        while len(data) <= limit_bytes:
            began = monotonic()
            readable = poll.poll(self._left_s * 1000)
            self._left_s = max(0.0, self._left_s - (monotonic() - began))
            if not readable:
                raise OSError(errno.ETIMEDOUT, "nothing is written to this pipe or device")
            try:
                piece = os.read(fd, limit_bytes + 1 - len(data))
            except BlockingIOError:
                continue
            if not piece:
                return data
            data += piece
        raise OSError(errno.EFBIG, f"it holds more than {limit_bytes} bytes")
