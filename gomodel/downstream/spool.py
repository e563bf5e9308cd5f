"""A file on disk in which a request body waits that is too large for memory; it comes back with the prefix cut.

Decides what a full disk means. The file has no name, so nothing is left of it whatever becomes of the process. Knows
nothing of what is in it.
"""

import logging
from tempfile import TemporaryFile
from typing import IO

from ..errors import Overloaded

_logger = logging.getLogger("gomodel")

_PIECE_BYTES = 256 << 10


class Spool:
    """Write, `cut`, then read as often as needed."""

    __slots__ = ("_cut_at", "_cut_end", "_file", "_instead", "_next", "_size")

    def __init__(self) -> None:
        """Opens no file yet."""
        self._file: IO[bytes] | None = None
        self._size = 0
        self._cut_at = 0
        self._cut_end = 0
        self._instead = b""
        self._next = 0

    def write(self, piece: bytes | bytearray) -> None:
        """Append. Raises Overloaded when the disk takes no more."""
        try:
            if self._file is None:
                self._file = TemporaryFile()  # noqa: SIM115 - closed by close
            self._file.write(piece)
            self._file.flush()  # else a full disk would be found out by whoever reads, when it is too late for a 503
        except OSError as exc:
            size = self._size + len(piece)
            _logger.warning("An upload of %d bytes or more cannot wait on disk: %s", size, exc.strerror)
            raise Overloaded(
                "The gateway has no room on disk for this upload.", code="spool_full", retry_after_s=5
            ) from exc
        self._size += len(piece)

    def peek(self, at: int, size: int) -> bytes:
        """Bytes as they were written."""
        if self._file is None:
            return b""
        self._file.seek(at)
        return self._file.read(size)

    def cut(self, at: int, size: int, instead: bytes) -> None:
        """Leave out `size` bytes at offset `at` when reading, or read others in their place."""
        self._instead = instead
        self._cut_at = at
        self._cut_end = at + size

    def read(self) -> bytes:
        """The next piece, b"" at the end."""
        if self._next == self._cut_at < self._cut_end:
            self._next = self._cut_end
            if self._instead:
                return self._instead
        stop = self._cut_at if self._next < self._cut_at else self._size
        if self._file is None or self._next >= stop:
            return b""
        self._file.seek(self._next)
        piece = self._file.read(min(_PIECE_BYTES, stop - self._next))
        self._next += len(piece)
        return piece

    def rewind(self) -> None:
        """Read once more from the start."""
        self._next = 0

    def close(self) -> None:
        """Free the file."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                pass  # it tried once more to write what the disk did not take, and is closed all the same
