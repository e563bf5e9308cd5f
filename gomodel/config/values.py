"""One environment value at a time: text in, a value out, or a ValueError saying what is wrong and what is accepted.

Decides how booleans, durations, sizes, numbers and lists are spelled; `addresses` has what says where something is,
`header_fields` what names a header or stands in one. Knows no variable's name, reads no file and no environment. A
message completes the sentence "<NAME>: ...". It quotes the value, unless that may be a secret.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import TypeVar

# Event loops clamp or overflow timers beyond this (uvloop: 100 years); a longer value is a typo in any case.
_LONGEST_S = Decimal(100 * 365 * 24 * 3600)

_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,15})?"
_UNITS = {"d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_DURATION = re.compile("".join(f"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _UNITS))
_SIZE = re.compile(r"([0-9]{1,15})(?:([KMG])(?:i?B)?|B)?", re.IGNORECASE)
_SIZES = "use bytes or 500K, 10M, 1G"
_REFERENCE = re.compile(r"\$\{[^}]*\}")

_Amount = TypeVar("_Amount", int, float)

_BOOLEANS = dict.fromkeys(("true", "1", "yes", "on"), True) | dict.fromkeys(("false", "0", "no", "off"), False)


def quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def boolean(text: str) -> bool:
    """true/1/yes/on or false/0/no/off in any case; contract section 1."""
    try:
        return _BOOLEANS[text.lower()]
    except KeyError:
        raise ValueError(f"{quoted(text)} is not a boolean; use true, 1, yes, on or false, 0, no, off") from None


def duration_s(text: str) -> float:
    """Seconds from `600`, `500ms`, `30s`, `10m`, `1h30m`, `30d` (largest unit first, decimals allowed), 0 included."""
    accepted = "use seconds (600) or 500ms, 30s, 10m, 1h30m, 30d"
    if text.startswith("-"):
        raise ValueError(f"{quoted(text)} is negative; {accepted}")
    match = _DURATION.fullmatch(f"{text}s" if re.fullmatch(_NUMBER, text) else text)
    if not text or match is None:
        raise ValueError(f"{quoted(text)} is not a duration; {accepted}")
    total = sum((Decimal(count) * _UNITS[unit] for unit, count in match.groupdict().items() if count), Decimal(0))
    if total > _LONGEST_S:
        raise ValueError(f"{quoted(text)} is longer than 100 years; {accepted}")
    return float(total)


def timeout_s(text: str) -> float:
    """A duration in seconds that must be longer than 0, since a timeout of 0 would fail everything."""
    seconds = duration_s(text)
    if seconds <= 0:
        raise ValueError(f"{quoted(text)} would time out at once; use a duration longer than 0, such as 500ms or 30s")
    return seconds


def optional_timeout_s(text: str) -> float | None:
    """A duration in seconds, or None for `0` and `none`, which both mean: no limit."""
    return None if text.lower() == "none" else duration_s(text) or None


def duration_between(shortest: str, longest: str) -> Callable[[str], float]:
    """A parser for durations from `shortest` to `longest`, both included and both written as durations."""
    return _between(duration_s, "duration", shortest, longest)


def size_bytes(text: str) -> int:
    """Bytes, at least 1, from `1048576`, `500K`, `10M`, `1G`: 1024-based, any case, a trailing B or iB allowed."""
    size = _size(text)
    if size == 0:
        raise ValueError(f"{quoted(text)} would refuse every body; {_SIZES}")
    return size


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not a size; {_SIZES}")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[(match[2] or "").upper()]


def size_between(smallest: str, largest: str) -> Callable[[str], int]:
    """A parser for sizes from `smallest` to `largest`, both included and both written as sizes."""
    return _between(_size, "size", smallest, largest)


def _between(parse: Callable[[str], _Amount], what: str, least: str, most: str) -> Callable[[str], _Amount]:
    minimum, maximum = parse(least), parse(most)

    def parse_within(text: str) -> _Amount:
        value = parse(text)
        if not minimum <= value <= maximum:
            raise ValueError(f"{quoted(text)} is not accepted; use a {what} from {least} to {most}")
        return value

    return parse_within


def integer(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    """A parser for decimal integers from `minimum` to `maximum`, both included."""

    def parse(text: str) -> int:
        # ASCII digits only: int() also takes "1_000", " 7" and the digits of every script.
        if re.fullmatch(r"[0-9]{1,15}", text) and minimum <= int(text) <= maximum:
            return int(text)
        limits = f"{minimum} or more" if maximum == 2**31 - 1 else f"from {minimum} to {maximum}"
        raise ValueError(f"{quoted(text)} is not accepted; use an integer, {limits}")

    return parse


def number(minimum: float, maximum: float) -> Callable[[str], float]:
    """A parser for plain decimal numbers from `minimum` to `maximum`, both included; no exponent, inf or nan."""

    def parse(text: str) -> float:
        if re.fullmatch(_NUMBER, text) and minimum <= float(text) <= maximum:
            return float(text)
        raise ValueError(f"{quoted(text)} is not accepted; use a number from {minimum:g} to {maximum:g}")

    return parse


def workers(text: str) -> int:
    """A number of processes, 1 to 1024; `auto` is one for each CPU that this process may use."""
    return _usable_cpus() if text.lower() == "auto" else integer(1, 1024)(text)


def _usable_cpus() -> int:
    """The CPUs this process may run on: taskset and a container's cpuset leave it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choice(*words: str, aliases: Mapping[str, str] | None = None) -> Callable[[str], str]:
    """A parser for one of `words` in any case, returned in lower case; `aliases` maps other spellings to a word."""
    accepted = {word: word for word in words} | dict(aliases or {})

    def parse(text: str) -> str:
        try:
            return accepted[text.lower()]
        except KeyError:
            raise ValueError(f"{quoted(text)} is not accepted; use {', '.join(accepted)}") from None

    return parse


