"""The lines of a batch that are still to be run, some at a time and like next to like.

Decides the order: within a window, lines whose bodies begin alike follow each other, so that vLLM finds what it has
computed of a common beginning. Holds one window in memory. Blocks, and is called in a thread.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from .lines import Line, parse_line
from .validation import read_lines

_LINES = 1000
# Bodies may hold images.
_BYTES = 16 << 20
# By so much of their beginnings lines are ordered.
_BEGINNING = 4096


class Numbered(NamedTuple):
    """A line and its place among those of the file that are not blank, the first being 0."""

    place: int
    line: Line


class Windows:
    """`next` until it is empty, then `close`."""

    def __init__(self, path: Path, endpoint: str, line_limit_bytes: int, done: Callable[[int], bool]) -> None:
        """`done`: whether a line need not be run. Raises OSError."""
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115 - closed by close
        self._lines = read_lines(self._file, line_limit_bytes)
        self._endpoint = endpoint
        self._done = done
        self._index = -1

    def next(self) -> list[Numbered]:
        """The next window. Raises OSError; BadLine for a file that has changed since it was looked at."""
        found: list[Numbered] = []
        size = 0
        for raw in self._lines:
            if not raw.strip():
                continue
            self._index += 1
            if self._done(self._index):
                continue
            found.append(Numbered(self._index, parse_line(raw, self._endpoint)))
            size += len(raw)
            if len(found) >= _LINES or size >= _BYTES:
                break
        found.sort(key=lambda each: each.line.body[:_BEGINNING])
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()
