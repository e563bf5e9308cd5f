"""The keys file (GOMODEL_KEYS_FILE): TOML that says who may ask and how much, as frozen entries or all that is wrong.

Decides what an entry may hold (contract section 9). Opens nothing: it is given the bytes. A problem names the entry,
its field and, where it can be told, the line; never a key or a digest.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, time
from functools import lru_cache
from hashlib import sha256
from typing import Any

from .settings import ConfigError, Key, Secret

# Some 40,000 entries; a file of more is no list that somebody keeps.
KEYS_FILE_BYTES = 8 << 20
# What the holder of the master key is called wherever names stand.
MASTER = "master"
_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")
_LARGEST = (1 << 31) - 1
_HEADER = re.compile(r"^[ \t]*\[[ \t]*keys[ \t]*\.[ \t]*(?:\"([^\"\n]+)\"|'([^'\n]+)'|([\w-]+))[ \t]*\]", re.MULTILINE)
_ANY_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)
_SHOWN = 20
_EXAMPLE = 'write one as [keys.alice] with sha256 = "..."; gomodel new-key NAME prints it'


def _digests(value: Any) -> tuple[bytes, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in texts):
        raise ValueError("is not a SHA-256 in 64 hexadecimal digits, nor a list of them")
    return tuple(bytes.fromhex(text) for text in texts)


def _whole(least: int, most: int = _LARGEST) -> Callable[[Any], int]:
    def whole(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"is not a whole number from {least} to {most}")
        return value

    return whole


def _weight(value: Any) -> float:
    if type(value) not in (int, float) or not 0.001 <= value <= 1000:
        raise ValueError("is not a number from 0.001 to 1000")
    return float(value)


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("is neither true nor false")
    return value


def _patterns(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
        raise ValueError('is no list of patterns such as ["vllm/*", "Qwen/*"]; leave it out to allow every model')
    return tuple(value)


def _choice(*accepted: str) -> Callable[[Any], str]:
    def choice(value: Any) -> str:
        if value not in accepted:
            raise ValueError(f"is not one of {', '.join(map(repr, accepted))}")
        return str(value)

    return choice


def _moment(value: Any) -> float:
    """POSIX time of a date, whose beginning in UTC is meant, or of a date and time, in UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime.combine(moment, time())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (AttributeError, ValueError):
        raise ValueError("is not a date such as 2027-01-31, nor a date and time (2027-01-31T12:00:00Z)") from None


_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "sha256": ("digests", _digests),
    "in_flight": ("in_flight", _whole(1)),
    "requests_per_minute": ("requests_per_minute", _whole(1)),
    "tokens_per_minute": ("tokens_per_minute", _whole(1)),
    "models": ("models", _patterns),
    "when_full": ("when_full", _choice("refuse", "wait")),
    "priority": ("priority", _whole(-_LARGEST)),
    "weight": ("weight", _weight),
    "passthrough": ("passthrough", _boolean),
    "admin": ("admin", _boolean),
    "metrics": ("metrics", _boolean),
    "expires": ("expires_at", _moment),
}


def checked_name(text: str) -> str:
    """The name of an entry. Raises ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError("a name is 1 to 64 of A-Z a-z 0-9 . _ @ + -")
    if text == MASTER:
        raise ValueError("the holder of GOMODEL_MASTER_KEY is called so")
    return text


def digests_of(secrets: Iterable[Secret]) -> frozenset[bytes]:
    """What a keys file would have for these keys."""
    return frozenset(sha256(each.reveal().encode(errors="surrogatepass")).digest() for each in secrets)


@lru_cache(maxsize=1)  # a reload reads a file again and again until it is whole; 10,000 entries take a second
def parse(data: bytes, masters: frozenset[bytes] = frozenset()) -> tuple[Key, ...]:
    """The entries of a keys file in its order; none of them may have a digest of `masters`.

    Raises ConfigError with all problems, which say the line and the entry.

    An empty file is a problem, since it looks like one that is being written; `[keys]` alone is none.
    """
    import tomllib  # noqa: PLC0415 - who has no such file does not wait for it

    try:
        text = data.decode()
        content = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError([f"line {data.count(10, 0, error.start) + 1}: no UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"no TOML: {_without_values(str(error))}"]) from None
    except RecursionError:
        raise ConfigError(["no TOML: it is nested too deeply"]) from None
    reading = _Reading(text)
    keys = tuple(reading.keys(content, dict.fromkeys(masters, MASTER)))
    if problems := reading.problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise ConfigError(problems[:_SHOWN] + more)
    return keys


def _without_values(said: str) -> str:
    """What the parser said, without the text of the file that some of its messages quote."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "...", said)


class _Reading:
    """One file being looked at."""

    def __init__(self, text: str) -> None:
        self.problems: list[str] = []
        self._text = text
        self._headers = {a or b or c: m for m in _HEADER.finditer(text) for a, b, c in [m.groups()]}

    def keys(self, content: dict[str, Any], owners: dict[bytes, str]) -> Iterator[Key]:
        """The entries that are good; `owners` has whose a digest is already."""
        for name in sorted(content.keys() - {"keys"}):
            self._problem(f"{name!a} is no table of a keys file: {_EXAMPLE}", name)
        entries = content.get("keys")
        if not isinstance(entries, dict):
            self.problems.append(f"there is no entry: {_EXAMPLE}")
            return
        for name, entry in entries.items():
            key = self._key(name, entry)
            if key is None:
                continue
            for digest in key.digests:
                other = owners.setdefault(digest, name)
                if other != name:
                    whose = "GOMODEL_MASTER_KEY" if other == MASTER else f"keys.{other}"
                    self._problem(f"keys.{name} has the same key as {whose}; each needs its own", name, "sha256")
            yield key

    def _key(self, name: str, entry: Any) -> Key | None:
        before = len(self.problems)
        shown = f"keys.{ascii(name)[1:-1]}"
        try:
            checked_name(name)
        except ValueError as error:
            self._problem(f"{shown}: {error}", name)
        if not isinstance(entry, dict):
            self._problem(f"{shown} is no table: {_EXAMPLE}", name)
            return None
        if "sha256" not in entry:
            self._problem(f"{shown} has no sha256; gomodel new-key NAME prints a key and its entry", name)
        values: dict[str, Any] = {}
        for field, value in entry.items():
            if field not in _FIELDS:
                near = difflib.get_close_matches(field.lower(), _FIELDS, 1, 0.0)[0]
                self._problem(f"{shown}: {field!a} is no field of an entry; the nearest is {near}", name, field)
                continue
            to, read = _FIELDS[field]
            try:
                values[to] = read(value)
            except ValueError as error:
                self._problem(f"{shown}.{field} {error}", name, field)
        return Key(name, **values) if len(self.problems) == before else None

    def _problem(self, said: str, entry: str, field: str | None = None) -> None:
        line = self._line(entry, field)
        self.problems.append(f"line {line}: {said}" if line else said)

    def _line(self, entry: str, field: str | None) -> int:
        """Where the field stands, or the entry; 0 where it is not written as a table of its own."""
        header = self._headers.get(entry)
        if header is None:
            return 0
        at = header.start()
        if field is not None:
            following = _ANY_HEADER.search(self._text, header.end())
            end = following.start() if following else len(self._text)
            found = re.compile(rf"^[ \t]*[\"']?{re.escape(field)}[\"']?[ \t]*=", re.MULTILINE)
            match = found.search(self._text, header.end(), end)
            at = match.start() if match else at
        return self._text.count("\n", 0, at) + 1
