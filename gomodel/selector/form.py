"""Where the field named `model` of a multipart/form-data body stands, found while the body arrives.

Decides what is a part and which part is the field (RFC 2046 section 5.1, RFC 7578 section 4; where they leave a choice,
as vLLM's form parser reads it). Holds a small window, never a file: the bytes are the caller's to keep or to pass on.
Knows nothing of HTTP, of instances, or of JSON.

Like the scan of a JSON body it works in turns: parts and what looks like a delimiter cost a step of Python each, and
after so many it gives way. python-multipart, vLLM's own parser, passes over a file just as fast but cannot be stopped
inside a piece: 256 KiB of empty parts keep it for 30 ms.
"""

import re
from enum import Enum

from ..errors import InvalidBody, ModelRequired
from .form_headers import is_field
from .selector import VALUE_LIMIT_BYTES, Selector
from .turns import STEPS

# A part has two or three short header lines: generous, and it bounds the window.
HEADERS_LIMIT_BYTES = 8 * 1024
# vLLM's form parser takes a thousand fields and a thousand files at the most.
PARTS_LIMIT = 2000
# So many bytes of headers may cost as much as a step.
_HEADER_BYTES_PER_STEP = 64

# What follows the boundary in a delimiter line, and what may still become that. RFC 2046 sets no limit to the padding,
# which nobody sends; a line with more of it, or with anything else, is content.
_LINE_END = re.compile(rb"--|[ \t]{0,255}+\r\n")
_LINE_END_BEGUN = re.compile(rb"-?|[ \t]{0,255}+\r?")
_LINE_BREAKS = re.compile(rb"(?:\r\n|)*+")


class _Within(Enum):
    PREAMBLE = 0
    CONTENT = 1  # of a part that is not the field
    HEADERS = 2
    VALUE = 3
    EPILOGUE = 4


