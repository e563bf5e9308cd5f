"""Writes a body so that its receiver sees where it ends: by its length, in chunks, or with the connection. Pure.

The counterpart of `framing` (RFC 9112 6.3). A writer turns payload into the bytes that go out and holds whoever sends
to what the head declared: it raises WrongLength rather than write more or less. What is too much would be read as the
beginning of the next message, what is missing would be taken from it. Knows nothing of connections.
"""

from typing import ClassVar, Protocol

# A chunk up to this size is copied into its frame.
_COPIED_BYTES = 4096


class WrongLength(Exception):
    """A body is longer or shorter than its head declared: a bug in whoever sends it."""


class Writer(Protocol):
    """How one body is framed."""

    def write(self, payload: bytes, last: bool) -> bytes:
        """The bytes for the next piece of payload, which may be empty; `last` when the body ends behind it."""


class Sized:
    """A body of a declared number of bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    def write(self, payload: bytes, last: bool) -> bytes:
        """See Writer."""
        self._left = left = self._left - len(payload)
        if left < 0 or (last and left):
            raise WrongLength
        return payload


class Chunked:
    """A body in chunks (RFC 9112 7.1). Chunks that are framed already may go out beside it until it is over."""

    __slots__ = ("_over",)
    FIELD: ClassVar[bytes] = b"Transfer-Encoding: chunked\r\n"  # declares it

    def __init__(self) -> None:
        self._over = False

    def write(self, payload: bytes, last: bool) -> bytes:
        """See Writer; an empty piece is no chunk, for one of size 0 ends the body."""
        if self._over:
            raise WrongLength
        if not last:
            return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""
        self._over = True
        return b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload) if payload else b"0\r\n\r\n"

    def parts(self, payload: bytes) -> tuple[bytes, ...]:
        """One chunk, in parts for one write where it is large: nothing of it is copied."""
        if len(payload) < _COPIED_BYTES:
            return (self.write(payload, False),)
        if self._over:
            raise WrongLength
        return b"%x\r\n" % len(payload), payload, b"\r\n"

    def around(self, pieces: list[memoryview], size: int) -> list[bytes | memoryview]:
        """One chunk of several pieces, of `size` bytes together; none where that is 0, which would be the last one."""
        if self._over:
            raise WrongLength
        if not size:
            return []
        return [b"%x\r\n" % size, *pieces, b"\r\n"]


class UntilClose:
    """A body that ends with its connection (HTTP/1.0); broken off, it needs an end that cannot be taken for its own."""

    __slots__ = ()

    def write(self, payload: bytes, last: bool) -> bytes:
        """See Writer."""
        return payload
