"""What was used is kept by the hour: each token once, whatever is said again, whoever says it and whoever dies."""

import asyncio
from typing import Any

import pytest

from gomodel.batches.database import Database, DatabaseAway
from gomodel.batches.usage_keeper import UsageKeeper
from gomodel.batches.usage_store import UsageStore
from gomodel.telemetry.usage_table import NUMBERS

from .conftest import Store
from .test_stores import Open, opened, server  # noqa: F401 - fixtures: SQLite and PostgreSQL

HOUR = 3600
NOW = 500_000 * HOUR + 100.0


def row(tokens: int, key: str = "k", model: str = "m", seconds: float = 0.5) -> dict[str, Any]:
    numbers = dict.fromkeys(NUMBERS, 0) | {"requests": 1, "prompt_tokens": tokens, "generation_seconds": seconds}
    return {"key": key, "model": model, "instance": "vllm", **numbers}


def tokens(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {each["key"]: each["prompt_tokens"] for each in rows}


async def kept(store: UsageStore, since: float = 0, until: float = 1e9 * HOUR) -> dict[str, int]:
    return tokens(await store.used(int(since), int(until)))


async def test_sums_that_are_said_again_count_once(store: Store) -> None:
    usage = UsageStore(store.database)
    for said in (10, 10, 25, 25):
        await usage.count("life", [row(said), row(said, "other")], NOW)
    assert await kept(usage) == {"k": 25, "other": 25}
    (found, _) = await usage.used(0, int(NOW) + HOUR)
    assert [found[name] for name in NUMBERS] == [1, 0, 25, 0, 0, 0.0, 0.5]


async def test_what_is_new_belongs_to_the_hour_in_which_it_was_heard(store: Store) -> None:
    usage = UsageStore(store.database)
    await usage.count("life", [row(10)], NOW)
    await usage.count("life", [row(14)], NOW + HOUR)
    hour = NOW - NOW % HOUR
    assert await kept(usage, hour, hour + HOUR) == {"k": 10}
    assert await kept(usage, hour + HOUR, hour + 2 * HOUR) == {"k": 4}
    assert await kept(usage, hour, hour + 2 * HOUR) == {"k": 14}
    assert await kept(usage, hour + 2 * HOUR) == {}


async def test_another_process_goes_on_where_the_last_one_stood(store: Store) -> None:
    await UsageStore(store.database).count("life", [row(10)], NOW)
    again = UsageStore(store.database)
    await again.count("life", [row(10)], NOW)
    await again.count("life", [row(17), row(3, "new")], NOW)
    assert await kept(again) == {"k": 17, "new": 3}


async def test_another_life_of_the_gateway_counts_from_nothing_and_so_does_another_gateway(
    opened: Open,  # noqa: F811
) -> None:
    one, other = UsageStore((await opened()).database), UsageStore((await opened()).database)
    await one.count("first", [row(10)], NOW)
    await other.count("other", [row(5)], NOW)
    await one.count("second", [row(3)], NOW)
    await asyncio.gather(other.count("other", [row(6)], NOW), one.count("second", [row(4)], NOW))
    assert await kept(one) == await kept(other) == {"k": 20}
    (found,) = await one.used(0, int(NOW) + HOUR)
    assert [found[name] for name in NUMBERS] == [3, 0, 20, 0, 0, 0.0, 1.5]


async def test_what_was_counted_of_a_life_long_over_is_forgotten(store: Store) -> None:
    usage = UsageStore(store.database)
    await usage.count("old", [row(10)], NOW)
    await usage.count("new", [row(1)], NOW + 3 * 86400)
    await UsageStore(store.database).count("old", [row(2)], NOW + 3 * 86400)
    assert await kept(usage) == {"k": 13}, "its number fell: it is a new life with an old name"


async def test_names_that_a_database_cannot_keep_are_kept_as_it_can(opened: Open) -> None:  # noqa: F811
    usage = UsageStore((await opened()).database)
    await usage.count("life", [row(1, model="a\udcff\0b")], NOW)
    (found,) = await usage.used(0, int(NOW) + HOUR)
    assert found["model"] == "a??b"


async def test_what_is_said_while_the_database_is_away_is_kept_when_it_is_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = UsageStore(store.database)
    keeper = UsageKeeper(usage)
    assert await keeper.finish(), "nothing waits"
    begin = Database.begin

    def away(database: Database) -> Any:
        raise DatabaseAway

    monkeypatch.setattr(Database, "begin", away)
    keeper.hear("life", [row(10)])
    assert not await keeper.finish()
    keeper.hear("life", [row(12)])
    assert not await keeper.finish()
    monkeypatch.setattr(Database, "begin", begin)
    assert await keeper.finish()
    assert await kept(usage) == {"k": 12}
