"""Reads variables and the files that hold secrets, noting every problem instead of stopping at the first.

Decides how a problem is worded: with the variable's name, never with a secret's value. Knows no variable by name.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from . import quantities as q
from .settings import Secret

# Longer than any key; a header line of aiohttp and of uvicorn could not carry more.
_KEY_FILE_BYTES = 8000

_T = TypeVar("_T")


class Reader:
    """Reads variables out of one environment, noting problems and warnings instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def problem(self, name: str, message: object) -> None:
        # ascii(): a name may hold a line break or bytes that are no text.
        self.problems.append(f"{ascii(name)[1:-1]}: {message}")

    def given(self, name: str) -> bool:
        return bool(self.environ.get(name))

    def parsed(self, name: str, parse: Callable[[str], _T], *, trim: bool = True) -> _T | None:
        """The value as `parse` reads it; None when the variable is unset (or empty) or a problem was noted."""
        if not (text := self.environ.get(name)):
            return None
        try:
            if q.has_reference(text):
                raise ValueError("holds an unresolved ${...}; write out what it stands for")
            return parse(text.strip() if trim else text)
        except ValueError as error:
            self.problem(name, error)
            return None

    def secret(self, name: str) -> Secret | None:
        """The key in the variable, or in the file that `<name>_FILE` names."""
        if self.given(name) and self.given(f"{name}_FILE"):
            self.problem(name, f"is set and so is {name}_FILE; keep one of the two")
            return None
        key = self.parsed(name, q.bearer_token, trim=False) or self.parsed(f"{name}_FILE", _key_in_file)
        return None if key is None else Secret(key)


def readable_file(path: str) -> str:
    """`path`, if it can be opened. Raises ValueError."""
    _first_bytes(path, 1)
    return path


def _key_in_file(path: str) -> str:
    """The key a secret file holds, without one trailing newline."""
    content = _first_bytes(path, _KEY_FILE_BYTES + 1)
    # latin-1 cannot fail; bytes outside ASCII are then refused as they are in a variable.
    key = re.sub(r"\r?\n\Z", "", content.decode("latin-1"))
    try:
        if not key or len(content) > _KEY_FILE_BYTES:
            raise ValueError("is too long for a key" if key else "is empty")
        return q.bearer_token(key)
    except ValueError as error:
        raise ValueError(f"{path!r} {error}") from None


def _first_bytes(path: str, limit: int) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise ValueError(f"{path!r} cannot be read: {error.strerror}") from None
