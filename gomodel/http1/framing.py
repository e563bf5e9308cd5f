"""Where the body of a message ends: by its length, by its chunks, or with the connection (RFC 9112 6.3).

Decides which of the bytes that arrive are payload. Pure. aiohttp's parser reads the heads; its reader object and its
three calls per chunk cost more than moving a chunk does, and it takes the last trailer of a request for a field of the
next one.

Each kind of body has `feed(data)`, which returns the payload in `data`, and says by attributes what it came upon:
`complete`, the body is over; `rest`, the bytes that were not looked at, which stand behind a complete body or are for
the next `feed`; `broken`, its framing is invalid, and payload that stood before the fault has been returned. `between`
is true where the next byte begins a chunk.

Those that a client may send have `pieces(data)` as well: the payload in a read, not copied, or None where `feed` has to
look at it: the body may end in it, or there is more to it than payload and plain framing.
"""

import re
from enum import Enum
from typing import Protocol

# Of a size line or a trailer. vLLM sends neither extensions nor trailers; whoever sends more than this means harm.
LINE_LIMIT_BYTES = 8192
TRAILERS_LIMIT_BYTES = 65536
# Lines that a client's bytes are read for before others have their turn, a few milliseconds' worth. An instance is
# trusted not to send chunks of one byte by the thousand.
LINES_PER_TURN = 1000
# More than any body, and far from what overflows a counter in whoever comes behind us.
CHUNK_LIMIT_BYTES = 1 << 60

_HEX = frozenset(b"0123456789abcdefABCDEF")
_CR, _LF = b"\r\n"
_control = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search
# A size line, and one behind the end of a chunk or with that the end of a read. No chunk of size 0, which is the last.
_size_line = re.compile(rb"(0{0,16}[1-9a-fA-F][0-9a-fA-F]{0,14})\r\n").match
_next_size_line = re.compile(rb"\r\n(?:(0{0,16}[1-9a-fA-F][0-9a-fA-F]{0,14})\r\n|\Z)").match
# Into so many pieces a read may be cut; IOV_MAX is 1024.
_PIECES = 64
# Bytes of a chunk, frame included, from which on its size has three digits.
_THREE_DIGITS = 256 + 7


class Body(Protocol):
    """See the module."""

    between: bool

    @property
    def complete(self) -> bool: ...
    @property
    def rest(self) -> bytes: ...
    @property
    def broken(self) -> bool: ...

    def feed(self, data: bytes) -> bytes: ...


class Sized:
    """A body of a known number of bytes, at least one."""

    __slots__ = ("_left", "complete", "rest")
    between = False
    broken = False

    def __init__(self, length: int) -> None:
        self._left = length
        self.complete = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """See the module."""
        self._left -= len(data)
        if self._left > 0:
            return data
        self.complete = True
        if self._left == 0:
            return data
        self.rest = data[self._left :]
        return data[: self._left]

    def pieces(self, data: memoryview) -> list[memoryview] | None:
        """See the module."""
        if len(data) >= self._left:
            return None
        self._left -= len(data)
        return [data]


class UntilClose:
    """A body that ends with its connection."""

    __slots__ = ()
    between = False
    complete = False
    broken = False
    rest = b""

    def feed(self, data: bytes) -> bytes:
        """See the module."""
        return data


class _Expected(Enum):
    SIZE = 1
    DATA = 2
    DATA_END = 3
    TRAILER = 4


