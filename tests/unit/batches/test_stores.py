"""What is kept is kept alike in SQLite and in PostgreSQL, and a batch belongs to one process at a time."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from time import time
from typing import Any

import pytest
import sqlalchemy as sa

from gomodel.batches import batch_store
from gomodel.batches.database import Database, DatabaseAway
from gomodel.batches.database_check import database_problem
from gomodel.batches.ids import BATCH, FILE, new_id
from gomodel.batches.records import FileRecord, Progress, Work
from gomodel.batches.schema import BATCHES, FILES, METADATA
from gomodel.config.settings import Batching, Secret

from ...harness.postgresql import PostgreSQL, postgresql
from .conftest import Store

Open = Callable[[], Awaitable[Store]]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """`await opened()`: another process's view of one and the same store."""
    url = request.getfixturevalue("server").database() if request.param == "postgresql" else None
    stores: list[Store] = []

    async def another() -> Store:
        stores.append(Store(tmp_path, url))
        await stores[-1].database.open()
        return stores[-1]

    yield another
    for each in stores:
        await each.database.close()


def file(owner: str | None = None, **changes: Any) -> FileRecord:
    values = {"purpose": "batch", "filename": "ü\U0001f600", "bytes": 2**33, "created_at": 5, "expires_at": None}
    return FileRecord(id=new_id(FILE), owner=owner, **{**values, **changes})


async def made(store: Store, owner: str | None = None) -> str:
    record = file(owner)
    await store.files.add(record)
    values = {
        "id": new_id(BATCH),
        "endpoint": "/v1/embeddings",
        "input_file_id": record.id,
        "completion_window": "24h",
        "expires_at": int(time()) + 86400,
        "metadata": '{"a": "b"}',
        "output_ttl_s": None,
    }
    row = await store.batches.add(values, owner)
    return str(row.id)


async def claimed(store: Store) -> Work:
    work = await store.batches.claim([])
    assert work is not None
    return work


async def test_a_file_is_kept_as_it_was_given(opened: Open) -> None:
    one, other = await opened(), await opened()
    record = file("alice")
    await one.files.add(record)
    assert await other.files.get(record.id, "alice") == record
    assert await other.files.get(record.id, None) == record
    assert await other.files.get(record.id, "bob") is None


async def test_a_file_that_has_expired_is_gone_and_to_be_freed(opened: Open) -> None:
    store = await opened()
    old, new = file(expires_at=int(time()) - 1), file(expires_at=int(time()) + 60)
    await store.files.add(old)
    await store.files.add(new)
    assert await store.files.get(old.id, None) is None
    assert await store.files.to_free() == [old.id]
    await store.files.forget(old.id)
    assert await store.files.to_free() == []
    assert await store.files.unknown([old.id, new.id, "x"]) == [old.id, "x"]


async def test_migrations_that_run_at_once_and_again_make_the_tables_of_the_schema(opened: Open) -> None:
    one, other = await opened(), await opened()
    await asyncio.gather(one.database.open(), other.database.open())

    def columns(connection: sa.Connection) -> dict[str, dict[str, tuple[str, bool]]]:
        found = sa.inspect(connection)
        return {
            table: {each["name"]: (str(each["type"]), bool(each["nullable"])) for each in found.get_columns(table)}
            for table in ("files", "batches")
        }

    async with one.database.begin() as connection:
        migrated = await connection.run_sync(columns)
        for table in (BATCHES, FILES):
            await connection.execute(sa.text(f"DROP TABLE {table.name}"))
        await connection.run_sync(METADATA.create_all)
        assert await connection.run_sync(columns) == migrated


async def test_a_batch_goes_to_one_of_all_who_ask_at_once(opened: Open) -> None:
    stores = [await opened() for _ in range(4)]
    ids = [await made(stores[0]) for _ in range(6)]
    claims = [work for work in await asyncio.gather(*(each.batches.claim([]) for each in stores * 3)) if work]
    assert sorted(work.id for work in claims) == ids
    assert {work.epoch for work in claims} == {1}


