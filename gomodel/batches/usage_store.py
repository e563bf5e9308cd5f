"""What was used, by the hour, key, model and instance: kept by adding what each run of a gateway counted since last.

A gateway counts from its start and says its sums again and again. What of them is in the hours already is kept beside
them, in the same transaction, so that nothing counts twice and nothing is lost when this process dies. Every method
raises DatabaseAway.
"""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as insert_into_postgresql
from sqlalchemy.dialects.sqlite import insert as insert_into_sqlite

from ..telemetry.usage_table import DIMENSIONS, HOUR_S, NUMBERS, Row
from .database import Database
from .schema import USAGE_COUNTED, USAGE_HOURS

# What a run has counted is of no use once it is over.
_FORGET_S = 2 * 86400
_PLACE = ("hour", *DIMENSIONS)
_COUNTED = ("run", *DIMENSIONS)


class UsageStore:
    """The tables `usage_hours` and `usage_counted`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Any = insert_into_postgresql if database.shared else insert_into_sqlite
        self._run = ""
        self._known: dict[tuple[str, ...], tuple[float, ...]] = {}  # what of this run is in the hours

    async def count(self, run: str, rows: Iterable[Row], now: float) -> None:
        """These are the sums of `run`, a gateway's life, until `now`; what is new belongs to this hour."""
        if run != self._run:
            await self._recall(run, now)
        sums = {tuple(_text(row[each]) for each in DIMENSIONS): tuple(row[each] for each in NUMBERS) for row in rows}
        changed = {place: numbers for place, numbers in sums.items() if numbers != self._known.get(place)}
        if not changed:
            return
        hour = int(now // HOUR_S) * HOUR_S
        added, counted = [], []
        for place, numbers in sorted(changed.items()):  # as other gateways do, or they would stand in each other's way
            before = self._known.get(place, (0,) * len(NUMBERS))
            named = dict(zip(DIMENSIONS, place, strict=True))
            grown = [max(0, number - old) for number, old in zip(numbers, before, strict=True)]
            added.append({"hour": hour, **named, **dict(zip(NUMBERS, grown, strict=True))})
            counted.append({"run": run, "seen_at": now, **named, **dict(zip(NUMBERS, numbers, strict=True))})
        add = self._insert(USAGE_HOURS)
        sum_up = {name: USAGE_HOURS.c[name] + add.excluded[name] for name in NUMBERS}
        note = self._insert(USAGE_COUNTED)
        replace = {name: note.excluded[name] for name in ("seen_at", *NUMBERS)}
        async with self._database.begin() as connection:
            await connection.execute(add.on_conflict_do_update(index_elements=_PLACE, set_=sum_up), added)
            await connection.execute(note.on_conflict_do_update(index_elements=_COUNTED, set_=replace), counted)
        self._known |= changed

    async def used(self, since: int, until: int) -> list[Row]:
        """What was used from the hour that begins at `since` on, and before that at `until`; POSIX times."""
        columns = [USAGE_HOURS.c[each] for each in DIMENSIONS]
        sums = [sa.func.sum(USAGE_HOURS.c[name]) for name in NUMBERS]
        within = sa.and_(USAGE_HOURS.c.hour >= since, USAGE_HOURS.c.hour < until)
        async with self._database.begin() as connection:
            rows = (await connection.execute(sa.select(*columns, *sums).where(within).group_by(*columns))).all()
        whole = [int if name.endswith(("tokens", "requests", "usage")) else float for name in NUMBERS]
        return [
            dict(zip(DIMENSIONS, row, strict=False))
            | {name: kind(value) for name, kind, value in zip(NUMBERS, whole, row[len(DIMENSIONS) :], strict=True)}
            for row in rows
        ]

    async def _recall(self, run: str, now: float) -> None:
        """What another process, before this one, has put in the hours of this run."""
        columns = [USAGE_COUNTED.c[each] for each in (*DIMENSIONS, *NUMBERS)]
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(USAGE_COUNTED).where(USAGE_COUNTED.c.seen_at < now - _FORGET_S))
            rows = (await connection.execute(sa.select(*columns).where(USAGE_COUNTED.c.run == run))).all()
        size = len(DIMENSIONS)
        self._known = {tuple(row[:size]): tuple(row[size:]) for row in rows}
        self._run = run


def _text(name: str) -> str:
    """A name as both databases can keep it; an instance may list what is no text."""
    return name.encode(errors="replace").decode().replace("\0", "?")
