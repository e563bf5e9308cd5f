"""Where the top-level `model` of a JSON body stands, found while the body arrives.

Decides the value of the selector, which bytes are its `<instance>/` prefix, and which bodies are refused because the
answer would be unclear (contract section 4). Reads no further than the value; what stands before it is followed, not
validated, since vLLM judges its own input. Knows nothing of HTTP, of instances, or of who forwards the bytes.

One scanner serves both entrances, `find` for a body at hand and `JsonScan` for one in pieces. It is a generator over a
buffer that may have grown after each yield, so a position is all the state there is, and no byte is looked at again
because a piece ended there. Its time goes into a few regular expressions and `bytes.find`, never into single bytes.
"""

import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import cast

from .errors import InvalidBody, ModelRequired

# What the scanner yields besides a result: it needs more bytes; the object is closed, though more bytes may follow.
_MORE = -1
_CLOSED = -2

_BOM = b"\xef\xbb\xbf"
_QUOTE, _BACKSLASH, _COLON, _COMMA, _OPEN, _CLOSE = b'"\\:,{}'
_OPENERS = b"[{"
_NEVER_UTF8_JSON = b"\x00\xfe\xff"

# Each possessive loop over a group has an empty last alternative: CPython before 3.11.5 (gh-106052) otherwise leaves
# the position inside the iteration that failed. Strings are passed over from quote to quote, since "anything but one
# byte" is by far the fastest class; only `\"` after some other byte goes on, and a quote after `\\` is left to
# _string_end. So is text longer than the cap, for bytes.find is ten times faster still. Brackets are unrolled as deep
# as a tool's JSON schema usually goes.
_W = r"[ \t\n\r]*+"
_TEXT = r'[^"]{0,2047}+'
_ESCAPED_QUOTES = rf'(?:(?:(?<=[^\\]\\)|(?<=[^\\]\\\\\\))"{_TEXT}|)*+'
_STRING = rf'"{_TEXT}(?:(?<!\\)"|{_ESCAPED_QUOTES}(?:(?<!\\)|(?<=[^\\]\\\\))")'
_PLAIN = rf'[^"{{}}\[\]]++|{_STRING}'
_BALANCED = rf"(?:{_PLAIN}|)*+"
for _ in range(6):
    _BALANCED = rf"(?:{_PLAIN}|[{{\[]{_BALANCED}[}}\]]|)*+"
_SCALAR = r"[-+.0-9A-Za-z]"
_MODEL_NAME = r"(?:m|\\u006[dD])(?:o|\\u006[fF])(?:d|\\u0064)(?:e|\\u0065)(?:l|\\u006[cC])"
_MODEL = rf'{_W}"{_MODEL_NAME}"{_W}:{_W}'
_NAME = rf'{_W}"[^"]{{0,63}}+(?<!\\)"{_W}:{_W}'
_USUAL_VALUE = r'"([^"\\\x00-\x1f]++)"'
_MEMBERS = rf"(?:(?!{_MODEL}){_NAME}(?:{_STRING}|{_SCALAR}++|[{{\[]{_BALANCED}[}}\]]){_W},|)*+"


def _compile(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode(), re.DOTALL)


def _total(pattern: str) -> Callable[[bytes | bytearray, int], re.Match[bytes]]:
    """The match method of a pattern that can match nothing at all, and so always matches."""
    return cast("Callable[[bytes | bytearray, int], re.Match[bytes]]", _compile(pattern).match)


# The usual body from its start to the end of a value that needs no unescaping, in one match; group 1 is the value.
_usual = _compile(rf'(?:\xef\xbb\xbf)?+{_W}\{{{_MEMBERS}{_W}"model"{_W}:{_W}{_USUAL_VALUE}').match
_usual_value = _compile(rf"{_W}{_USUAL_VALUE}").match
# Whole members, then how the next one starts, as far as that is easy to tell: lastindex is one of the three, or None.
_members = _total(rf'{_MEMBERS}(?:{_MODEL}()|{_NAME}(?:([\[{{])|(")))?')
_AT_MODEL, _IN_NESTED, _IN_STRING = 1, 2, 3
_space = _total(_W)
_scalar = _total(rf"{_SCALAR}*+")
_balanced = _total(_BALANCED)
_descent = _total(r'(?:[^"\]}]++|"[^"\\\[\]{}]{0,63}+"|)*+')
_closers = _total(r"[\]}]*+")
_escaped_quotes = _total(_TEXT + _ESCAPED_QUOTES)
_model_name = _compile(_MODEL_NAME).fullmatch
_to_slash = _compile(r"(?:[^\\/]++|\\(?!/|u002[fF]).|)*+(?:\\?/|\\u002[fF])").match


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
    if result == _MORE:
        raise _incomplete(body)
    return result if isinstance(result, Selector) else None


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
        self._done = result != _MORE
        return result if isinstance(result, Selector) else None

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
        outcome = next(_to_model(body, end + 1, after_value=True), None)
    except InvalidBody:
        return
    if outcome is None:
        raise InvalidBody("The body has a second top-level `model`: servers disagree on which one counts.")


