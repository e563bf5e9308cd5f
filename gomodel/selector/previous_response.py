"""The id of the response that a request to /v1/responses continues: its top-level `previous_response_id`.

Decides what is that member and which of its values are ids. Holds little of a body of any size: the bytes are the
caller's to keep. Of two such members the first counts. What is no JSON continues nothing; vLLM will refuse it.
"""

import json
import re
from collections.abc import Generator

from ..errors import InvalidBody
from .json_object import QUOTE, opened, string, to_member, token
from .json_patterns import Member
from .turns import CLOSED, Turn, Window

_PREVIOUS = Member("previous_response_id")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
# A name or a value that is longer, escapes included, is not the one.
_HELD_BYTES = 4096


class PreviousResponse:
    """Fed a body in pieces until `done`; `id` is then the response's, or None.

    `paused` says that the scan has given way: feed it b"" once the others have had their turn.
    """

    __slots__ = ("_window", "done", "id", "paused")

    def __init__(self) -> None:
        self._window = Window(_scan)
        self.paused = False
        self.done = False
        self.id: str | None = None

    def feed(self, piece: bytes | bytearray) -> None:
        """Look at the next piece."""
        window = self._window
        try:
            result = window.advance(piece)
        except InvalidBody:
            result = CLOSED
        if isinstance(result, str):
            self.id = result if _ID.fullmatch(result) else None
        self.done = (
            result == CLOSED or isinstance(result, str) or (not window.paused and len(window.held) > _HELD_BYTES)
        )
        self.paused = window.paused and not self.done
        if self.done:
            window.held.clear()


def _scan(body: bytearray, turn: Turn) -> Generator[int | str, int | None, None]:
    """Yields what a scan does until it can yield the id, or what stands in its place."""
    position = yield from opened(body, turn)
    position = yield from to_member(body, turn, position, _PREVIOUS, after_value=False)
    position = yield from token(body, turn, position)
    if body[position] != QUOTE:
        yield CLOSED
    start, end = yield from string(body, turn, position + 1)
    try:
        yield str(json.loads(body[start - 1 : end + 1]))
    except ValueError:
        yield CLOSED