class Chunked:
    """A body in chunks (RFC 9112 7.1); extensions and trailers are passed over, and a line ends in CRLF.

    `strict` is for what a client sends: no blank behind a size, no control character in a line, and `feed` stops after
    LINES_PER_TURN lines.
    """

    __slots__ = ("_expected", "_left", "_line", "_strict", "_trailers_bytes", "between", "broken", "complete", "rest")

    def __init__(self, *, strict: bool = False) -> None:
        self._strict = strict
        self._expected = _Expected.SIZE
        self._left = 0  # payload bytes of the current chunk that have not arrived
        self._line = b""  # the beginning of a line whose end has not arrived
        self._trailers_bytes = 0
        self.between = True
        self.complete = self.broken = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """See the module."""
        pieces: list[bytes] = []
        if self._line:
            data, self._line = self._line + data, b""
        at, size = 0, len(data)
        lines = LINES_PER_TURN if self._strict else size
        while at < size and lines and not (self.complete or self.broken):
            if self._expected is _Expected.DATA:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._expected = _Expected.DATA_END
                continue
            lines -= 1
            end = data.find(b"\n", at) + 1
            line = data[at : end or size]
            if end:
                at = end
                self.broken = not line.endswith(b"\r\n") or not self._take(line[:-2])
            else:
                at = size
                self._line = line
                self.broken = not self._may_go_on(line)
        self.between = self._expected is _Expected.SIZE and not self._line
        self.rest = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pieces(self, data: memoryview) -> list[memoryview] | None:
        """See the module."""
        if self._line or self._expected is _Expected.TRAILER:
            return None
        pieces: list[memoryview] = []
        expected, left = self._expected, self._left
        at, size = 0, len(data)
        while at < size:
            if expected is not _Expected.DATA:
                line = (_size_line if expected is _Expected.SIZE else _next_size_line)(data, at)
                if line is None:
                    return None
                at = line.end()
                if line[1] is None:
                    expected = _Expected.SIZE
                    break
                if len(pieces) == _PIECES:
                    return None
                expected, left = _Expected.DATA, int(line[1], 16)
                continue
            piece = data[at : at + left]
            pieces.append(piece)
            at += len(piece)
            left -= len(piece)
            if not left:
                expected = _Expected.DATA_END
        self._expected, self._left = expected, left
        self.between = expected is _Expected.SIZE
        return pieces

    def _take(self, line: bytes) -> bool:
        """Go on behind a line; whether it may stand here."""
        if len(line) > LINE_LIMIT_BYTES or b"\r" in line or (self._strict and _control(line)):
            return False
        if self._expected is _Expected.SIZE:
            digits, extended, _ = line.partition(b";")
            if extended or not self._strict:
                digits = digits.rstrip(b" \t")
            if not digits or not _HEX.issuperset(digits):
                return False
            self._left = int(digits, 16)
            self._expected = _Expected.DATA if self._left else _Expected.TRAILER
            return self._left < CHUNK_LIMIT_BYTES
        if self._expected is _Expected.DATA_END:
            self._expected = _Expected.SIZE
            return not line
        self._trailers_bytes += len(line)
        self.complete = not line
        return self._trailers_bytes <= TRAILERS_LIMIT_BYTES

    def _may_go_on(self, begun: bytes) -> bool:
        """Whether what has arrived of a line can become one; a fault should show before the limit of silence does."""
        if len(begun) - begun.endswith(b"\r") > LINE_LIMIT_BYTES or b"\r" in begun[:-1]:
            return False
        if self._expected is _Expected.SIZE:
            return _HEX.issuperset(begun.partition(b";")[0].rstrip(b" \t\r"))
        return self._expected is not _Expected.DATA_END or begun == b"\r"


def whole_chunk(data: bytes) -> int:
    """Where the payload begins in bytes that are one chunk and nothing else, as vLLM sends each event; 0 otherwise.

    For where a body is `between` chunks. Only for 16 to 4095 bytes, as events have: every operation here is paid for
    by every token.
    """
    line = SIZE_LINES.get(len(data))
    if line is not None and data.startswith(line) and data.endswith(b"\r\n"):
        return len(line)
    return _look_for_chunk(data)


def _look_for_chunk(data: bytes) -> int:
    """It parses no size: it writes the one that would be right and compares, in either case, since the Rust front end's
    server writes upper case. What it finds is known by its length the next time.
    """
    size = len(data) - 6 if len(data) < _THREE_DIGITS else len(data) - 7
    if not 16 <= size <= 4095 or data[-1] != _LF or data[-2] != _CR:
        return 0
    start = len(data) - size - 2
    line = b"%x\r\n" % size
    if data[:start] not in (line, line.upper()):
        return 0
    SIZE_LINES[len(data)] = data[:start]
    return start


# How the size line was written of the last whole chunk of each length, its frame included.
SIZE_LINES: dict[int, bytes] = {}
