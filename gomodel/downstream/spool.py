"""Holds what had to be read before the selector was known: in memory while it is small, on disk beyond.

Decides where the bytes wait; they come back out with the selector's prefix cut. Knows nothing of forms or routes.
"""

import logging
from tempfile import SpooledTemporaryFile
from typing import Protocol

from ..errors import Overloaded

_logger = logging.getLogger("gomodel")

# An audio file before the `model` field must not be held in memory, by many clients at once (contract section 4).
IN_MEMORY_BYTES = 256 << 10
_PIECE_BYTES = 256 << 10


class Source(Protocol):
    """Brings a body piece by piece; b"" at the end."""

    async def read(self) -> bytes: ...


class Spool:
    """Write, `cut`, then read as a `Source` that goes on with the rest of the body."""

    def __init__(self, rest: Source) -> None:
        self._file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - closed by close
        self._rest = rest
        self._size = 0
        self._cut_at = 0
        self._cut_end = 0
        self._read = 0

    def write(self, piece: bytes | bytearray) -> None:
        """Append. Raises Overloaded when the disk takes no more."""
        try:
            self._file.write(piece)
            self._file.flush()  # else a full disk would be found out by whoever reads, when it is too late for a 503
        except OSError as exc:
            _logger.warning("An upload of more than %d bytes cannot wait on disk: %s", self._size, exc.strerror)
            raise Overloaded(
                "The gateway has no room on disk for this upload.", code="spool_full", retry_after_s=5
            ) from exc
        self._size += len(piece)

    def cut(self, at: int, size: int) -> None:
        """Leave out `size` bytes at offset `at` when reading."""
        self._cut_at = at
        self._cut_end = at + size

    @property
    def in_memory(self) -> bool:
        """Whether it is small enough to be taken whole."""
        return self._size <= IN_MEMORY_BYTES

    def whole(self) -> bytes:
        """All that was written, without what was cut."""
        self._file.seek(0)
        data = self._file.read()
        return data[: self._cut_at] + data[self._cut_end :]

    async def read(self) -> bytes:
        """The next piece of what was written, then of the rest."""
        while self._read < self._size:
            if self._read == self._cut_at:
                self._read = max(self._read, self._cut_end)
            stop = self._cut_at if self._read < self._cut_at else self._size
            self._file.seek(self._read)
            piece = self._file.read(min(_PIECE_BYTES, stop - self._read))
            self._read += len(piece)
            if piece:
                return piece
        return await self._rest.read()

    def rewind(self) -> None:
        """Read once more from the start."""
        self._read = 0

    def close(self) -> None:
        """Free the memory or the file."""
        try:
            self._file.close()
        except OSError:
            pass  # it tried once more to write what the disk did not take, and is closed all the same
