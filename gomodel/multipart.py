"""Where the field named `model` of a multipart/form-data body stands, found while the body arrives.

Decides what is a part and which part is the field (RFC 2046 section 5.1, RFC 7578 section 4; where they leave a choice,
as vLLM's form parser reads it). Holds a small window, never a file: the bytes are the caller's to keep or to pass on.
Knows nothing of HTTP, of instances, or of JSON.
"""

import re
from collections.abc import Iterator
from enum import Enum

from .errors import InvalidBody, ModelRequired
from .selector import Selector

# A part has two or three short header lines and a model id is short: generous, and they bound the window.
HEADERS_LIMIT_BYTES = 16 * 1024
VALUE_LIMIT_BYTES = 4 * 1024

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_PARAMETER = re.compile(
    r""";[ \t]*+([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]*+=[ \t]*+"""
    r"""(?:"((?:[^"\\]++|\\.|)*+)"|([^;"\s]*+))[ \t]*+(?=;|\Z)""",  # the empty alternative: see selector.py
    re.DOTALL,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
_FOLD = re.compile(rb"\r\n[ \t]++")

# What follows the boundary in a delimiter line, and what may still become that. RFC 2046 sets no limit to the padding,
# which nobody sends; a line with more of it, or with anything else, is content.
_LINE_END = re.compile(rb"--|[ \t]{0,255}+\r\n")
_LINE_END_BEGUN = re.compile(rb"-?|[ \t]{0,255}+\r?")


class _Within(Enum):
    CONTENT = 1  # of a part that is not the field, or the preamble: bytes up to a delimiter either way
    HEADERS = 2
    VALUE = 3
    EPILOGUE = 4


def boundary(content_type: str | bytes) -> bytes:
    """The boundary parameter of a Content-Type, quoted or not; 1 to 70 characters (RFC 2046 section 5.1.1).

    Raises InvalidBody when it is missing, given twice or not of the characters allowed. Leaves the media type alone.
    """
    text = content_type.decode("latin-1") if isinstance(content_type, bytes) else content_type
    given = [value for name, value in _parameters(text) if name == "boundary"]
    if len(given) != 1 or not _BOUNDARY.fullmatch(given[0]):
        raise InvalidBody("A multipart body needs one valid boundary parameter in its Content-Type.")
    return given[0].encode()


class MultipartScan:
    """Finds the field in a body fed in pieces, holding no more than one part's headers or the value at a time.

    The window is bounded by the two limits and the boundary's length, plus the piece being fed while it is being fed.
    """

    __slots__ = ("_base", "_delimiter", "_search", "_window", "_within")

    def __init__(self, boundary: bytes) -> None:
        """`boundary` as the function of that name returns it."""
        self._delimiter = b"\r\n--" + boundary
        self._window = bytearray(b"\r\n")  # the line break that a delimiter at the very start of the body lacks
        self._base = -2  # where the window begins in the body
        self._search = 0  # where in the window to go on looking
        self._within = _Within.CONTENT

    def feed(self, piece: bytes) -> Selector | None:
        """The selector as soon as the delimiter behind the field has been seen; `start` and `end` are body offsets.

        Raises InvalidBody for headers or a value over their limit and for a value that is not UTF-8, ModelRequired for
        an empty one. What follows, a second `model` included, goes unread.
        """
        self._window += piece
        while self._within is not _Within.EPILOGUE:
            if self._within is _Within.HEADERS:
                if not self._pass_headers():
                    return None
                continue
            line_end = self._next_delimiter()
            if line_end is None:
                return None
            if self._within is _Within.VALUE:
                self._within = _Within.EPILOGUE
                return self._selector(line_end.start() - len(self._delimiter))
            # The line break stays: where there are no headers it begins the empty line that would end them.
            self._within = _Within.EPILOGUE if line_end[0] == b"--" else _Within.HEADERS
            self._drop(line_end.end() - 2)
        self._window.clear()
        return None

    def finish(self) -> None:
        """The body has ended. Raises InvalidBody unless a closing delimiter was seen, or the field was found."""
        if self._within is not _Within.EPILOGUE:
            raise InvalidBody("The multipart body is incomplete, or its boundary is not the one in the Content-Type.")

    def _next_delimiter(self) -> re.Match[bytes] | None:
        """What ends the next delimiter line, `--` or padding and a line break; None when more bytes are needed."""
        window, delimiter, at = self._window, self._delimiter, self._search
        while (begun := window.find(delimiter, at)) >= 0:
            at = begun + len(delimiter)
            if line_end := _LINE_END.match(window, at):
                self._refuse_long_value(begun)
                return line_end
            if _LINE_END_BEGUN.fullmatch(window, at):
                at = begun
                break
        else:
            at = max(at, len(window) - len(delimiter) + 1)
        self._refuse_long_value(at)
        if self._within is _Within.CONTENT:
            self._drop(at)
        else:
            self._search = at
        return None

    def _pass_headers(self) -> bool:
        """Goes on to the part's content; False when more bytes are needed. The window begins with a line break."""
        end = self._window.find(b"\r\n\r\n", self._search)
        passed = end if end >= 0 else len(self._window) - 3
        if passed > HEADERS_LIMIT_BYTES:
            raise InvalidBody(f"The headers of a multipart part are longer than {HEADERS_LIMIT_BYTES} bytes.")
        if end < 0:
            self._search = max(0, passed)
            return False
        self._within = _Within.VALUE if _is_field(bytes(self._window[:end])) else _Within.CONTENT
        # Of the two line breaks one stays, for a part without content ends in a delimiter that begins with it.
        self._drop(end + 2)
        return True

    def _selector(self, end: int) -> Selector:
        """The field whose value ends at `end` in a window that begins with the line break before it."""
        raw = bytes(self._window[2:end])
        if not raw:
            raise ModelRequired("`model` must not be empty.")
        try:
            return Selector(raw.decode(), self._base + 2, self._base + end)
        except UnicodeDecodeError:
            raise InvalidBody("The form field `model` is not UTF-8.") from None

    def _refuse_long_value(self, end: int) -> None:
        if self._within is _Within.VALUE and end - 2 > VALUE_LIMIT_BYTES:
            raise InvalidBody(f"The form field `model` is longer than {VALUE_LIMIT_BYTES} bytes.")

    def _drop(self, count: int) -> None:
        del self._window[:count]
        self._base += count
        self._search = 0


def _is_field(headers: bytes) -> bool:
    """Whether a part's headers name the field `model`. One with a file name is a file. The last header counts."""
    disposition = b""
    for line in _FOLD.sub(b" ", headers).split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-disposition":
            disposition = value
    parameters = dict(_parameters(disposition.decode("latin-1")))
    return parameters.get("name") == "model" and "filename" not in parameters


def _parameters(field: str) -> Iterator[tuple[str, str]]:
    """The parameters of a header field value, names in lower case; nothing from the first that is malformed."""
    position = field.find(";")
    while position >= 0 and (found := _PARAMETER.match(field, position)):
        name, quoted, token = found.groups()
        yield name.lower(), token if quoted is None else _QUOTED_PAIR.sub(r"\1", quoted)
        position = found.end()
