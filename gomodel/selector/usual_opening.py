"""How most clients write what names a conversation: found in a few looks, by regular expressions.

Decides which bodies are that plain; any other is left to the scan (`conversation`), which finds the same in them. Knows
nothing of turns: it reads a few slices at the most.
"""

import re
from collections.abc import Callable
from functools import cache

from .json_patterns import SPACE, VALUE, Member, compiled
from .turns import SLICE_BYTES

# An id that is longer is none.
ID_LIMIT_BYTES = 1024

_BACKSLASH = b"\\"[0]

# The messages that most clients write, from the opening brace into their text.
_TYPED = rf'(?:"type"{SPACE}:{SPACE}"[a-z_]*+"{SPACE},{SPACE}|)'
_CONTENT = rf'{SPACE},{SPACE}"content"{SPACE}:{SPACE}'
_PART = rf'\[{SPACE}\{{{SPACE}"type"{SPACE}:{SPACE}"[a-z_]*+"{SPACE},{SPACE}"text"{SPACE}:{SPACE}"'
_MESSAGE = (
    rf'{SPACE}\{{{SPACE}{_TYPED}(?:"role"{SPACE}:{SPACE}'
    rf'(?:"user"{_CONTENT}(?:"()|{_PART}())|"(?!user")[a-z]*+"{_CONTENT}"())|"content"{SPACE}:{SPACE}"())'
)
_PLAIN_TEXT, _ONE_PART, _OTHERS_TEXT, _BEFORE_ROLE, _STRING = 1, 2, 3, 4, 5
_message = compiled(_MESSAGE).match
# From the end of one message's text: a match costs more than what it reads, so one goes as far as it can.
_next_message = compiled(rf"{SPACE}\}}{SPACE},{_MESSAGE}").match
_role_behind = compiled(rf'{SPACE},{SPACE}"role"{SPACE}:{SPACE}"(?:(user")|[a-z]*+"{SPACE}\}}{SPACE},)').match
_to_quote = compiled(r'(?:[^"\\]++|\\.|)*+"').match
# What is said by others before the first user message; more is left to the scan.
_USUAL_OTHERS = 3


@cache
def _last_member() -> re.Pattern[bytes]:
    """From the name that was found last to the end of the body, where that is flat: what stands in it is at the top
    level."""
    return compiled(
        rf'"prompt_cache_key"{SPACE}:{SPACE}"([^"\\]{{1,{ID_LIMIT_BYTES}}}+)"'
        rf'(?:{SPACE},{SPACE}"[^"\\]*+"{SPACE}:{SPACE}{VALUE}|)*+{SPACE}\}}{SPACE}\Z'
    )


@cache
def _part_end() -> re.Pattern[bytes]:
    """From the end of a part's text to that of the list of parts, of which it is the only one."""
    return compiled(rf'(?:{SPACE},{SPACE}"cache_control"{SPACE}:{SPACE}{VALUE}|){SPACE}\}}{SPACE}\]')


class Opening:
    """Where the conversations of a route open: the name of a top-level member."""

    __slots__ = ("_into", "_name", "member")

    def __init__(self, name: str) -> None:
        self.member = Member(name)
        self._name = name
        self._into: Callable[[bytes | bytearray, int, int], re.Match[bytes] | None] | None = None

    def text(self, body: bytes | bytearray) -> tuple[int, int, bool]:
        """Where the string, or the first user message of the list, says what; an end of -1 if it takes more to tell.

        And whether what stands before it decides that: the text of another body that begins so begins there as well.
        """
        found = (self._into or self._compiled())(body, 0, SLICE_BYTES)
        for _ in range(_USUAL_OTHERS + 1):
            if found is None:
                break
            start, kind = found.end(), found.lastindex
            end = text_end(body, start)
            if kind in (_PLAIN_TEXT, _STRING):
                return start, end, True
            if end < 0:
                break
            if kind == _ONE_PART:
                return start, end if _part_end().match(body, end + 1, end + SLICE_BYTES) is not None else -1, False
            if kind == _OTHERS_TEXT:
                found = _next_message(body, end + 1, end + SLICE_BYTES)
                continue
            found = _role_behind(body, end + 1)
            if found is None:
                break
            if found.lastindex:
                return start, end, False
            found = _message(body, found.end(), found.end() + SLICE_BYTES)
        return 0, -1, False

    def _compiled(self) -> Callable[[bytes | bytearray, int, int], re.Match[bytes] | None]:
        """From the start of a body into the string that the member is, or into the text of its list's first message."""
        before = rf'(?:\xef\xbb\xbf)?+{SPACE}\{{{self.member.others}{SPACE}"{self._name}"{SPACE}:{SPACE}'
        self._into = compiled(rf'{before}(?:\[{_MESSAGE}|"())').match
        return self._into


# The messages of a chat, the input of a response, the prompt of a completion.
MESSAGES, INPUT, PROMPT = Opening("messages"), Opening("input"), Opening("prompt")


def cache_key(body: bytes | bytearray, at: int) -> bytes | None:
    """The `prompt_cache_key` whose name was found last, at `at`; None where it takes more to tell."""
    if len(body) - at > SLICE_BYTES or body[at - 1] == _BACKSLASH:
        return None
    found = _last_member().match(body, at)
    return bytes(found[1]) if found is not None else None


def text_end(body: bytes | bytearray, start: int) -> int:
    """Where the string that begins at `start` ends, by few looks; -1 where that takes more."""
    end = body.find(b'"', start)
    if end > start and body[end - 1] == _BACKSLASH:
        found = _to_quote(body, start, start + SLICE_BYTES)
        return found.end() - 1 if found is not None else -1
    return end
