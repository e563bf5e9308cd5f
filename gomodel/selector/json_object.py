"""Where a member of a body's top-level JSON object stands, found while the body arrives.

Decides what is the top level and what is a name. What is passed over is followed, not validated, since vLLM judges its
own input. Knows nothing of what a member is wanted for.

The scanner is a set of generators as `turns` describes them; Found is one that returns a position. Its time goes into a
few regular expressions and `bytes.find`, never into single bytes.
"""

from collections.abc import Generator

from ..errors import InvalidBody
from .json_patterns import AT_MEMBER, IN_NESTED, IN_STRING, Member, balanced, closing, descent, scalar, space
from .turns import CLOSED, PAUSED, Turn

Found = Generator[int, int | None, int]

# A string with escaped quotes is read this far at a time, which costs so many steps at the worst.
_ESCAPED_BYTES, _ESCAPED_STEPS = 4096, 12

_BOM = b"\xef\xbb\xbf"
QUOTE, _BACKSLASH, _COLON, _COMMA, _OPEN, _CLOSE = b'"\\:,{}'
OPENERS = b"[{"
_NEVER_UTF8 = b"\xfe\xff"
# What stays of a string that is passed over: the backslashes at its end say whether the next quote is escaped.
_LOOKBACK = 64
_BACKSLASHES = b"\\" * _LOOKBACK


def opened(body: bytes | bytearray, turn: Turn) -> Found:
    """Returns the position behind the opening brace."""
    while len(body) < len(_BOM) and _BOM.startswith(body):
        yield 0
    position = yield from token(body, turn, len(_BOM) if body.startswith(_BOM) else 0)
    if body[position] == _OPEN:
        return position + 1
    if body[position] in b'["' or scalar(body, position, turn.end).end() > position:
        raise InvalidBody("The body must be a JSON object.")
    raise unexpected(body, turn, position)


def to_member(body: bytes | bytearray, turn: Turn, position: int, member: Member, *, after_value: bool) -> Found:
    """Returns the position behind the colon of the next member of that name; without one it never returns.

    Starts behind the opening brace, or behind a value.
    """
    opening = position
    ahead = member.ahead()
    while True:
        turn.steps -= 1
        if turn.steps < 0:
            yield PAUSED
        if not after_value:
            found = ahead(body, position, turn.end)
            position = found.end()
            known = found.lastindex
            if known == AT_MEMBER:
                return position
            if known == IN_NESTED:
                position = yield from nested_end(body, turn, position)
            elif known == IN_STRING:
                position = 1 + (yield from _string_end(body, turn, position))
            else:
                may_close = position == opening
                position = yield from token(body, turn, position)
                if may_close and body[position] == _CLOSE:
                    break
                is_it, position = yield from _name(body, turn, position, member)
                if is_it:
                    return position
                position = yield from value_end(body, turn, position)
        after_value = False
        opening = -1
        position = yield from token(body, turn, position)
        if body[position] == _CLOSE:
            break
        if body[position] != _COMMA:
            raise unexpected(body, turn, position)
        position += 1
    position += 1
    while True:
        position = space(body, position, turn.end).end()
        if position < turn.end:
            raise unexpected(body, turn, position)
        yield CLOSED


def _name(
    body: bytes | bytearray, turn: Turn, position: int, member: Member
) -> Generator[int, int | None, tuple[bool, int]]:
    """Any name and its colon; returns whether it is the member's, however it is escaped, and the position behind."""
    if body[position] != QUOTE:
        raise unexpected(body, turn, position)
    start, end = yield from string(body, turn, position + 1)
    is_it = member.is_name(body, start, end) is not None
    position = yield from token(body, turn, end + 1)
    if body[position] != _COLON:
        raise unexpected(body, turn, position)
    return is_it, position + 1


