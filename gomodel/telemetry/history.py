"""The last hour in numbers, a slot every ten seconds: what the page's charts show.

Decides what of the counters is kept for how long, how slots of several workers become one row, and what a chart gets of
them. A slot has what was counted in it, by instance, model and key, and for all together. Pure but for its memory: who
looks at the clock and at the counters is `operations.history`.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

from .histogram import SECONDS

SLOT_S = 10
SLOTS = 360
# Rows of a slot, the busiest; keys and adapters may be thousands.
MAX_ROWS = 200
# At most so many points has a chart.
POINTS = 60

# Of what, and which: ("instance", "vllm"), ("model", "vllm/org/model"), ("key", "alice"); ("all", "") is everything.
Name = tuple[str, str]
ALL: Name = ("all", "")
# Sums by what is counted; a histogram's bucket is a count as well: ("stream", 7).
Counts = dict[Any, float]

COUNTED = (
    "requests",
    "refused",
    "failed",
    "client_left",
    "upstream_broke",
    "gateway_ended",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "events",
    "generation_seconds",
    "wasted_seconds",
    "conversations_home",
    "conversations_spilled",
    "conversations_moved",
)
# Most at once in a step, where the others are sums.
GAUGES = ("running", "waiting")
# First byte of a stream and of an answer that comes whole, between two pieces of a body, and how late the event loop
# was; two quantiles of each.
DURATIONS = ("stream_first_byte", "answer_first_byte", "gap", "lag")
_TOKENS = ("prompt_tokens", "completion_tokens")
_QUANTILES = {"p50_s": 0.5, "p95_s": 0.95}


class History:
    """`keep` every SLOT_S what came `since` the slot before; `read` the steps of a window."""

    def __init__(self) -> None:
        self._slots: deque[tuple[int, dict[Name, Counts]]] = deque(maxlen=SLOTS)
        self._before: Mapping[Name, Counts] = {}

    def since(self, totals: Mapping[Name, Counts], gauges: Mapping[Name, Counts]) -> dict[Name, Counts]:
        """What came since the last call, of the busiest; `totals` are those since the start."""
        rows: dict[Name, Counts] = {}
        for name, counts in totals.items():
            before = self._before.get(name, {})
            row = {what: more for what, count in counts.items() if (more := count - before.get(what, 0))}
            if row:
                rows[name] = row
        self._before = totals
        for name, counts in gauges.items():
            if any(counts.values()):
                rows.setdefault(name, {}).update(counts)
        if len(rows) > MAX_ROWS:
            busiest = sorted(rows, key=lambda name: (name != ALL, -rows[name].get("requests", 0)))
            rows = {name: rows[name] for name in busiest[:MAX_ROWS]}
        return rows

    def keep(self, slot: int, rows: dict[Name, Counts]) -> None:
        """These are of `slot`, which counts SLOT_S since 1970."""
        self._slots.append((slot, rows))

    def read(self, first: int, step: int) -> dict[int, dict[Name, Counts]]:
        """The rows from slot `first` on, in steps of `step` slots, each by its number: step 0 begins with `first`."""
        found: dict[int, dict[Name, Counts]] = {}
        for slot, rows in self._slots:
            if slot >= first:
                _add(found.setdefault((slot - first) // step, {}), rows, most=True)
        return found


def _add(rows: dict[Name, Counts], more: Mapping[Name, Counts], *, most: bool) -> None:
    """Add rows to rows; of gauges the `most`, or what they make together."""
    for name, counts in more.items():
        row = rows.setdefault(name, {})
        for what, count in counts.items():
            before = row.get(what, 0)
            row[what] = max(before, count) if most and what in GAUGES else before + count


def charts(workers: Iterable[dict[int, dict[Name, Counts]]], steps: int, step_s: int) -> list[dict[str, Any]]:
    """What all workers have read as one series for each name, the busiest first: for each figure a value a step, and
    one for the whole window. None is a step in which it cannot be said, as before the start. JSON-serialisable.
    """
    together: list[dict[Name, Counts] | None] = [None] * steps
    for found in workers:
        for number, rows in found.items():
            if 0 <= number < steps:
                known = together[number] = together[number] or {}
                _add(known, rows, most=False)
    whole: dict[Name, Counts] = {}
    for each in together:
        _add(whole, each or {}, most=True)
    names = sorted(whole, key=lambda name: (name != ALL, -whole[name].get("requests", 0), name))
    known_s = step_s * (steps - together.count(None))
    return [
        {
            "by": by,
            "name": name,
            "points": _columns([None if rows is None else rows.get((by, name), {}) for rows in together], step_s),
            "window": {what: values[0] for what, values in _columns([whole[by, name]], known_s).items()},
        }
        for by, name in names
    ]


def _columns(rows: list[Counts | None], seconds: int) -> dict[str, list[float | None]]:
    def column(figure: Callable[[Counts], float | None]) -> list[float | None]:
        return [None if row is None else figure(row) for row in rows]

    columns = {what: column(lambda row, what=what: row.get(what, 0)) for what in (*COUNTED, *GAUGES)}  # type: ignore[misc]
    columns["requests_per_second"] = column(lambda row: round(row.get("requests", 0) / seconds, 3))
    columns["tokens_per_second"] = column(lambda row: round(sum(row.get(each, 0) for each in _TOKENS) / seconds, 1))
    for what in DURATIONS:
        for word, share in _QUANTILES.items():
            columns[f"{what}_{word}"] = column(lambda row, what=what, share=share: quantile(row, what, share))  # type: ignore[misc]
    return columns


def quantile(counts: Counts, what: str, share: float) -> float | None:
    """The duration in seconds below which that `share` of them lies, read off the buckets; None where there is none."""
    buckets = [counts.get((what, at), 0) for at in range(len(SECONDS) + 1)]
    total = sum(buckets)
    if not total:
        return None
    wanted = share * total
    # The last of them is all of them, so there is one.
    at, below = next((at, below) for at, below in enumerate(accumulate(buckets)) if below >= wanted and buckets[at])
    low = SECONDS[at - 1] if at else 0.0
    high = SECONDS[min(at, len(SECONDS) - 1)]
    return round(low + (high - low) * (1 - (below - wanted) / buckets[at]), 4)


class Totals:
    """Sums by name, put together from the counters."""

    def __init__(self) -> None:
        self.rows: defaultdict[Name, Counts] = defaultdict(lambda: defaultdict(float))

    def add(self, names: Iterable[Name], what: Any, count: float) -> None:
        """So much of `what` for each of these, and for all."""
        if count:
            for name in names:
                self.rows[name][what] += count

    def buckets(self, names: Iterable[Name], what: str, counts: Iterable[int]) -> None:
        """A histogram's counts for each of these."""
        for at, count in enumerate(counts):
            self.add(names, (what, at), count)