def comma_list(text: str) -> tuple[str, ...]:
    """Entries between commas, trimmed, without empty and repeated ones, in their order; at least one."""
    entries = tuple(dict.fromkeys(entry for part in text.split(",") if (entry := part.strip())))
    if not entries:
        raise ValueError(f"{quoted(text)} names nothing; use a comma list such as a,b")
    for entry in entries:
        if not entry.isprintable():
            raise ValueError(f"{quoted(entry)} holds a control character; use a comma list such as a,b")
    return entries


def lower_set(text: str) -> frozenset[str]:
    """A comma list whose case and order do not matter."""
    return frozenset(entry.lower() for entry in comma_list(text))


def aliases(text: str) -> tuple[tuple[str, str], ...]:
    """A comma list of `alias=selector`; an alias may have one `*`, which stands for anything."""
    pairs = []
    for entry in comma_list(text):
        alias, equals, target = (part.strip() for part in entry.partition("="))
        if not (alias and equals and target):
            raise ValueError(f"{quoted(entry)} is not 'alias=<instance>/<model>'")
        if alias.count("*") > 1 or "*" in target:
            raise ValueError(f"{quoted(entry)}: an alias may have one '*', and a model none")
        pairs.append((alias, target))
    names = [alias for alias, _ in pairs]
    for alias, target in pairs:
        if names.count(alias) > 1:
            raise ValueError(f"{quoted(alias)} stands for two models")
        if target in names:
            raise ValueError(
                f"{quoted(alias)} stands for {quoted(target)}, which is an alias: write what that stands for"
            )
    return tuple(pairs)


def redis_url(text: str) -> str:
    """Where a Redis is. The message never quotes it: it may hold a password."""
    if not re.match(r"rediss?://[!-~]+\Z|unix://[^:]*/[!-~]+\Z", text):
        raise ValueError("is no URL such as redis://:password@redis:6379/0, rediss://... or unix:///run/redis.sock")
    if importlib.util.find_spec("redis") is None:
        raise ValueError("needs the package redis: pip install gomodel[redis]")
    return text


def has_reference(text: str) -> bool:
    """Whether a `${...}` was left standing: whoever was to fill it in did not know the name."""
    return _REFERENCE.search(text) is not None
