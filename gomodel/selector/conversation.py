"""What names the conversation that a request goes on with, in its body: an id of the client's, or how it opens.

Decides which members are such an id, and what of the first user message tells one conversation from another: its whole
text up to TEXT_BYTES, since templates share their beginnings, and no `cache_control`, which moves from message to
message. Text is taken as it is written, escapes included, since one client writes it in one way. A body is read when it
is here, to its end or to LIMIT_BYTES, so that what is found never depends on how it arrived. What is no JSON names
nothing. Knows nothing of what a conversation is wanted for.
"""

from collections.abc import Callable, Generator
from zlib import crc32

from ..errors import InvalidBody
from .json_object import OPENERS, QUOTE, Found, nested_end, opened, string, to_member, token, value_end
from .json_patterns import Member
from .json_walk import CLOSERS, next_element, next_name
from .turns import PAUSED, SLICE_BYTES, Turn
from .usual_opening import ID_LIMIT_BYTES, Opening, cache_key, text_end

# What is behind it names nothing: a body may have a hundred megabytes, and is held until this has been looked for.
LIMIT_BYTES = 256 << 10
# So much of a text counts: the rest of the limit is for what stands before it, which must not decide where it is cut.
TEXT_BYTES = 192 << 10

_CACHE_KEY, _SESSION, _METADATA = Member("prompt_cache_key"), Member("session_id"), Member("metadata")
# Claude Code's `user_id` is the account and the session, in one word or as an object in a string.
_USER_ID, _SESSION_MARKS = b"user_id", (b"_session_", b"session_id")
_LIST = b"["[0]
# With more of them, as where there is code in it, a body is searched for the names.
_UNDERSCORES = 8
# Of a part of a message these say nothing of what was said.
_UNSAID = (b"type", b"cache_control")


# The client's own id, or None; and how the conversation opens, a checksum and a size, or None where it does not.
Named = tuple[bytes | None, tuple[int, int] | None]


# The same, and where the text begins if what stands before it is worth to be `known`; else 0.
Glance = tuple[bytes | None, tuple[int, int] | None, int]


def named_at_a_look(body: bytes | bytearray, opening: Opening, known: bytes = b"") -> Glance | None:
    """What a few looks find in all of a body, as they do in most; None where that takes a ConversationScan.

    `known` is what stood before the text in another body of this opening, as was said of that.
    """
    if len(body) > LIMIT_BYTES:
        body = body[:LIMIT_BYTES]
    if body.rfind(b"_") >= 0 and _may_have_id(body):
        at = body.rfind(b'"prompt_cache_key"')
        if at >= 0:
            key = cache_key(body, at)
            return None if key is None else (key, None, 0)
        # One look for both of the others, which hardly any body has; `rfind` is several times as fast as `find`.
        if body.rfind(b"session_") >= 0 and (body.rfind(b'"session_id"') >= 0 or body.rfind(b'"user_id"') >= 0):
            return None
    if known and body.startswith(known):
        start, begins = len(known), 0
        end = text_end(body, start)
    else:
        start, end, plain = opening.text(body)
        begins = start if plain else 0
    if end < 0:
        return None
    size = min(end - start, TEXT_BYTES)
    return None, (crc32(body[start : start + size]), size) if size else None, begins


def _may_have_id(body: bytes | bytearray) -> bool:
    """Whether one of the ids may be in it: each has an underscore in its name, and most bodies only a few.

    A single byte is looked for twenty times as fast as a name.
    """
    at = len(body)
    for _ in range(_UNDERSCORES):
        at = body.rfind(b"_", 0, at)
        if at < 0:
            return False
        if body.startswith(b'_key"', at) or body.endswith(b"session", 0, at):
            return True
    return True


