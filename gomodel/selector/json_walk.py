"""From one member of a JSON object, or one element of a list, to the next: for scans that look at each.

Like the rest of the scanner (`json_object`) it follows what is written and validates nothing but where it goes on. Each
step counts for the turn. Knows nothing of what is looked for.
"""

from collections.abc import Generator

from .json_object import QUOTE, Found, string, token, unexpected
from .turns import PAUSED, Turn

CLOSERS = b"}]"
_COLON, _COMMA = b":,"


def next_name(
    body: bytes | bytearray, turn: Turn, position: int
) -> Generator[int, int | None, tuple[bytes | bytearray | None, int]]:
    """From behind a brace or a value: the next name and the position behind its colon; None behind the last."""
    turn.steps -= 1
    if turn.steps < 0:
        yield PAUSED
    position = yield from token(body, turn, position)
    if body[position] == _COMMA:
        position = yield from token(body, turn, position + 1)
    if body[position] in CLOSERS:
        return None, position + 1
    if body[position] != QUOTE:
        raise unexpected(body, turn, position)
    start, end = yield from string(body, turn, position + 1)
    position = yield from token(body, turn, end + 1)
    if body[position] != _COLON:
        raise unexpected(body, turn, position)
    return body[start:end], position + 1


def next_element(body: bytes | bytearray, turn: Turn, position: int) -> Found:
    """From behind an element: to the next one, or to the end of the list."""
    turn.steps -= 1
    if turn.steps < 0:
        yield PAUSED
    position = yield from token(body, turn, position)
    return position + 1 if body[position] == _COMMA else position
