"""Where the top-level `model` of a JSON body stands, found while the body arrives.

Decides the value of the selector, which bytes are its `<instance>/` prefix, and which bodies are refused because the
answer would be unclear (contract section 4). Reads no further than the value, but for a second `model` in what is held.
One scanner (`members`) serves both entrances, `find` for a body at hand and `JsonScan` for one in pieces. Knows nothing
of HTTP, of instances, or of who forwards the bytes.
"""

import json
import re
from collections.abc import Generator
from dataclasses import dataclass

from .errors import InvalidBody, ModelRequired
from .members import (
    CLOSED,
    OPENERS,
    QUOTE,
    SPACE,
    Member,
    compiled,
    opened,
    scalar,
    string,
    to_member,
    token,
    unexpected,
)

_MODEL = Member("model")
_USUAL_VALUE = r'"([^"\\\x00-\x1f]++)"'
# The usual body from its start to the end of a value that needs no unescaping, in one match; group 1 is the value.
_usual = compiled(rf'(?:\xef\xbb\xbf)?+{SPACE}\{{{_MODEL.others}{SPACE}"model"{SPACE}:{SPACE}{_USUAL_VALUE}').match
_usual_value = compiled(rf"{SPACE}{_USUAL_VALUE}").match
_to_slash = compiled(r"(?:[^\\/]++|\\(?!/|u002[fF]).|)*+(?:\\?/|\\u002[fF])").match


@dataclass(slots=True)
class Selector:
    """A selector, and the offsets in the body of the raw bytes it is written in.

    For JSON these bytes are what stands between the quotes, escapes included.
    """

    value: str
    start: int
    end: int


def split(value: str) -> tuple[str, str] | None:
    """Instance and model, split on the first slash; None without a slash. Either may be empty. Contract section 4."""
    instance, slash, model = value.partition("/")
    return (instance, model) if slash else None


def prefix_length(raw: bytes) -> int:
    r"""How many bytes of a JSON string's raw content make up everything to the first decoded slash; 0 without a slash.

    A slash may be written `/`, `\/`, `\u002f` or `\u002F` (RFC 8259 section 7). `raw` is the content of a valid string.
    """
    if b"\\u002" not in raw:
        return raw.find(b"/") + 1
    found = _to_slash(raw)
    return found.end() if found else 0


def find(body: bytes) -> Selector | None:
    """The top-level `model` of a whole body; None for an object without one.

    Raises InvalidBody for what is not a JSON object in UTF-8 as far as it had to be read, for a value that is no valid
    string and for a second top-level `model`; ModelRequired for an empty value or one that is not a string.
    """
    usual = _usual(body)
    if usual is not None:
        return _usual_selector(usual, body)
    result = next(_select(body))
    if isinstance(result, Selector):
        return result
    if result != CLOSED:
        raise _incomplete(body)
    return None


class JsonScan:
    """`find` for a body that arrives in pieces.

    `held` is everything fed so far, for the caller to forward; feeding it grows it, so keep no memoryview.
    """

    __slots__ = ("_done", "_scan", "held")

    def __init__(self) -> None:
        self.held = bytearray()
        self._scan = _select(self.held)
        self._done = False

    def feed(self, piece: bytes) -> Selector | None:
        """The selector as soon as its closing quote has been seen; not to be called after that. Raises as `find` does.

        A second `model` is looked for in what is held at that moment, not in what will only stream through.
        """
        usual = None if self.held else _usual(piece)
        self.held += piece
        if usual is not None:
            self._done = True
            return _usual_selector(usual, piece)
        result = next(self._scan)
        if isinstance(result, Selector):
            self._done = True
            return result
        self._done = result == CLOSED
        return None

    def finish(self) -> None:
        """The body has ended without a selector. Raises InvalidBody unless it was one complete object.

        An empty body (nothing `held`) is not an object either; a caller with a rule for that asks first.
        """
        if not self._done:
            raise _incomplete(self.held)


def _usual_selector(usual: re.Match[bytes], body: bytes | bytearray) -> Selector:
    start, end = usual.span(1)
    try:
        value = body[start:end].decode()
    except UnicodeDecodeError:
        raise _invalid_value() from None
    _refuse_second(body, end)
    return Selector(value, start, end)


def _refuse_second(body: bytes | bytearray, end: int) -> None:
    r"""Raises InvalidBody when a second top-level `model` follows the value whose closing quote is at `end`.

    Every letter of the name escapes to `\u006?`, so two searches settle nearly all bodies. What is broken there is
    left for vLLM to refuse, as it is when nobody looks.
    """
    if body.find(b'"model"', end) < 0 and body.find(b"\\u006", end) < 0:
        return
    try:
        outcome = next(to_member(body, end + 1, _MODEL, after_value=True), None)
    except InvalidBody:
        return
    if outcome is None:
        raise InvalidBody("The body has a second top-level `model`: servers disagree on which one counts.")


def _select(body: bytes | bytearray) -> Generator[Selector | int, int | None, None]:
    """Yields what `members` does until it can yield the selector."""
    position = yield from opened(body)
    position = yield from to_member(body, position, _MODEL, after_value=False)
    usual = _usual_value(body, position)
    if usual is not None:
        yield _usual_selector(usual, body)
        return
    start = yield from token(body, position)
    if body[start] != QUOTE:
        if body[start] in OPENERS or scalar(body, start).end() > start:
            raise ModelRequired("`model` must be a string.")
        raise unexpected(body, start)
    start, end = yield from string(body, start + 1)
    value = _unescape(bytes(body[start:end]))
    _refuse_second(body, end)
    yield Selector(value, start, end)


def _unescape(raw: bytes) -> str:
    """The string written as `raw`. A lone surrogate, which JSON lets pass, is no text."""
    try:
        value: str = json.loads(f'"{raw.decode()}"')
        value.encode()
    except ValueError:
        raise _invalid_value() from None
    if not value:
        raise ModelRequired("`model` must not be empty.")
    return value


def _incomplete(body: bytes | bytearray) -> InvalidBody:
    return InvalidBody("The body ends inside its JSON object." if body else "The body is empty: send a JSON object.")


def _invalid_value() -> InvalidBody:
    return InvalidBody("`model` is not a valid JSON string in UTF-8.")
