"""Where the top-level `model` of a JSON body stands, found while the body arrives.

Decides the value of the selector, which bytes are its `<instance>/` prefix, and which bodies are refused because the
answer would be unclear (contract section 4). Reads no further than the value, but for a second `model` in what is held.
`usual` knows most bodies that are at hand in one look; `JsonScan` reads any, in pieces and in turns (`json_object`).
Knows nothing of HTTP, of instances, or of who forwards the bytes.
"""

import json
from collections.abc import Generator
from dataclasses import dataclass

from ..errors import InvalidBody, ModelRequired
from .json_object import (
    CLOSED,
    OPENERS,
    PAUSED,
    QUOTE,
    SLICE_BYTES,
    SPACE,
    Member,
    Turn,
    compiled,
    opened,
    scalar,
    string,
    to_member,
    token,
    unexpected,
)

# Twice as long as a path can be (PATH_MAX); a megabyte of one would be looked up, logged and compared.
VALUE_LIMIT_BYTES = 8 * 1024
_ESCAPE_BYTES = 6  # of one character at the most

_MODEL = Member("model")
_USUAL_VALUE = r'"([^"\\\x00-\x1f]++)"'
# The usual body from its start to the end of a value that needs no unescaping, in one match; group 1 is the value.
_usual = compiled(rf'(?:\xef\xbb\xbf)?+{SPACE}\{{{_MODEL.others}{SPACE}"model"{SPACE}:{SPACE}{_USUAL_VALUE}').match
_usual_value = compiled(rf"{SPACE}{_USUAL_VALUE}").match
_control = compiled(r"[\x00-\x1f]").search
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


def usual(body: bytes | bytearray) -> Selector | None:
    """The selector of a body that begins as most do; None for any that wants a closer look."""
    found = _usual(body, 0, SLICE_BYTES)
    if found is None:
        return None
    start, end = found.span(1)
    if end - start > VALUE_LIMIT_BYTES or _may_have_second(body, end):
        return None
    return Selector(_text(body[start:end]), start, end)


class JsonScan:
    """Finds the top-level `model` in a body fed in pieces, or in one.

    `held` is everything fed so far, for the caller to forward; feeding it grows it, so keep no memoryview. `paused`
    says that the scan has given way: feed it b"" once the others have had their turn.
    """

    __slots__ = ("_done", "_scan", "_turn", "held", "paused")

    def __init__(self) -> None:
        self.held = bytearray()
        self.paused = False
        self._turn = Turn()
        self._scan = _select(self.held, self._turn)
        self._done = False

    def feed(self, piece: bytes | bytearray) -> Selector | None:
        """The selector as soon as its closing quote has been seen; not to be called after that.

        Raises InvalidBody for what is not a JSON object in UTF-8 as far as it had to be read, for a value that is no
        valid string or longer than VALUE_LIMIT_BYTES, and for a second top-level `model` in what is held at that
        moment, not in what will only stream through; ModelRequired for an empty value or one that is not a string.
        """
        held, turn = self.held, self._turn
        held += piece
        turn.begin(len(held))
        result = next(self._scan)
        if isinstance(result, Selector):
            self.paused = False
            self._done = True
            return result
        self.paused = turn.over(result, len(held))
        self._done = result == CLOSED
        return None

    def finish(self) -> None:
        """The body has ended without a selector. Raises InvalidBody unless it was one complete object.

        An empty body (nothing `held`) is not an object either; a caller with a rule for that asks first.
        """
        if not self._done:
            raise InvalidBody(
                "The body ends inside its JSON object." if self.held else "The body is empty: send a JSON object."
            )


def _may_have_second(body: bytes | bytearray, end: int) -> bool:
    r"""Whether a second `model` may follow the value that ends at `end`: its name written out, or a letter escaped.

    Every letter of the name escapes to `\u006?`, so two searches settle nearly all bodies.
    """
    return body.find(b'"model"', end) >= 0 or body.find(b"\\u006", end) >= 0


def _refuse_second(body: bytes | bytearray, turn: Turn, end: int) -> Generator[int, int | None, None]:
    """Raises InvalidBody when a second top-level `model` follows the value whose closing quote is at `end`.

    Yields while it needs another turn. What is broken there is left for vLLM to refuse, as it is when nobody looks.
    """
    if not _may_have_second(body, end):
        return
    try:
        for result in to_member(body, turn, end + 1, _MODEL, after_value=True):
            if result == CLOSED or (result != PAUSED and turn.end == len(body)):
                return
            yield result
    except InvalidBody:
        return
    raise InvalidBody("The body has a second top-level `model`: servers disagree on which one counts.")


def _select(body: bytearray, turn: Turn) -> Generator[Selector | int, int | None, None]:
    """Yields what `json_object` does until it can yield the selector."""
    position = yield from opened(body, turn)
    position = yield from to_member(body, turn, position, _MODEL, after_value=False)
    plain = _usual_value(body, position, turn.end)
    if plain is not None:
        start, end = plain.span(1)
        _refuse_long(end - start)
        value = _text(body[start:end])
    else:
        start = yield from token(body, turn, position)
        if body[start] != QUOTE:
            if body[start] in OPENERS or scalar(body, start, turn.end).end() > start:
                raise ModelRequired("`model` must be a string.")
            raise unexpected(body, start)
        start, end = yield from string(body, turn, start + 1)
        _refuse_long((end - start) // _ESCAPE_BYTES)
        value = _unescape(bytes(body[start:end]))
    yield from _refuse_second(body, turn, end)
    yield Selector(value, start, end)


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