class ConversationScan:
    """Looks into any body for what names its conversation; feed it until it is not `paused`.

    `paused` says that the scan has given way to others, as each does that takes turns. In the end it has `named` the
    same as a look that is enough.
    """

    __slots__ = ("_body", "_crc", "_opening", "_scan", "_size", "_start", "_turn", "id", "paused")

    def __init__(self, body: bytes | bytearray, opening: Opening) -> None:
        """`body`: all of it, or as much as LIMIT_BYTES or more."""
        self._body = body if len(body) <= LIMIT_BYTES else body[:LIMIT_BYTES]
        self._opening = opening
        self._turn = Turn()
        self._scan = self._look()
        self._crc = self._size = 0
        self._start = -1  # of text whose end has not been seen
        self.id: bytes | None = None
        self.paused = False

    def feed(self, _nothing: bytes | bytearray = b"", /) -> None:
        """Take one turn."""
        body, turn = self._body, self._turn
        turn.begin(len(body))
        try:
            result = next(self._scan)
        except StopIteration:
            self.paused = False
            return
        self.paused = turn.over(result, len(body))

    @property
    def named(self) -> Named:
        """What was found."""
        return self.id, (self._crc, self._size) if self._size and self.id is None else None

    def _add(self, start: int, end: int) -> None:
        end = min(end, start + TEXT_BYTES - self._size)
        self._crc = crc32(self._body[start:end], self._crc)
        self._size += end - start
        self._start = -1

    def _look(self) -> Generator[int, int | None, None]:
        """With a scan for each thing that may be in it."""
        body = self._body
        for name, look in (
            (b'"prompt_cache_key"', self._to_cache_key),
            (b'"session_id"', self._to_session),
            (b'"user_id"', self._to_user),
        ):
            if body.rfind(name) >= 0:
                yield from self._complete(look)
                if self.id is not None:
                    return
        yield from self._complete(self._to_text)

    def _complete(self, look: Callable[[], Found]) -> Generator[int, int | None, None]:
        """One look from the body's start, with a limit of its own; ends where the body does."""
        body, turn = self._body, self._turn
        turn.end = min(len(body), SLICE_BYTES)
        scan = look()
        try:
            while True:
                result = next(scan)
                if result != PAUSED and turn.end >= len(body):
                    if self._start >= 0:
                        self._add(self._start, len(body))  # it goes on behind the limit
                    return
                yield result
        except (StopIteration, InvalidBody):
            return

    def _to_cache_key(self) -> Found:
        return (yield from self._to_id(_CACHE_KEY, b'"prompt_cache_key"'))

    def _to_session(self) -> Found:
        return (yield from self._to_id(_SESSION, b'"session_id"'))

    def _to_id(self, member: Member, name: bytes) -> Found:
        """The string that a top-level member is, the last of that name, as it is for most servers; ends behind it."""
        body, turn = self._body, self._turn
        position = yield from opened(body, turn)
        position = yield from to_member(body, turn, position, member, after_value=False)
        position = yield from self._id(position)
        while body.rfind(name, position) >= 0:
            position = yield from to_member(body, turn, position, member, after_value=True)
            position = yield from self._id(position)
        return position

    def _id(self, position: int) -> Found:
        """The string that a value is, if it is one and may be an id; ends behind it."""
        body, turn = self._body, self._turn
        position = yield from token(body, turn, position)
        if body[position] != QUOTE:
            self.id = None
            return (yield from value_end(body, turn, position))
        start, position = yield from string(body, turn, position + 1)
        self.id = bytes(body[start:position]) if 0 < position - start <= ID_LIMIT_BYTES else None
        return position + 1

    def _to_user(self) -> Found:
        """The `user_id` of the top-level metadata, where it names a session."""
        body, turn = self._body, self._turn
        position = yield from opened(body, turn)
        position = yield from to_member(body, turn, position, _METADATA, after_value=False)
        position = yield from token(body, turn, position)
        if body[position] not in OPENERS:
            return position
        position += 1
        while True:
            name, position = yield from next_name(body, turn, position)
            if name is None:
                return position
            if name == _USER_ID:
                position = yield from self._id(position)
                if self.id is not None and not any(mark in self.id for mark in _SESSION_MARKS):
                    self.id = None
                return position
            position = yield from value_end(body, turn, position)

    def _to_text(self) -> Found:
        """The first user message, or the string that stands for it."""
        body, turn = self._body, self._turn
        position = yield from opened(body, turn)
        position = yield from to_member(body, turn, position, self._opening.member, after_value=False)
        position = yield from token(body, turn, position)
        if body[position] == QUOTE:
            return (yield from self._string(position))
        if body[position] != _LIST:
            return position
        position += 1
        while True:
            position = yield from token(body, turn, position)
            if body[position] in OPENERS:
                content, position = yield from self._message(position + 1)
                if content:
                    return (yield from self._content(content))
            elif body[position] in CLOSERS:
                return position
            else:
                position = yield from value_end(body, turn, position)
            position = yield from next_element(body, turn, position)

    def _message(self, position: int) -> Generator[int, int | None, tuple[int, int]]:
        """From behind the brace of a message: where its content begins if it is the user's, else 0; and its end."""
        body, turn = self._body, self._turn
        content, users = 0, False
        while not (users and content):
            name, position = yield from next_name(body, turn, position)
            if name is None:
                return 0, position
            if name == b"role":
                start = yield from token(body, turn, position)
                position = yield from value_end(body, turn, start)
                users = body[start:position] == b'"user"'
                if not users:
                    return 0, (yield from nested_end(body, turn, position))
                continue
            if name == b"content":
                content = position
                if users:
                    break
            position = yield from value_end(body, turn, position)
        return content, position

    def _content(self, position: int) -> Found:
        """What a message says: a string, or parts, which say the same as their strings one after the other."""
        body, turn = self._body, self._turn
        position = yield from token(body, turn, position)
        if body[position] == QUOTE:
            return (yield from self._string(position))
        if body[position] != _LIST:
            return position
        position += 1
        while True:
            position = yield from token(body, turn, position)
            if body[position] in CLOSERS:
                return position
            if body[position] in OPENERS:
                position += 1
                while True:
                    name, position = yield from next_name(body, turn, position)
                    if name is None:
                        break
                    if name in _UNSAID:
                        position = yield from value_end(body, turn, position)
                    else:
                        position = yield from self._said(position)
            else:
                position = yield from self._said(position)
            position = yield from next_element(body, turn, position)

    def _said(self, position: int) -> Found:
        body, turn = self._body, self._turn
        position = yield from token(body, turn, position)
        if body[position] == QUOTE:
            return (yield from self._string(position))
        self._start = position
        position = yield from value_end(body, turn, position)
        self._add(self._start, position)
        return position

    def _string(self, position: int) -> Found:
        self._start = position + 1
        _, position = yield from string(self._body, self._turn, position + 1)
        self._add(self._start, position)
        return position + 1
