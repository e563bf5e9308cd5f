"""JSON as regular expressions: white space, strings, whole values and members, in possessive loops that never go back.

Decides what is passed over in one match; what is too deep or too long for that is followed by `json_object`. Knows
nothing of where a body is cut.

Patterns with whole values in them take a millisecond to compile. Those that not every process needs are compiled when
they are first looked with, so that no start waits for them.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import cast

# Each possessive loop over a group has an empty last alternative: CPython before 3.11.5 (gh-106052) otherwise leaves
# the position inside the iteration that failed. Strings are passed over from quote to quote, since "anything but one
# byte" is by far the fastest class; only `\"` after some other byte goes on, and a quote after `\\` is left to
# `json_object.string`. So is text longer than the cap, for bytes.find is ten times faster still. Brackets are unrolled
# as deep as a tool's JSON schema usually goes.
SPACE = r"[ \t\n\r]*+"
_TEXT = r'[^"]{0,2047}+'
_ESCAPED_QUOTES = rf'(?:(?:(?<=[^\\]\\)|(?<=[^\\]\\\\\\))"{_TEXT}|)*+'
_STRING = rf'"{_TEXT}(?:(?<!\\)"|{_ESCAPED_QUOTES}(?:(?<!\\)|(?<=[^\\]\\\\))")'
_PLAIN = rf'[^"{{}}\[\]]++|{_STRING}'
_BALANCED = rf"(?:{_PLAIN}|)*+"
for _ in range(6):
    _BALANCED = rf"(?:{_PLAIN}|[{{\[]{_BALANCED}[}}\]]|)*+"
_SCALAR = r"[-+.0-9A-Za-z]"
VALUE = rf"(?:{_STRING}|{_SCALAR}++|[{{\[]{_BALANCED}[}}\]])"
_NAME = rf'{SPACE}"[^"]{{0,63}}+(?<!\\)"{SPACE}:{SPACE}'


def compiled(pattern: str) -> re.Pattern[bytes]:
    """A pattern in which a dot is any byte."""
    return re.compile(pattern.encode(), re.DOTALL)


# The match method of a pattern that can match nothing at all, and so always matches.
Total = Callable[[bytes | bytearray, int, int], re.Match[bytes]]


def _total(pattern: str) -> Total:
    return cast("Total", compiled(pattern).match)


@cache
def elements() -> Total:
    """Whole elements of an array, each with the comma behind it."""
    return _total(rf"(?:{SPACE}{VALUE}{SPACE},|)*+")


@cache
def balanced() -> Total:
    """What stands between brackets, with whole pairs of them in it."""
    return _total(_BALANCED)


space = _total(SPACE)
scalar = _total(rf"{_SCALAR}*+")
descent = _total(r'(?:[^"\]}]++|"[^"\\\[\]{}]{0,63}+"|)*+')
closing = _total(r"[\]}]*+")
AT_MEMBER, IN_NESTED, IN_STRING = 1, 2, 3


class Member:
    """A name that may be looked for, of letters and `_`; `others` is the pattern of whole members before it.

    `other` is the pattern of one member of another name, without a comma behind it.
    """

    __slots__ = ("_ahead", "_member", "is_name", "other", "others")

    def __init__(self, name: str) -> None:
        written = "".join(f"(?:{each}|{_escape(each)})" for each in name)
        self._member = rf'{SPACE}"{written}"{SPACE}:{SPACE}'
        self.is_name = compiled(written).fullmatch
        self.other = rf"(?!{self._member}){_NAME}{VALUE}{SPACE}"
        self.others = rf"(?:{self.other},|)*+"
        self._ahead: Total | None = None

    def ahead(self) -> Total:
        """Whole members, then how the next one starts, as far as that is easy to tell: lastindex is one of the three
        constants, or None."""
        if self._ahead is None:
            self._ahead = _total(rf'{self.others}(?:{self._member}()|{_NAME}(?:([\[{{])|(")))?')
        return self._ahead


def _escape(character: str) -> str:
    """The pattern of its JSON escape, whose hexadecimal digits are in either case (RFC 8259 section 7)."""
    return r"\\u00" + "".join(f"[{digit}{digit.upper()}]" if digit > "9" else digit for digit in f"{ord(character):x}")
