"""The models that a server lists, read in short turns: there may be thousands, and nothing may hold the loop.

Decides what is a list of models, which of its entries are models, and how many of them count. Reads with the scanner
that finds a request's selector (`json_object`), so that no call takes long whatever an instance sends. Not on a thread:
the standard library's parser would keep the loop's thread waiting all the same. Knows nothing of HTTP, of instances, or
of what is done with a model.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from ..errors import InvalidBody
from ..selector.json_object import Found, opened, to_member, token, value_end
from ..selector.json_patterns import Member, elements
from ..selector.turns import CLOSED, Turn

# Far more than one server has adapters; the rest is as if it were not listed.
MODELS_LIMIT = 10_000
# vLLM says half a kilobyte of a model.
ENTRY_LIMIT_BYTES = 64 << 10
# Reading one by itself costs as much as so many steps of the scanner, and one more for so many bytes.
_ENTRY_STEPS, _ENTRY_BYTES_PER_STEP = 10, 128

_DATA = Member("data")
_OPEN, _COMMA, _CLOSE = b"[,]"


class ListError(Exception):
    """An instance answered, but with no list of models; says why in our own words. `status`: 0 when that was 200."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


async def listed(body: bytes | bytearray) -> AsyncIterator[dict[str, Any]]:
    """Each model of a list, MODELS_LIMIT at the most: a JSON object whose `id` is a string.

    Entries that are none, or larger than ENTRY_LIMIT_BYTES, are left out. Raises ListError for what is no JSON object
    with a list `data`.
    """
    turn = Turn()
    turn.begin(len(body))
    left = MODELS_LIMIT
    try:
        position = await _run(opened(body, turn), body, turn)
        position = await _run(to_member(body, turn, position, _DATA, after_value=False), body, turn)
        if position == CLOSED:
            raise ListError("no list of models")
        position = await _run(token(body, turn, position), body, turn)
        if body[position] != _OPEN:
            raise ListError("no list of models")
        position = await _run(token(body, turn, position + 1), body, turn)
        separator = _CLOSE if body[position] == _CLOSE else _COMMA
        position += separator == _CLOSE
        while separator == _COMMA:
            end = elements()(body, position, turn.end).end()
            if end > position:
                models, position = _models(body[position : end - 1]) if left else [], end
                turn.steps = 0  # so many entries are as much as a turn may cost
            else:
                start = await _run(token(body, turn, position), body, turn)
                end = await _run(value_end(body, turn, start), body, turn)
                position = await _run(token(body, turn, end), body, turn)
                separator = body[position]
                position += 1
                models = _models(body[start:end]) if left and end - start <= ENTRY_LIMIT_BYTES else []
                turn.steps -= _ENTRY_STEPS + (end - start) // _ENTRY_BYTES_PER_STEP
            for each in models[:left]:
                yield each
            left = max(0, left - len(models))
            if turn.steps <= 0:
                await asyncio.sleep(0)
                turn.begin(len(body))
        if separator == _CLOSE:
            position = await _run(to_member(body, turn, position, _DATA, after_value=True), body, turn)
    except (InvalidBody, ValueError, RecursionError):
        raise ListError("no JSON") from None
    if position != CLOSED:
        raise ListError("no JSON")


async def _run(scan: Found, body: bytes | bytearray, turn: Turn) -> int:
    """What the scan returns, once it has had all the turns that it wants; CLOSED when it came to the object's end.

    Raises ValueError when the body ends before that.
    """
    while True:
        try:
            result = next(scan)
        except StopIteration as end:
            position: int = end.value
            return position
        if turn.over(result, len(body)):
            await asyncio.sleep(0)
            turn.begin(len(body))
        elif result == CLOSED:
            return CLOSED
        else:
            raise ValueError("incomplete")


def _models(entries: bytes | bytearray) -> list[dict[str, Any]]:
    """What of these entries, with commas between them, is a model. Raises ValueError, RecursionError."""
    said = json.loads(b"".join([b"[", entries, b"]"]), parse_constant=_no_json)
    return [each for each in said if isinstance(each, dict) and isinstance(each.get("id"), str)]


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