def _select(body: bytes | bytearray) -> Generator[Selector | int, None, None]:
    """Yields _MORE or _CLOSED until it can yield the selector."""
    opened = yield from _opened(body)
    position = yield from _to_model(body, opened, after_value=False)
    usual = _usual_value(body, position)
    if usual is not None:
        yield _usual_selector(usual, body)
        return
    start = yield from _token(body, position)
    if body[start] != _QUOTE:
        if body[start] in _OPENERS or _scalar(body, start).end() > start:
            raise ModelRequired("`model` must be a string.")
        raise _unexpected(body, start)
    start += 1
    end = yield from _string_end(body, start)
    value = _unescape(bytes(body[start:end]))
    _refuse_second(body, end)
    yield Selector(value, start, end)


def _opened(body: bytes | bytearray) -> Generator[int, None, int]:
    """Returns the position behind the opening brace."""
    while len(body) < len(_BOM) and _BOM.startswith(body):
        yield _MORE
    position = yield from _token(body, len(_BOM) if body.startswith(_BOM) else 0)
    if body[position] == _OPEN:
        return position + 1
    if body[position] in b'["' or _scalar(body, position).end() > position:
        raise InvalidBody("The body must be a JSON object.")
    raise _unexpected(body, position)


def _to_model(body: bytes | bytearray, position: int, *, after_value: bool) -> Generator[int, None, int]:
    """Returns the position behind the colon of the next `model`; without one it never returns.

    Starts behind the opening brace, or behind a value.
    """
    opened = position
    while True:
        if not after_value:
            ahead = _members(body, position)
            position = ahead.end()
            known = ahead.lastindex
            if known == _AT_MODEL:
                return position
            if known == _IN_NESTED:
                position = yield from _nested_end(body, position)
            elif known == _IN_STRING:
                position = 1 + (yield from _string_end(body, position))
            else:
                may_close = position == opened
                position = yield from _token(body, position)
                if may_close and body[position] == _CLOSE:
                    break
                is_model, position = yield from _name(body, position)
                if is_model:
                    return position
                position = yield from _value_end(body, position)
        after_value = False
        position = yield from _token(body, position)
        if body[position] == _CLOSE:
            break
        if body[position] != _COMMA:
            raise _unexpected(body, position)
        position += 1
    position += 1
    while True:
        position = _space(body, position).end()
        if position < len(body):
            raise _unexpected(body, position)
        yield _CLOSED


def _name(body: bytes | bytearray, position: int) -> Generator[int, None, tuple[bool, int]]:
    """Any member name and its colon; returns whether it is `model`, however it is escaped, and the position behind."""
    if body[position] != _QUOTE:
        raise _unexpected(body, position)
    end = yield from _string_end(body, position + 1)
    is_model = _model_name(body, position + 1, end) is not None
    position = yield from _token(body, end + 1)
    if body[position] != _COLON:
        raise _unexpected(body, position)
    return is_model, position + 1


def _value_end(body: bytes | bytearray, position: int) -> Generator[int, None, int]:
    """Any value; returns the position behind it."""
    start = yield from _token(body, position)
    if body[start] == _QUOTE:
        return 1 + (yield from _string_end(body, start + 1))
    if body[start] in _OPENERS:
        return (yield from _nested_end(body, start + 1))
    position = _scalar(body, start).end()
    if position == start:
        raise _unexpected(body, start)
    while position == len(body):
        yield _MORE
        position = _scalar(body, position).end()
    return position


def _nested_end(body: bytes | bytearray, position: int) -> Generator[int, None, int]:
    """From behind an opening bracket; returns the position behind its counterpart. Which kind is vLLM's concern."""
    depth = 1
    while depth:
        position = _balanced(body, position).end()
        if position == len(body):
            yield _MORE
        elif body[position] == _QUOTE:
            position = 1 + (yield from _string_end(body, position + 1))
        elif body[position] in _OPENERS:
            end = _descent(body, position).end()
            depth += body.count(b"[", position, end) + body.count(b"{", position, end)
            position = end
        else:
            closers = min(depth, _closers(body, position).end() - position)
            depth -= closers
            position += closers
    return position


def _string_end(body: bytes | bytearray, start: int) -> Generator[int, None, int]:
    """From behind an opening quote; returns the position of the closing one."""
    position = start
    while True:
        quote = body.find(b'"', position)
        if quote < 0:
            position = len(body)
            yield _MORE
        elif body[quote - 1] != _BACKSLASH or not _is_escaped(body, start, quote):
            return quote
        else:
            position = _escaped_quotes(body, quote + 1).end()


def _is_escaped(body: bytes | bytearray, start: int, quote: int) -> bool:
    """Whether the backslashes before `quote`, none of them before `start`, are odd in number."""
    reach = 16
    while True:
        low = max(start, quote - reach)
        rest = len(body[low:quote].rstrip(b"\\"))
        if rest or low == start:
            return (quote - low - rest) % 2 == 1
        reach *= 16


def _token(body: bytes | bytearray, position: int) -> Generator[int, None, int]:
    """Returns the position of the next byte that is not white space, once it is there."""
    while (position := _space(body, position).end()) == len(body):
        yield _MORE
    return position


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


def _unexpected(body: bytes | bytearray, position: int) -> InvalidBody:
    if body[position] in _NEVER_UTF8_JSON:
        return InvalidBody("The body is not UTF-8: send UTF-8.")
    return InvalidBody(f"The body is not valid JSON: unexpected byte at offset {position}.")


def _incomplete(body: bytes | bytearray) -> InvalidBody:
    return InvalidBody("The body ends inside its JSON object." if body else "The body is empty: send a JSON object.")


def _invalid_value() -> InvalidBody:
    return InvalidBody("`model` is not a valid JSON string in UTF-8.")