class MultipartScan:
    """Finds the field in a body fed in pieces, holding no more than one part's headers or the value at a time.

    The window is bounded by the two limits and the boundary's length, plus the piece being fed while it is being fed.
    `paused` says that the scan has given way: feed it b"" once the others have had their turn.
    """

    __slots__ = (
        "_at",
        "_base",
        "_delimiter",
        "_found",
        "_parts",
        "_search",
        "_steps",
        "_whole",
        "_window",
        "_within",
        "paused",
    )

    def __init__(self, boundary: bytes, *, whole: bool = False) -> None:
        """`boundary` as `form_headers.boundary` returns it; `whole`: the form is read to its end."""
        self._whole = whole
        self._delimiter = b"\r\n--" + boundary
        self._window = bytearray(b"\r\n")  # the line break that a delimiter at the very start of the body lacks
        self._base = -2  # where the window begins in the body
        self._at = 0  # where in the window begins what is not done with
        self._search = 0  # where in the window to go on looking
        self._within = _Within.PREAMBLE
        self._found: Selector | None = None
        self._parts = 0
        self._steps = 0
        self.paused = False

    def feed(self, piece: bytes | bytearray) -> Selector | None:
        """The selector as soon as the delimiter behind the field has been seen, or the closing one where the form is
        read to its end; `start` and `end` are body offsets.

        Raises InvalidBody for headers or a value over their limit, for too many parts, for a value that is not UTF-8
        and for a second field `model` in what has been fed by then; ModelRequired for an empty value. What follows
        goes unread, but where the form is read to its end: bytes behind that are an InvalidBody as well.
        """
        if self._whole and self._within is _Within.EPILOGUE:
            self.paused = False
            _refuse_behind(piece)
            return None
        self._window += piece
        self._steps = STEPS
        self.paused = False
        self._go_on()
        if self.paused:
            self._drop()
            return None
        found = self._found
        if self._whole:
            if self._within is _Within.EPILOGUE:
                _refuse_behind(self._window[self._at + 2 :])
            else:
                found = None
        elif found is not None:
            self._within = _Within.EPILOGUE
        if self._within is _Within.EPILOGUE:
            self._window.clear()
            self._found = None
        else:
            self._drop()
        return found

    def finish(self) -> None:
        """The body has ended. Raises InvalidBody unless a closing delimiter was seen, or the field was found."""
        if self._within is not _Within.EPILOGUE:
            raise InvalidBody("The multipart body is incomplete, or its boundary is not the one in the Content-Type.")

    def _go_on(self) -> None:
        """To the end of what is there, or of the turn."""
        if self._within is _Within.PREAMBLE and not self._pass_preamble():
            return
        while self._within is not _Within.EPILOGUE:
            if self._within is _Within.HEADERS:
                if not self._pass_headers():
                    return
                continue
            line_end = self._next_delimiter()
            if line_end is None:
                return
            if self._within is _Within.VALUE:
                self._found = self._selector(line_end.start() - len(self._delimiter))
            # The line break stays: where there are no headers it begins the empty line that would end them.
            self._within = _Within.EPILOGUE if line_end[0] == b"--" else _Within.HEADERS
            self._at = self._search = line_end.end() - 2

    def _step(self, cost: int = 1) -> bool:
        """Whether the turn has a step left."""
        if self._steps <= 0:
            self.paused = True
            return False
        self._steps -= cost
        return True

    def _pass_preamble(self) -> bool:
        """Goes on to the first delimiter; False when that is not there yet.

        Nothing but line breaks may stand before it: vLLM refuses what RFC 2046 allows there, and servers that take it
        differ in what they take for the first delimiter.
        """
        window, delimiter = self._window, self._delimiter
        breaks = _LINE_BREAKS.match(window)
        assert breaks is not None
        self._at = self._search = breaks.end() - 2
        begun = window[self._at : self._at + len(delimiter)]
        if not delimiter.startswith(begun) and begun != b"\r\n\r":
            raise InvalidBody("The multipart body does not begin with the boundary in its Content-Type.")
        if len(begun) < len(delimiter):
            return False
        self._within = _Within.CONTENT
        return True

    def _next_delimiter(self) -> re.Match[bytes] | None:
        """What ends the next delimiter line, `--` or padding and a line break; None without one, or when paused."""
        window, delimiter = self._window, self._delimiter
        while (begun := window.find(delimiter, self._search)) >= 0:
            if not self._step():
                return None
            at = begun + len(delimiter)
            if line_end := _LINE_END.match(window, at):
                self._refuse_long_value(begun)
                return line_end
            if _LINE_END_BEGUN.fullmatch(window, at):
                self._search = begun
                break
            self._search = at
        else:
            self._search = max(self._search, len(window) - len(delimiter) + 1)
        self._refuse_long_value(self._search)
        if self._within is _Within.CONTENT:
            self._at = self._search
        return None

    def _pass_headers(self) -> bool:
        """Goes on to the part's content; False when that is not there, or not yet. They begin with a line break."""
        begin = self._at
        end = self._window.find(b"\r\n\r\n", self._search)
        passed = end if end >= 0 else len(self._window) - 3
        if passed - begin > HEADERS_LIMIT_BYTES:
            if self._found is not None and not self._whole:
                return False  # left for vLLM to refuse
            raise InvalidBody(f"The headers of a multipart part are longer than {HEADERS_LIMIT_BYTES} bytes.")
        if end < 0:
            self._search = max(begin, passed)
            return False
        if not self._step(1 + (end - begin) // _HEADER_BYTES_PER_STEP):
            return False
        self._parts += 1
        if self._parts > PARTS_LIMIT and self._found is None:
            raise InvalidBody(f"The form has more than {PARTS_LIMIT} parts before its field `model`.")
        named = is_field(bytes(self._window[begin:end]))
        if named and self._found is not None:
            raise InvalidBody("The form has a second field `model`: servers disagree on which one counts.")
        self._within = _Within.VALUE if named else _Within.CONTENT
        # A delimiter begins with a line break of its own: for vLLM the one that ends the headers is none of it.
        self._at = self._search = end + 4
        return True

    def _selector(self, end: int) -> Selector:
        """The field whose value ends at `end` in the window."""
        start = self._at
        raw = bytes(self._window[start:end])
        if not raw:
            raise ModelRequired("`model` must not be empty.")
        try:
            return Selector(raw.decode(), self._base + start, self._base + end, raw.find(b"/") + 1)
        except UnicodeDecodeError:
            raise InvalidBody("The form field `model` is not UTF-8.") from None

    def _refuse_long_value(self, end: int) -> None:
        if self._within is _Within.VALUE and end - self._at > VALUE_LIMIT_BYTES:
            raise InvalidBody(f"The form field `model` is longer than {VALUE_LIMIT_BYTES} bytes.")

    def _drop(self) -> None:
        """What is done with."""
        count = self._at
        del self._window[:count]
        self._base += count
        self._search -= count
        self._at = 0


def _refuse_behind(epilogue: bytes | bytearray) -> None:
    """Raises InvalidBody for more than line breaks behind the closing delimiter: a server may read on there."""
    if epilogue.strip(b"\r\n"):
        raise InvalidBody("Something follows the end of the multipart body.")
