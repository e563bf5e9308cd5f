"""The id of the response that a request to /v1/responses continues: its top-level `previous_response_id`.

Decides what is that member and which of its values are ids. Holds little of a body of any size: the bytes are the
caller's to keep. Of two such members the first counts. What is no JSON continues nothing; vLLM will refuse it.
"""

import json
import re
from collections.abc import Generator

from ..errors import InvalidBody
from .json_object import CLOSED, QUOTE, Member, Turn, opened, string, to_member, token

_PREVIOUS = Member("previous_response_id")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
# A name or a value that is longer, escapes included, is not the one.
_HELD_BYTES = 4096


class PreviousResponse:
    """Fed a body in pieces until `done`; `id` is then the response's, or None.

    `paused` says that the scan has given way: feed it b"" once the others have had their turn.
    """

    __slots__ = ("_dropped", "_held", "_scan", "_turn", "done", "id", "paused")

    def __init__(self) -> None:
        self._held = bytearray()
        self._turn = Turn()
        self._scan = _scan(self._held, self._turn)
        self._dropped: int | None = None
        self.paused = False
        self.done = False
        self.id: str | None = None

    def feed(self, piece: bytes | bytearray) -> None:
        """Look at the next piece."""
        held, turn = self._held, self._turn
        held += piece
        turn.begin(len(held))
        try:
            result = self._scan.send(self._dropped)
        except InvalidBody:
            result = CLOSED
        if isinstance(result, str):
            self.id = result if _ID.fullmatch(result) else None
            self.done = True
        elif result == CLOSED:
            self.done = True
        else:
            self._dropped = dropped = max(0, result)  # while it is paused nothing is done with
            del held[:dropped]
            turn.drop(dropped)
            self.paused = turn.over(result, len(held))
            self.done = not self.paused and len(held) > _HELD_BYTES
        if self.done:
            self.paused = False
            held.clear()


def _scan(body: bytearray, turn: Turn) -> Generator[int | str, int | None, None]:
    """Yields what `json_object` does until it can yield the id, or what stands in its place."""
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
