"""Sums of bodies (CRC-32), fed as they pass: plain, with what was cut put back, and through the framing around them.

Knows nothing of connections (`taps`) and of what is compared (`digest`).
"""

from zlib import crc32

from ..http1.framing import Body


class Sum:
    """Of the bytes that were fed to it."""

    __slots__ = ("complete", "crc")

    def __init__(self) -> None:
        self.crc = 0
        self.complete = False

    def feed(self, data: bytes | memoryview) -> None:
        """More of them."""
        self.crc = crc32(data, self.crc)


class Restored(Sum):
    """Of a body that goes out, with what was cut out of it put back in its place."""

    __slots__ = ("_before", "_instead", "_taken")

    def __init__(self, at: int, taken: bytes, instead: bytes) -> None:
        """`taken` stood at offset `at` of what came in, and `instead` goes out there."""
        super().__init__()
        self._before = at
        self._taken = taken
        self._instead = instead

    def feed(self, data: bytes | memoryview) -> None:
        """See Sum."""
        left = memoryview(data)
        if self._before:
            super().feed(left[: self._before])
            left, self._before = left[self._before :], max(0, self._before - len(left))
            if self._before:
                return
        if self._taken:
            super().feed(self._taken)
            self._taken = b""
        if self._instead and left:
            size = min(len(left), len(self._instead))
            if left[:size] != self._instead[:size]:
                super().feed(b"another model")
            left, self._instead = left[size:], self._instead[size:]
        super().feed(left)


class Framed:
    """Feeds the payload of a body to a sum."""

    __slots__ = ("_body", "_sum")

    def __init__(self, body: Body, into: Sum) -> None:
        self._body = body
        self._sum = into

    def feed(self, data: bytes) -> None:
        """Bytes as they go out."""
        self._sum.feed(self._body.feed(data))
