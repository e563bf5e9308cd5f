"""Where the top-level `model` of a JSON body stands, found while the body arrives.

Decides which bodies are refused because the answer would be unclear (contract section 4). Reads no further than the
value, but for a second `model` in what is there. `usual` and `ending` know most bodies that are at hand in one look;
`JsonScan` reads any, in pieces and in turns (`turns`). Knows nothing of HTTP, of instances, or of who forwards them.
"""

import json
import re
from collections.abc import Generator
from functools import cache

from ..errors import InvalidBody, ModelRequired
from .json_object import OPENERS, QUOTE, opened, string, to_member, token, unexpected, value_end
from .json_patterns import SPACE, Member, compiled, scalar
from .selector import VALUE_LIMIT_BYTES, Selector, prefix_length
from .turns import CLOSED, PAUSED, SLICE_BYTES, Turn, Window

_ESCAPE_BYTES = 6  # of one character at the most
# What may be held of a body that is read to its end: a longer name in it is nobody's.
_NAME_BYTES = 64 << 10
# The longest way to write `"model"`: each letter escaped.
_ESCAPED_BYTES = 2 + 5 * _ESCAPE_BYTES

# Where `usual` looks for the name, before it looks at all that stands before it.
_NEAR_BYTES = 4096

_MODEL = Member("model")
_USUAL_VALUE = r'"([^"\\\x00-\x1f]++)"'
# The usual body from its start to the end of a value that needs no unescaping, in one match; group 1 is the value.
_usual = compiled(rf'(?:\xef\xbb\xbf)?+{SPACE}\{{{_MODEL.others}{SPACE}"model"{SPACE}:{SPACE}{_USUAL_VALUE}').match
_usual_value = compiled(rf"{SPACE}{_USUAL_VALUE}").match
# What stands before a name; never a backslash, so that its quote opens a string.
_BEFORE_NAME = b"{, \t\n\r"
_control = compiled(r"[\x00-\x1f]").search


@cache
def _ending() -> re.Pattern[bytes]:
    """From the name to the end of the usual body; group 1 is the value."""
    return compiled(rf'"model"{SPACE}:{SPACE}{_USUAL_VALUE}{SPACE}(?:,{_MODEL.others}{_MODEL.other})?{SPACE}\}}{SPACE}')


def usual(body: bytes | bytearray) -> Selector | None:
    """The selector of a body that begins as most do; None for any that wants a closer look."""
    if body.find(b'"model"', 0, _NEAR_BYTES) < 0 or (found := _usual(body, 0, SLICE_BYTES)) is None:
        return None
    start, end = found.span(1)
    if end - start > VALUE_LIMIT_BYTES or may_have_second(body, end):
        return None
    raw = body[start:end]
    return Selector(_text(raw), start, end, raw.find(b"/") + 1)


def ending(tail: bytes) -> Selector | None:
    """The selector of a valid body that ends with `tail`, in which, as in all of the body, `model` is named once.

    None where that cannot be told, and where it is not the body's own. Behind a member of the body nothing is closed
    but the body.
    """
    at = tail.rfind(b'"model"')
    if at < 1 or len(tail) - at > SLICE_BYTES or tail[at - 1] not in _BEFORE_NAME or names_model(tail[:at]):
        return None
    found = _ending().fullmatch(tail, at)
    if found is None or tail.rfind(b"\\u006", at) >= 0:
        return None
    start, end = found.span(1)
    if end - start > VALUE_LIMIT_BYTES:
        return None
    raw = tail[start:end]
    return Selector(_text(raw), start, end, raw.find(b"/") + 1)


def names_model(piece: bytes) -> bool:
    r"""Whether `model` may be a name in it: written out, or with a letter escaped, as `\u006?`.

    `in` passes over what has no quote or backslash, such as an image, ten times as fast as rfind, and rfind over text
    three times as fast as find. A piece without a quote that is longer than the name is no part of it, either.
    """
    if b'"' not in piece:
        return len(piece) < _ESCAPED_BYTES and piece.rfind(b"\\u006") >= 0
    return piece.rfind(b'"model"') >= 0 or (b"\\" in piece and piece.rfind(b"\\u006") >= 0)


class JsonScan:
    """Finds the top-level `model` in a body fed in pieces, or in one; the bytes are the caller's to keep.

    `paused` says that the scan has given way: feed it b"" once the others have had their turn.
    """

    __slots__ = ("_done", "_window", "paused")

    def __init__(self) -> None:
        self.paused = False
        self._window = Window(_select)
        self._done = False

    def feed(self, piece: bytes | bytearray) -> Selector | None:
        """The selector as soon as its closing quote has been seen; not to be called after that.

        Raises InvalidBody for what is not a JSON object in UTF-8 as far as it had to be read, for a value that is no
        valid string or longer than VALUE_LIMIT_BYTES, and for a second top-level `model` in what has been fed at that
        moment, not in what will only stream through; ModelRequired for an empty value or one that is not a string.
        """
        result = self._window.advance(piece)
        self.paused = self._window.paused
        if isinstance(result, Selector):
            self._done = True
            return result
        self._done = result == CLOSED
        return None

    def finish(self) -> None:
        """The body has ended without a selector. Raises InvalidBody unless it was one complete object, or empty."""
        if not self._done and self._window.fed_bytes:
            raise InvalidBody("The body ends inside its JSON object.")


