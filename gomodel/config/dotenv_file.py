"""The `.env` file: names and values, or what is wrong in which line.

Decides how a line is read (python-dotenv's grammar), what `${NAME}` and `${NAME:-default}` become, and that nothing
is skipped in silence. Knows no variable's meaning; the content of a line is never quoted, since it may be a key.
"""

import io
import re
from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from dotenv.parser import Binding, parse_stream
from dotenv.variables import Variable, parse_variables

from .files import Files

# Malformed lines that are listed; with more of them it is another kind of file, and the rest says nothing new.
_LISTED = 20
# Far more than a configuration; the parser takes up to a quarter of a second for it.
_LIMIT_BYTES = 64 << 10

# Dots and dashes are no shell names, but other readers of the same file (compose, Spring) allow them.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
# Not in a reference, though: ${NAME-default} has another meaning in a shell than a name with a dash.
_REFERENCED_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LINE_END = re.compile(r"\r\n|\n|\r")


class DotenvFile(NamedTuple):
    """What the file says. `unresolved` are the variables left with a reference in their value; each was reported.

    `warnings` are about lines without an effect; `referenced` are the names that lines refer to; `ended` says that
    nothing stands behind the last line end, where a file that is cut short mostly has something.
    """

    values: Mapping[str, str] = MappingProxyType({})
    problems: tuple[str, ...] = ()
    unresolved: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()
    referenced: frozenset[str] = frozenset()
    ended: bool = True


def read(path: Path, environ: Mapping[str, str], files: Files | None = None) -> DotenvFile:
    """The variables of the file at `path`, references filled in from `environ` over the lines above.

    A missing file is an empty one. Never raises for what the file holds or for not being able to read it: both are
    problems, with their line where there is one. Contract section 1.
    """
    try:
        # utf-8-sig: editors on Windows put a byte order mark in front of the first name.
        text = (files or Files()).read(path, _LIMIT_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        return DotenvFile()
    except OSError as error:
        return DotenvFile(problems=(f"{path}: cannot be read: {error.strerror}",))
    except UnicodeDecodeError as error:
        line = 1 + len(_LINE_END.findall(error.object[: error.start].decode("latin-1")))
        return DotenvFile(problems=(f"{path} line {line}: is not UTF-8",))
    return parse(text, environ, str(path))


def parse(text: str, environ: Mapping[str, str], origin: str = ".env") -> DotenvFile:
    """The variables of a file's text; `origin` is what problems call the file.

    Of two lines for one name the later counts. A variable that `environ` has is not looked at beyond its syntax.
    """
    values: dict[str, str] = {}
    unresolved: dict[str, str] = {}
    problems: list[str] = []
    malformed = 0
    warnings: dict[str, str] = {}  # one for each name
    referenced: set[str] = set()
    lines: dict[str, int] = {}
    known = ChainMap(dict(environ), values)
    for binding in parse_stream(io.StringIO(text)):
        line = _first_line(binding)
        where = f"{origin} line {line}"
        name, value = binding.key, binding.value
        if name is None and not binding.error:
            continue
        if binding.error or name is None or value is None or not _NAME.fullmatch(name):
            malformed += 1
            if malformed <= _LISTED:
                problems.append(f"{where}: is not NAME=value")
            continue
        if name in lines:
            warnings[name] = f"{where}: {name} is set again; line {lines[name]} has no effect"
        lines[name] = line
        referenced |= {atom.name for atom in parse_variables(value) if isinstance(atom, Variable)}
        if name not in environ:
            filled, missing = _filled(value, known)
            values.pop(name, None)
            if not missing:
                values[name] = filled
                continue
            # A value built from a line that was reported needs no second report.
            if new := missing - unresolved.keys():
                problems.append(f"{where}: {name}: {_explained(new)}")
            unresolved[name] = value
    if malformed > _LISTED:
        problems.append(f"{origin}: {malformed - _LISTED} further lines are not NAME=value")
    return DotenvFile(
        unresolved | values,
        tuple(problems),
        frozenset(unresolved),
        tuple(warnings.values()),
        frozenset(referenced),
        ended=not text or text.endswith(("\n", "\r")),
    )


def _filled(value: str, known: Mapping[str, str]) -> tuple[str, set[str]]:
    """`value` with its references filled in, and those that could not be: names, or "" for a malformed reference.

    An empty variable counts as unset, as everywhere, so that `${KEY}` cannot silently turn a key into none; an empty
    default (`${KEY:-}`) says that nothing is meant.
    """
    parts: list[str] = []
    missing: set[str] = set()
    for atom in parse_variables(value):
        if not isinstance(atom, Variable):
            part = atom.resolve({})
            malformed = "${" in part
        else:
            part = known.get(atom.name) or atom.default or ""
            malformed = not _REFERENCED_NAME.fullmatch(atom.name) or "${" in (atom.default or "")
            if not part and atom.default is None:
                missing.add(atom.name)
        if malformed:
            missing.add("")
        parts.append(part)
    return "".join(parts), missing


def _explained(missing: set[str]) -> str:
    if "" in missing:
        return "holds a reference that is neither ${NAME} nor ${NAME:-default}"
    named = ", ".join(f"${{{name}}}" for name in sorted(missing))
    return f"{named} is not set; set it in the environment or above this line, or write ${{NAME:-default}}"


def _first_line(binding: Binding) -> int:
    """The line a statement starts on; python-dotenv counts from the blank lines before it."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(_LINE_END.findall(blank))
