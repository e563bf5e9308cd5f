"""Header fields of an instance's response: which go to the client, as raw bytes, and what the gateway reads of them.

Decides what is dropped (RFC 9110 7.6.1, contract section 7). Fields that cross keep their order, case, duplicates and
every byte of their value. Pure; knows nothing of bodies, and not of what the gateway adds.
"""

from collections.abc import Sequence

from .hop_by_hop import HOP_BY_HOP, PROTECTED_OPTIONS, connection_options
from .locations import LOCATING_FIELDS

# The gateway writes its own.
NEVER_DOWNSTREAM = frozenset({b"x-request-id", b"x-gomodel-provider"})

# What is done with a field, by its name.
(
    _PLAIN,
    _DROP,
    _CONTENT_LENGTH,
    _CONTENT_TYPE,
    _DATE,
    _CACHE_CONTROL,
    _ACCEL_BUFFERING,
    _CONTENT_ENCODING,
    _LOCATING,
    _CONNECTION,
    _TRANSFER_ENCODING,
) = range(11)
_KINDS: dict[bytes, int] = dict.fromkeys(HOP_BY_HOP | NEVER_DOWNSTREAM, _DROP) | {
    b"content-length": _CONTENT_LENGTH,
    b"content-type": _CONTENT_TYPE,
    b"date": _DATE,
    b"cache-control": _CACHE_CONTROL,
    b"x-accel-buffering": _ACCEL_BUFFERING,
    b"content-encoding": _CONTENT_ENCODING,
    **dict.fromkeys(LOCATING_FIELDS, _LOCATING),
    b"connection": _CONNECTION,
    b"transfer-encoding": _TRANSFER_ENCODING,
}


class ResponseFields:
    """The facts of one upstream response's fields, and those that go to the client; one pass over the raw pairs."""

    __slots__ = (
        "_length_at",
        "_length_name",
        "_rate_limits",
        "_written_around",
        "accel",
        "cache",
        "codings",
        "dated",
        "encoded",
        "event_stream",
        "length",
        "lengths",
        "lines",
        "locating",
        "written",
    )

    def __init__(self, raw_headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.lengths: list[bytes] = []
        self.length = -1  # as a number, once the head is believed; -1 without one
        self.written = b""  # the whole head but for what the gateway adds, once `write_once` was called
        self._written_around = b"", b""
        self.codings: list[bytes] = []
        self._length_at = -1
        self._length_name = b""
        self._rate_limits: bool | None = None
        self.event_stream = False
        self.encoded = False
        self.dated = False
        self.cache = False
        self.accel = False
        self.locating = False  # a field holds an address, which may be the instance's own
        options: list[bytes] = []
        lines: list[bytes] = []
        kinds = _KINDS
        for name, value in raw_headers:
            kind = kinds.get(name.lower(), _PLAIN)
            if not kind and name[-1] == 0x20:
                # The parser lets spaces stand after the names it knows and heeds them; they end here (RFC 9112 5.1).
                name = name.rstrip(b" ")  # noqa: PLW2901
                kind = kinds.get(name.lower(), _PLAIN)
            if kind:
                if kind == _CONTENT_LENGTH:
                    self.lengths.append(value)
                    self._length_at = len(lines)
                    self._length_name = name
                elif kind == _CONTENT_TYPE:
                    self.event_stream = value[:17].lower() == b"text/event-stream"
                elif kind == _DATE:
                    self.dated = True
                elif kind == _CACHE_CONTROL:
                    self.cache = True
                elif kind == _ACCEL_BUFFERING:
                    self.accel = True
                elif kind == _CONTENT_ENCODING:
                    self.encoded = True
                elif kind == _LOCATING:
                    self.locating = True
                else:
                    if kind == _CONNECTION:
                        options.append(value)
                    elif kind == _TRANSFER_ENCODING:
                        self.codings.append(value)
                    continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if options:
            named = tuple(option + b":" for option in connection_options(options) - PROTECTED_OPTIONS)
            lines = [line for line in lines if not line.lower().startswith(named)]
            self._length_at = -1
        self.lines = lines

    @property
    def rate_limits(self) -> bool:
        """Whether any of the lines says something of limits; looked for once, where somebody asks."""
        if self._rate_limits is None:
            self._rate_limits = any(line[:12].lower() == b"x-ratelimit-" for line in self.lines)
        return self._rate_limits

    @property
    def may_repeat(self) -> bool:
        """Whether `repeat` may be called: the one thing that differs in the same head another time is its length."""
        return len(self.lengths) == 1 and self._length_at >= 0

    def write_once(self, status: bytes) -> None:
        """Write the head as the client gets it behind the `status` line, where nothing in it needs another look."""
        if not (self.locating or self.event_stream):
            at, lines = self._length_at, self.lines
            before = b"%b%b%b: " % (status, b"".join(lines[:at]), self._length_name)
            self._written_around = before, b"\r\n" + b"".join(lines[at + 1 :])
            self.written = b"%b%d%b" % (before, self.length, self._written_around[1])

    def repeat(self, length: int) -> None:
        """Make these the fields of the same head with another Content-Length."""
        self.length = length
        self.lengths[0] = digits = b"%d" % length
        self.lines[self._length_at] = b"%b: %b\r\n" % (self._length_name, digits)
        if self.written:
            before, after = self._written_around
            self.written = b"%b%b%b" % (before, digits, after)
