"""Reads variables and the files that hold secrets, noting every problem instead of stopping at the first.

Decides how a problem is worded: with the variable's name, never with a secret's value. Knows no variable by name.
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from . import values
from .files import Files
from .settings import Secret
from .variable import FILE_SUFFIX, Variable

# Longer than any key; a header line of aiohttp and of uvicorn could not carry more.
_KEY_FILE_BYTES = 8000
# The old, the new and some to spare.
_KEYS = 8
_QUOTES = "\"'"
# What a file that is cut short does not end with, but by chance; the second ends the last line of a PEM file.
_ENDS = (b"\n", b"-----")

_T = TypeVar("_T")


class Reader:
    """Reads variables out of one environment, noting problems and warnings instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str], files: Files) -> None:
        self.environ = environ
        self._files = files
        self.problems: list[str] = []
        self.ended: dict[str, bool] = {}  # the files that variables named, and whether their last lines have an end
        self.warnings: list[str] = []

    def problem(self, name: str, message: object) -> None:
        # ascii(): a name may hold a line break or bytes that are no text.
        self.problems.append(f"{ascii(name)[1:-1]}: {message}")

    def given(self, name: str) -> bool:
        return bool(self.environ.get(name))

    def given_secret(self, name: str) -> bool:
        """Whether `secret` would look for one, be it readable or not."""
        return self.given(name) or self.given(name + FILE_SUFFIX)

    def value(self, variable: Variable, name: str | None = None) -> Any:
        """The value of the variable, or of `name` in its place; the default when unset or when a problem was noted."""
        value = self.parsed(name or variable.name, variable.parse)
        return variable.value if value is None else value

    def parsed(self, name: str, parse: Callable[[str], _T], *, trim: bool = True) -> _T | None:
        """The value as `parse` reads it; None when the variable is unset (or empty) or a problem was noted."""
        if not (text := self.environ.get(name)):
            return None
        try:
            if values.has_reference(text):
                raise ValueError("holds an unresolved ${...}; write out what it stands for")
            value = parse(text.strip() if trim else text)
        except ValueError as error:
            self.problem(name, error)
            return None
        if _is_quoted(text.strip()):
            self.warnings.append(
                f"{name} begins and ends with a quote, which is part of the value; "
                "docker's and kubectl's env files take quotes as they stand"
            )
        return value

    def secret(self, variable: Variable, name: str | None = None) -> Secret | None:
        """The key in the variable, or in `name` in its place, or in the file that `<name>_FILE` names."""
        return next(iter(self._secrets(variable, name or variable.name, 1)), None)

    def secrets(self, variable: Variable) -> tuple[Secret, ...]:
        """As `secret`, where the file may hold several keys, one a line: the next beside the one it replaces."""
        return self._secrets(variable, variable.name, _KEYS)

    def _secrets(self, variable: Variable, name: str, most: int) -> tuple[Secret, ...]:
        file = name + FILE_SUFFIX
        if self.given(name) and self.given(file):
            self.problem(name, f"is set and so is {file}; keep one of the two")
            return ()
        key: str | None = self.parsed(name, variable.parse, trim=False)
        if key is not None:
            return (Secret(key),)
        keys: list[str] = self.parsed(file, lambda path: self._keys_in(file, path, variable.parse, most)) or []
        if any(map(_is_quoted, keys)):
            self.warnings.append(f"{file}: the key begins and ends with a quote, which is part of it")
        return tuple(map(Secret, keys))

    def file(self, name: str, limit_bytes: int) -> bytes | None:
        """What is in the file that the variable names; None when it is unset or a problem was noted."""
        return self.parsed(name, lambda path: self._content(name, path, limit_bytes))

    def regular(self, name: str) -> None:
        """Note a problem when the variable names something that whoever opens it might wait for, such as a pipe."""
        path = self.environ.get(name, "")
        if path and os.path.exists(path) and not os.path.isfile(path):
            self.problem(name, f"{path!r} is no file")

    def _keys_in(self, name: str, path: str, parse: Callable[[str], str], most: int) -> list[str]:
        """The keys a secret file holds, up to `most`: of one alone nothing but a trailing newline is taken away.

        Raises ValueError.
        """
        # latin-1 cannot fail; bytes outside ASCII are then refused as they are in a variable.
        text = re.sub(r"\r?\n\Z", "", self._content(name, path, _KEY_FILE_BYTES).decode("latin-1"))
        lines = re.split(r"\r?\n", text) if most > 1 else [text]
        try:
            if not text:
                raise ValueError("is empty")
            if not all(lines):
                raise ValueError("holds whitespace: an empty line")
            if len(lines) > most:
                raise ValueError(f"holds more than {most} keys")
            return [parse(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{path!r} {error}") from None

    def _content(self, name: str, path: str, limit_bytes: int) -> bytes:
        try:
            content = self._files.read(path, limit_bytes)
        except (OSError, ValueError) as error:  # ValueError: a path that holds NUL
            raise ValueError(f"{path!r} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        self.ended[f"{name} ({path!r})"] = content.endswith(_ENDS)
        return content


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES
