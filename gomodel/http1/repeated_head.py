"""A head that came before on the same connection, recognised by its bytes.

Clients and instances send the same head again and again; only the length of the body differs, and for an instance the
date, once a second. What a strict parser made of a head holds for the same bytes the next time, so a head that is
equal but for the digits of its Content-Length need not be parsed again, nor its fields be looked at. That is a third
of what a request costs. Decides when two heads are equal; pure, and knows nothing of what was made of them.
"""

import re

# A length that is longer, begins with a zero or is 0 itself is left to the parser.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([1-9][0-9]{0,14})\r\n", re.IGNORECASE)
# What is kept for an idle connection must stay small; the heads of SDKs have about 1 KB.
LIMIT_BYTES = 2048


class RepeatedHead:
    """One head, cut at the digits of its Content-Length. `length` is that of the last match."""

    __slots__ = ("_after", "_before", "_last", "_last_bytes", "length")

    def __init__(self, before: bytes, length: int, after: bytes) -> None:
        self._before = before
        self._after = after
        self.length = length
        self._last = self.with_length(length)
        self._last_bytes = len(self._last)

    def with_length(self, length: int) -> bytes:
        """The head with this Content-Length."""
        return b"%b%d%b" % (self._before, length, self._after)

    def match(self, data: bytes) -> int:
        """Where the body begins in `data` if this head stands at its beginning, else 0."""
        if data.startswith(self._last):  # with the same length, too
            return self._last_bytes
        before, after = self._before, self._after
        if not data.startswith(before):
            return 0
        start = len(before)
        end = data.find(b"\r", start, start + 16)
        digits = data[start:end]
        # isdigit of bytes means 0 to 9; int() alone would take signs, spaces and underscores.
        if end < 0 or not digits.isdigit() or digits[0] == _ZERO or not data.startswith(after, end):
            return 0
        self.length = int(digits)
        self._last_bytes = end = end + len(after)
        self._last = data[:end]
        return end


_ZERO = 0x30


def repeatable(data: bytes, head_bytes: int) -> RepeatedHead | None:
    """The head in the first `head_bytes` of `data`, which a strict parser accepted; None when there is none to know."""
    if head_bytes > LIMIT_BYTES:
        return None
    found = _LENGTH.search(data, 0, head_bytes - 2)
    if found is None:
        return None
    start, end = found.span(1)
    return RepeatedHead(data[:start], int(data[start:end]), data[end:head_bytes])
