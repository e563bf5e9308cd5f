"""GET /admin/usage: who used how much, of which model, at which instance; as JSON or CSV.

Decides how what was counted is summed and written. Knows nothing of where it was counted: it is given snapshots of the
metrics, which add up over all workers there were.
"""

import csv
import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from ..errors import ClientError
from .metrics import Samples, Snapshot

# The labels by which can be summed, in the order of the columns; and where each stands in the labels of a metric.
DIMENSIONS = {"key": 2, "model": 1, "instance": 0}
NUMBERS = (
    "requests",
    "requests_of_unknown_usage",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "audio_seconds",
    "generation_seconds",
)
_KINDS = {
    "prompt": "prompt_tokens",
    "cached": "cached_tokens",
    "completion": "completion_tokens",
    "known": "requests",
    "unknown": "requests_of_unknown_usage",
}
_SECONDS = {"gomodel_audio_seconds_total": "audio_seconds", "gomodel_generation_seconds_total": "generation_seconds"}
_COUNTS = ("gomodel_tokens_total", "gomodel_usage_requests_total")
_PARAMETERS = frozenset({"by", "format"})

Row = dict[str, Any]


class Asked:
    """What a query asks for: `by` names the dimensions, `csv` is whether it wants CSV."""

    def __init__(self, query: str, accept: str) -> None:
        """Raises ClientError for what is not understood."""
        given = parse_qsl(query, keep_blank_values=True)
        for name, _ in given:
            if name not in _PARAMETERS:
                raise ClientError(f"{name!r} is no parameter here; use by and format.", code="invalid_parameter")
        values = dict(given)
        asked = [each for each in values.get("by", ",".join(DIMENSIONS)).split(",") if each]
        unknown = [each for each in asked if each not in DIMENSIONS]
        if unknown:
            raise ClientError(f"by={unknown[0]} is none of {', '.join(DIMENSIONS)}.", code="invalid_parameter")
        self.by = tuple(each for each in DIMENSIONS if each in asked)
        wanted = values.get("format", "csv" if "text/csv" in accept else "json")
        if wanted not in ("csv", "json"):
            raise ClientError(f"format={wanted!r} is neither json nor csv.", code="invalid_parameter")
        self.csv = wanted == "csv"


def rows(snapshots: Iterable[Snapshot], by: tuple[str, ...]) -> list[Row]:
    """A row for each value of `by` that has used something, those who used most first."""
    found: dict[tuple[str, ...], Row] = {}
    for snapshot in snapshots:
        for labels, name, number in _counted(snapshot):
            key = tuple(labels[DIMENSIONS[each]] for each in by)
            row = found.get(key)
            if row is None:
                row = found[key] = {**dict(zip(by, key, strict=True)), **dict.fromkeys(NUMBERS, 0)}
            row[name] += number
            if name == "requests_of_unknown_usage":  # which are requests as well
                row["requests"] += number
    for row in found.values():
        for name in _SECONDS.values():
            row[name] = round(row[name], 3)
    return sorted(found.values(), key=lambda row: (-row["prompt_tokens"] - row["completion_tokens"], *map(row.get, by)))


def _counted(snapshot: Snapshot) -> Iterable[tuple[tuple[str, ...], str, Any]]:
    """Labels, name of a number and the number."""
    for family in _COUNTS:
        samples: Samples = snapshot.get(family, [])
        for (*labels, kind), count in samples:
            yield tuple(labels), _KINDS[kind], count
    for family, name in _SECONDS.items():
        for labels_of, seconds in snapshot.get(family, []):
            yield tuple(labels_of), name, seconds


def since(snapshots: Iterable[Snapshot]) -> float:
    """When the oldest worker that answers started; POSIX time."""
    return float(min(at for each in snapshots for _, at in each.get("process_start_time_seconds", [])))


def as_json(found: list[Row], by: tuple[str, ...], since_s: float) -> bytes:
    """An object whose `data` are the rows."""
    started = datetime.fromtimestamp(since_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return json.dumps({"object": "usage", "since": started, "by": by, "data": found}).encode()


def as_csv(found: list[Row], by: tuple[str, ...]) -> bytes:
    """A line of names, then one for each row (RFC 4180)."""
    text = io.StringIO()
    writer = csv.DictWriter(text, (*by, *NUMBERS))
    writer.writeheader()
    writer.writerows({name: _harmless(value) for name, value in row.items()} for row in found)
    return text.getvalue().encode(errors="replace")


def _harmless(value: Any) -> Any:
    """A text that a spreadsheet would take for a formula, as text: the names of models are an instance's to choose."""
    return "'" + value if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