class OneModel:
    """Reads a body, fed in pieces, to its end, and finds out that it has not more than one top-level `model`.

    `paused` says that the scan has given way: feed it b"" once the others have had their turn.
    """

    __slots__ = ("_done", "_window", "paused")

    def __init__(self) -> None:
        self.paused = False
        self._window: Window[int] = Window(_to_the_end)
        self._done = False

    def feed(self, piece: bytes | bytearray) -> None:
        """Look at the next piece. Raises InvalidBody for a second `model`, and for what may hide one: no JSON object,
        bytes behind it, a name of over 64 KiB."""
        window = self._window
        self._done = window.advance(piece) == CLOSED
        self.paused = window.paused
        if not window.paused and len(window.held) > _NAME_BYTES:
            raise InvalidBody(f"A name in the body is longer than {_NAME_BYTES} bytes.")

    def finish(self) -> None:
        """The body has ended. Raises InvalidBody unless it was one complete object."""
        if not self._done:
            raise InvalidBody("The body ends inside its JSON object.")


def _to_the_end(body: bytearray, turn: Turn) -> Generator[int, int | None, None]:
    position = yield from opened(body, turn)
    position = yield from to_member(body, turn, position, _MODEL, after_value=False)
    position = yield from value_end(body, turn, position)
    yield from to_member(body, turn, position, _MODEL, after_value=True)
    raise _second()


def _second() -> InvalidBody:
    return InvalidBody("The body has a second top-level `model`: servers disagree on which one counts.")


def may_have_second(body: bytes | bytearray, end: int) -> bool:
    r"""Whether a second `model` may follow the value that ends at `end`: its name written out, or a letter escaped.

    Every letter of the name escapes to `\u006?`, so two searches settle nearly all bodies. CPython's rfind passes over
    such text three times as fast as its find.
    """
    return body.rfind(b'"model"', end) >= 0 or body.rfind(b"\\u006", end) >= 0


def _refuse_second(body: bytes | bytearray, turn: Turn, end: int) -> Generator[int, int | None, None]:
    """Raises InvalidBody when a second top-level `model` follows the value whose closing quote is at `end`.

    Yields while it needs another turn. What is broken there is left for vLLM to refuse, as it is when nobody looks.
    """
    if not may_have_second(body, end):
        return
    scan = to_member(body, turn, end + 1, _MODEL, after_value=True)
    try:
        result = next(scan)
        while result == PAUSED or (result != CLOSED and turn.end < len(body)):
            result = scan.send((yield result))
    except InvalidBody:
        return
    except StopIteration:
        raise _second() from None


def _select(body: bytearray, turn: Turn) -> Generator[Selector | int, int | None, None]:
    """Yields what a scan does until it can yield the selector."""
    position = yield from opened(body, turn)
    position = yield from to_member(body, turn, position, _MODEL, after_value=False)
    plain = _usual_value(body, position, turn.end)
    if plain is not None:
        start, end = plain.span(1)
        _refuse_long(end - start)
        raw = bytes(body[start:end])
        value = _text(raw)
    else:
        start = yield from token(body, turn, position)
        if body[start] != QUOTE:
            if body[start] in OPENERS or scalar(body, start, turn.end).end() > start:
                raise ModelRequired("`model` must be a string.")
            raise unexpected(body, turn, start)
        start, end = yield from string(body, turn, start + 1)
        _refuse_long((end - start) // _ESCAPE_BYTES)
        raw = bytes(body[start:end])
        value = _unescape(raw)
    found = Selector(value, turn.dropped + start, turn.dropped + end, prefix_length(raw))
    yield from _refuse_second(body, turn, end)
    yield found


def _refuse_long(size: int) -> None:
    if size > VALUE_LIMIT_BYTES:
        raise InvalidBody(f"`model` is longer than {VALUE_LIMIT_BYTES} bytes.")


def _text(raw: bytes | bytearray) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise _invalid_value() from None


def _unescape(raw: bytes) -> str:
    """The string written as `raw`. A lone surrogate, which JSON lets pass, is no text."""
    if control := _control(raw):
        raise InvalidBody(f"`model` holds the byte {control[0][0]:#04x}, which JSON allows in a string only escaped.")
    try:
        value: str = json.loads(f'"{raw.decode()}"')
        size = len(value.encode())
    except ValueError:
        raise _invalid_value() from None
    if not value:
        raise ModelRequired("`model` must not be empty.")
    _refuse_long(size)
    return value


def _invalid_value() -> InvalidBody:
    return InvalidBody("`model` is not a valid JSON string in UTF-8.")
