"""Who used how much, as a table: what may be asked for, how rows are summed, and how they are written.

Decides what a query of /admin/usage means and what its answer looks like (contract section 8). Knows nothing of where
the rows were counted or kept. Pure.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from ..errors import InvalidValue

DIMENSIONS = ("key", "model", "instance")
NUMBERS = (
    "requests",
    "requests_of_unknown_usage",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "audio_seconds",
    "generation_seconds",
)
HOUR_S = 3600
_SECONDS = ("audio_seconds", "generation_seconds")

Row = dict[str, Any]


class Asked:
    """What a query asks for: the dimensions `by`, whether as `csv`, and of which time; `window` is None for all of it.

    A window is from a POSIX time to another, where hours begin.
    """

    def __init__(self, values: Mapping[str, str], accept: str, now: float) -> None:
        """`values` may have by, from, to and format; `accept` is the field's. Raises InvalidValue."""
        asked = [each for each in values.get("by", ",".join(DIMENSIONS)).split(",") if each]
        unknown = [each for each in asked if each not in DIMENSIONS]
        if unknown:
            raise _refusal("by", f"by={unknown[0]} is none of {', '.join(DIMENSIONS)}.")
        self.by = tuple(each for each in DIMENSIONS if each in asked)
        wanted = values.get("format", "csv" if "text/csv" in accept else "json")
        if wanted not in ("csv", "json"):
            raise _refusal("format", f"format={wanted!r} is neither json nor csv.")
        self.csv = wanted == "csv"
        self.window: tuple[int, int] | None = None
        if "from" in values or "to" in values:
            since = _moment("from", values["from"]) if "from" in values else 0.0
            until = _moment("to", values["to"]) if "to" in values else now
            self.window = int(since // HOUR_S) * HOUR_S, int(-(-until // HOUR_S)) * HOUR_S


def _moment(name: str, text: str) -> float:
    """POSIX time of a date, whose beginning in UTC is meant, a date and time, or seconds since 1970."""
    try:
        if text.isdecimal():
            return min(float(text), 1e11)
        moment = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + of a query
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _refusal(
            name, f"{name} is no date such as 2027-01-31, nor a date and time (2027-01-31T12:00:00Z)."
        ) from None


def _refusal(name: str, message: str) -> InvalidValue:
    return InvalidValue(name, message, code="invalid_parameter")


def summed(parts: Iterable[Row], by: tuple[str, ...]) -> list[Row]:
    """A row for each value of `by` that there is in `parts`, those who used most first.

    A part has all dimensions and some of the numbers.
    """
    found: dict[tuple[str, ...], Row] = {}
    for part in parts:
        place = tuple(part[each] for each in by)
        row = found.get(place)
        if row is None:
            row = found[place] = {**dict(zip(by, place, strict=True)), **dict.fromkeys(NUMBERS, 0)}
        for name in NUMBERS:
            row[name] += part.get(name, 0)
    for row in found.values():
        for name in _SECONDS:
            row[name] = round(row[name], 3)
    return sorted(found.values(), key=lambda row: (-row["prompt_tokens"] - row["completion_tokens"], *map(row.get, by)))


def as_json(rows: list[Row], asked: Asked, since_s: float, until_s: float) -> bytes:
    """An object whose `data` are the rows, which were counted between these POSIX times."""
    between = {"since": _written(since_s), "until": _written(until_s)}
    return json.dumps({"object": "usage", **between, "by": asked.by, "data": rows}).encode()


def _written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def as_csv(rows: list[Row], asked: Asked) -> bytes:
    """A line of names, then one for each row (RFC 4180)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, (*asked.by, *NUMBERS))
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode(errors="replace")


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, as text: the names of models are an instance's to choose."""
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