def value_end(body: bytes | bytearray, turn: Turn, position: int) -> Found:
    """Any value; returns the position behind it."""
    start = yield from token(body, turn, position)
    if body[start] == QUOTE:
        return 1 + (yield from _string_end(body, turn, start + 1))
    if body[start] in OPENERS:
        return (yield from nested_end(body, turn, start + 1))
    position = scalar(body, start, turn.end).end()
    if position == start:
        raise unexpected(body, turn, start)
    while position == turn.end:
        position -= (yield position) or 0
        position = scalar(body, position, turn.end).end()
    return position


def nested_end(body: bytes | bytearray, turn: Turn, position: int) -> Found:
    """From behind an opening bracket; returns the position behind its counterpart. Which kind is vLLM's concern."""
    depth = 1
    inside = balanced()
    while depth:
        turn.steps -= 1
        if turn.steps < 0:
            yield PAUSED
        position = inside(body, position, turn.end).end()
        if position == turn.end:
            position -= (yield position) or 0
        elif body[position] == QUOTE:
            position = 1 + (yield from _string_end(body, turn, position + 1))
        elif body[position] in OPENERS:
            end = descent(body, position, turn.end).end()
            depth += body.count(b"[", position, end) + body.count(b"{", position, end)
            position = end
        else:
            closers = min(depth, closing(body, position, turn.end).end() - position)
            depth -= closers
            position += closers
    return position


def string(
    body: bytes | bytearray, turn: Turn, start: int, *, keep: bool = True
) -> Generator[int, int | None, tuple[int, int]]:
    """From behind an opening quote; returns where the content begins and ends.

    All of it is in the buffer then, unless not `keep`.
    """
    position = start
    while True:
        quote = body.find(b'"', position)
        if quote < 0:
            position = turn.end = len(body)
            unread = 0 if body.endswith(_BACKSLASHES) else max(0, position - _LOOKBACK)
            dropped = (yield start - 1 if keep else unread) or 0
            position -= dropped
            start = max(0, start - dropped)
            continue
        if body[quote - 1] != _BACKSLASH or not _is_escaped(body, start, quote):
            turn.end = max(turn.end, quote + 1)
            return start, quote
        turn.steps -= _ESCAPED_STEPS
        if turn.steps < 0:
            yield PAUSED
        position = _past_escapes(body, quote + 1, quote + 1 + _ESCAPED_BYTES)


def _past_escapes(body: bytes | bytearray, start: int, stop: int) -> int:
    """The position of the first quote from `start` on that no backslash escapes, or `stop`.

    Of text that is mostly escapes a regular expression costs four times as much.
    """
    quote = body[start:stop].replace(rb"\\", b"..").replace(rb"\"", b"..").find(b'"')
    return start + quote if quote >= 0 else stop


def _string_end(body: bytes | bytearray, turn: Turn, start: int) -> Found:
    """From behind an opening quote; returns the position of the closing one."""
    return (yield from string(body, turn, start, keep=False))[1]


def _is_escaped(body: bytes | bytearray, start: int, quote: int) -> bool:
    """Whether the backslashes before `quote`, none of them before `start`, are odd in number."""
    reach = 16
    while True:
        low = max(start, quote - reach)
        rest = len(body[low:quote].rstrip(b"\\"))
        if rest or low == start:
            return (quote - low - rest) % 2 == 1
        reach *= 16


def token(body: bytes | bytearray, turn: Turn, position: int) -> Found:
    """Returns the position of the next byte that is not white space, once it is there."""
    while (position := space(body, position, turn.end).end()) == turn.end:
        position -= (yield position) or 0
    return position


def unexpected(body: bytes | bytearray, turn: Turn, position: int) -> InvalidBody:
    """The refusal of a byte that cannot stand where it stands."""
    offset = turn.dropped + position
    if not body[position]:
        return InvalidBody(f"The body has a NUL byte at offset {offset}: send UTF-8, not UTF-16 or UTF-32.")
    if body[position] in _NEVER_UTF8:
        return InvalidBody("The body is not UTF-8: send UTF-8.")
    return InvalidBody(f"The body is not valid JSON: unexpected byte at offset {offset}.")
