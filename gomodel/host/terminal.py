"""Colours for people: only where a terminal shows them and nobody has said that he wants none.

Decides which words mean which colour. Knows nothing of what is said.
"""

import os
from typing import Protocol

_CODES = {"good": "32", "bad": "31", "doubtful": "33", "dim": "2"}


class Stream(Protocol):
    """What is written to."""

    def isatty(self) -> bool: ...


def shows_colours(stream: Stream | None) -> bool:
    """Whether `stream` is a terminal that is to have colours: NO_COLOR, not empty, forbids them (no-color.org)."""
    if stream is None or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def coloured(text: str, mood: str) -> str:
    """`text` in the colour of `mood`: good, bad, doubtful or dim."""
    return f"\x1b[{_CODES[mood]}m{text}\x1b[0m"