async def test_who_lost_a_lease_changes_nothing_any_more(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = await opened(), await opened()
    monkeypatch.setattr(batch_store, "LEASE_S", -1.0)
    batch_id = await made(one)
    slow = await claimed(one)
    assert await one.batches.begin(slow, 3, "m") == "in_progress"
    monkeypatch.setattr(batch_store, "LEASE_S", 30.0)
    quick = await claimed(other)
    assert (quick.id, quick.epoch, quick.status, quick.total, quick.done) == (batch_id, 2, "in_progress", 3, b"\0")
    progress = Progress(b"\x01", [[1, 5, 0]], 1, 0, None)
    assert await one.batches.renew(slow) is None
    assert await one.batches.record(slow, progress) is None
    assert await one.batches.say(slow, "x") is None
    assert await one.batches.finalize(slow) is None
    assert await one.batches.refuse(slow, []) is None
    assert not await one.batches.finish(slow, "completed", progress, file(), None)
    await one.batches.release(slow)
    assert await other.batches.claim([]) is None
    assert await other.batches.renew(quick) == "in_progress"
    assert (await one.files.page(None, limit=10, after=None, purpose=None, ascending=True))[0] == [
        await one.files.get((await other.batches.get(batch_id, None)).input_file_id, None)
    ]


async def test_a_lease_that_is_given_back_is_free_at_once(opened: Open) -> None:
    one, other = await opened(), await opened()
    await made(one)
    work = await claimed(one)
    assert await other.batches.claim([]) is None
    await one.batches.release(work)
    assert (await claimed(other)).epoch == 2


async def test_what_is_recorded_is_there_for_whoever_goes_on(opened: Open) -> None:
    one, other = await opened(), await opened()
    await made(one)
    work = await claimed(one)
    await one.batches.begin(work, 12, None)
    usage = {"input_tokens": 1}
    assert await one.batches.record(work, Progress(b"\xff\x01", [[1, 70, 8]], 8, 1, usage)) == "in_progress"
    await one.batches.release(work)
    found = await claimed(other)
    assert (found.done, found.segments, found.completed, found.failed) == (b"\xff\x01", [[1, 70, 8]], 8, 1)
    assert (found.usage, found.owner, found.endpoint) == (usage, None, "/v1/embeddings")


async def test_a_batch_and_its_files_are_over_at_once(opened: Open) -> None:
    store = await opened()
    batch_id = await made(store, "alice")
    work = await claimed(store)
    await store.batches.begin(work, 1, "m")
    output = file("alice", purpose="batch_output")
    assert await store.batches.finish(work, "completed", Progress(b"\x01", [], 1, 0, None), output, None)
    row = await store.batches.get(batch_id, "alice")
    assert (row.status, row.output_file_id, row.error_file_id, row.completed) == ("completed", output.id, None, 1)
    assert await store.files.get(output.id, "alice") == output
    assert not await store.batches.finish(work, "cancelled", None, file(), None)
    assert await store.batches.claim([]) is None
    assert await store.batches.counts() == {"completed": 1}


async def test_a_cancel_is_seen_by_who_runs_the_batch(opened: Open) -> None:
    one, other = await opened(), await opened()
    batch_id = await made(one)
    work = await claimed(one)
    assert (await other.batches.cancel(batch_id, None)).status == "cancelling"
    assert await one.batches.begin(work, 3, None) == "cancelling"
    assert await one.batches.refuse(work, [{"code": "x"}]) == "cancelling"
    assert await one.batches.record(work, Progress(b"\0", [], 0, 0, None)) == "cancelling"
    assert await one.batches.finalize(work) == "cancelling"


async def test_old_batches_are_forgotten_and_those_that_run_are_not(opened: Open) -> None:
    store = await opened()
    over, running = await made(store), await made(store)
    work = await claimed(store)
    assert work.id == over
    assert await store.batches.finish(work, "cancelled", None, None, None)
    await store.batches.forget(int(time()) + 10)
    assert await store.batches.get(over, None) is None
    assert await store.batches.unfinished({over, running}) == {running}


async def test_a_database_that_goes_away_and_comes_back(server: PostgreSQL, tmp_path: Path) -> None:
    store = Store(tmp_path, server.database())
    await store.database.open()
    await made(store)
    await asyncio.to_thread(server.stop)
    for _ in range(2):
        with pytest.raises(DatabaseAway):
            await store.batches.claim([])
    await asyncio.to_thread(server.start)
    assert await store.batches.claim([]) is not None
    await store.database.close()


async def test_a_database_that_is_not_there_is_away(tmp_path: Path) -> None:
    store = Store(tmp_path, "postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseAway):
        await store.database.open()
    await store.database.close()


async def test_a_database_that_refuses_says_its_code(server: PostgreSQL, tmp_path: Path) -> None:
    store = Store(tmp_path, server.database().replace("/test", "/none"))
    with pytest.raises(DatabaseAway, match="refuses, with its code 3D000"):
        await store.database.open()
    await store.database.close()


async def test_a_url_of_a_socket_is_understood(server: PostgreSQL, tmp_path: Path) -> None:
    url = server.database().replace("@127.0.0.1", "@").replace("postgresql://", "postgres://")
    store = Store(tmp_path, f"{url}?host={server.directory}")
    await store.database.open()
    assert await store.batches.claim([]) is None
    await store.database.close()


async def test_a_full_disk_of_sqlite_is_said(tmp_path: Path) -> None:
    store = Store(tmp_path)
    await store.database.open()
    await made(store)

    async def fill() -> None:
        rows = [{**dataclasses.asdict(file(filename="y" * 5000)), "deleted": False} for _ in range(200)]
        async with store.database.begin() as connection:
            await connection.execute(sa.text("PRAGMA max_page_count = 20"))
            await connection.execute(sa.insert(FILES), rows)

    with pytest.raises(DatabaseAway) as caught:
        await fill()
    assert caught.value.full
    assert await store.batches.counts() == {"validating": 1}
    await store.database.close()


def test_a_database_is_known_by_its_url(tmp_path: Path) -> None:
    assert not Database(None, tmp_path).shared


def test_check_says_whether_the_server_has_the_database(server: PostgreSQL, tmp_path: Path) -> None:
    url = server.database()
    asked = [
        Batching(str(tmp_path), Secret(each), 1, 1.0, 1, 1)
        for each in (url, url + "x", url.replace("gomodel@", "nobody@"))
    ]
    good, missing, foreign = map(database_problem, asked)
    assert good == ""
    assert "createdb" in missing
    assert "user and the password" in foreign
