"""A process that dies before, after or in the middle of any write of the store has lost nothing and done nothing twice.

Every write of a whole batch is counted, and the batch is run once for each of them with the process dying there; then
another goes on. What it had open is gone with it: once dead, nothing it does reaches the disk.
"""

import asyncio
import itertools
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any
from unittest.mock import Mock

import pytest
from aiohttp import StreamReader
from aiohttp.test_utils import make_mocked_request

from gomodel.batches import batch_store, run
from gomodel.batches.api import Api
from gomodel.batches.database import Database
from gomodel.batches.gate import Gate
from gomodel.batches.gateway_client import Answer, Outcome
from gomodel.batches.ids import BATCH, FILE, new_id
from gomodel.batches.politeness import Pace
from gomodel.batches.records import FileRecord
from gomodel.batches.run import Run
from gomodel.batches.sweeper import Sweeper
from gomodel.config.settings import Batching

from .conftest import Store

CONFIG = Batching("", None, 1 << 20, 86400.0, 16, 10)
LINES = 5


class Death(BaseException):
    """The process is gone."""


class Mortal:
    """Dies at the write `at`, the first being 0: `before` it, `after` it, or when `half` of its bytes are there."""

    def __init__(self, at: int, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = at
        self.how = how
        self.writes = 0
        self.dead = False
        for name in ("fsync", "rename", "open"):
            monkeypatch.setattr(os, name, self._deadly(getattr(os, name)))
        monkeypatch.setattr(os, "pwrite", self._deadly(os.pwrite, bytes_too=True))
        monkeypatch.setattr(Path, "unlink", self._deadly(Path.unlink))
        begin = Database.begin

        @asynccontextmanager
        async def deadly(database: Database) -> AsyncIterator[Any]:
            if self.dead:
                raise Death
            now = self.how != "half" and self._now()
            async with begin(database) as connection:
                yield connection
                if now and self.how == "before":
                    self._die()
            if now:
                self._die()

        monkeypatch.setattr(Database, "begin", deadly)

    def _now(self) -> bool:
        self.writes += 1
        return self.writes == self.at + 1

    def _die(self) -> None:
        self.dead = True
        raise Death

    def _deadly(self, do: Callable[..., Any], *, bytes_too: bool = False) -> Callable[..., Any]:
        def deadly(*args: Any, **kwargs: Any) -> Any:
            if self.dead:
                raise Death
            if (self.how == "half" and not bytes_too) or not self._now():
                return do(*args, **kwargs)
            if self.how == "after":
                do(*args, **kwargs)
            elif self.how == "half":
                fd, data, at = args
                do(fd, data[: len(data) // 2], at)
            self._die()
            raise AssertionError

        return deadly


class Server:
    """Answers every line, and counts how often."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    async def ask(self, work: Any, request_id: str, body: bytes) -> Answer:
        self.asked.append(body)
        await asyncio.sleep(0.004)
        number = json.loads(body)["n"]
        return Answer(Outcome.ANSWERED, 400 if number == 2 else 200, b'{"n": %d}' % number, "vllm")

    async def knows(self, model: str, owner: str | None) -> bool:
        return True


async def whole_batch(store: Store, server: Server) -> None:
    """What a batcher does with the batches there are."""
    work = await store.batches.claim([])
    if work is None:
        return
    pace = Pace(3)
    pace.limit = 3
    gate = Gate(pace)
    client: Any = server
    await Run(
        work, CONFIG, 1 << 20, store.batches, store.contents, client, lambda _: gate, lambda state, count: None
    ).run()


def line(number: int) -> bytes:
    body = b'{"model":"m","n":%d}' % number
    return b'{"custom_id":"c%d","method":"POST","url":"/v1/embeddings","body":%b}\n' % (number, body)


async def prepared(data_dir: Path) -> str:
    """A batch that waits to be run; its id."""
    store = Store(data_dir)
    await store.database.open()
    record = FileRecord(new_id(FILE), None, "batch", "in", 1, 1, None)
    store.contents.path(record.id).write_bytes(b"".join(line(number) for number in range(LINES)))
    await store.files.add(record)
    batch_id = new_id(BATCH)
    values = {"endpoint": "/v1/embeddings", "completion_window": "24h", "metadata": None, "output_ttl_s": None}
    values |= {"id": batch_id, "input_file_id": record.id, "expires_at": int(time()) + 3600}
    await store.batches.add(values, None)
    await store.database.close()
    return batch_id


async def lived(data_dir: Path, server: Server) -> None:
    """One process, from its start to its end or death."""
    store = Store(data_dir)
    try:
        await whole_batch(store, server)
    except* Death:
        pass
    finally:
        await store.database.close()


async def checked(data_dir: Path, batch_id: str) -> None:
    """Nothing is missing, nothing is twice, and nothing is left."""
    store = Store(data_dir)
    row = await store.batches.get(batch_id, None)
    assert (row.status, row.total, row.completed, row.failed) == ("completed", LINES, LINES - 1, 1)
    found = {}
    for kind, file_id in (("output", row.output_file_id), ("error", row.error_file_id)):
        content = store.contents.path(file_id).read_bytes()
        record = await store.files.get(file_id, None)
        assert record is not None
        assert record.bytes == len(content)
        found[kind] = sorted(json.loads(each)["custom_id"] for each in content.splitlines())
    assert found == {"error": ["c2"], "output": [f"c{number}" for number in range(LINES) if number != 2]}
    sweeper = Sweeper(store.files, store.batches, store.contents, 86400.0)
    for folder in ("files", "uploads", "work"):
        for path in (data_dir / folder).iterdir():
            os.utime(path, (1, 1))
    await sweeper.leftovers()
    kept = {row.input_file_id, row.output_file_id, row.error_file_id}
    assert {path.name for path in (data_dir / "files").iterdir()} == kept
    assert [*(data_dir / "uploads").iterdir(), *(data_dir / "work").iterdir()] == []
    await store.database.close()


@pytest.mark.parametrize("how", ["before", "after", "half"])
async def test_a_death_at_any_write_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(run, "_SAVE_S", 0.006)
    monkeypatch.setattr(batch_store, "LEASE_S", -1.0)  # who died has lost it
    template = tmp_path / "template"
    batch_id = await prepared(template)
    for at in itertools.count():
        data_dir, server = tmp_path / str(at), Server()
        shutil.copytree(template, data_dir)
        with pytest.MonkeyPatch.context() as patched:
            mortal = Mortal(at, how, patched)
            await lived(data_dir, server)
        await lived(data_dir, server)
        await checked(data_dir, batch_id)
        assert len(server.asked) < 2 * LINES + 1
        if not mortal.dead:
            break
    assert at >= (1 if how == "half" else 10)  # how often is saved in a life is a matter of time


async def test_a_batch_survives_death_after_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_SAVE_S", 0.001)
    monkeypatch.setattr(batch_store, "LEASE_S", -1.0)
    batch_id, server = await prepared(tmp_path), Server()
    for life in range(60):
        with pytest.MonkeyPatch.context() as patched:
            mortal = Mortal(8 + life, ("before", "after")[life % 2], patched)
            await lived(tmp_path, server)
        if not mortal.dead:
            break
    assert life >= 2
    await checked(tmp_path, batch_id)


async def test_one_who_was_taken_for_dead_writes_into_nothing_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both run at once, each with the other's lease gone: the results are those of one."""
    monkeypatch.setattr(run, "_SAVE_S", 0.002)
    monkeypatch.setattr(batch_store, "LEASE_S", -1.0)
    batch_id, server = await prepared(tmp_path), Server()
    stores = [Store(tmp_path) for _ in range(3)]
    results = await asyncio.gather(*(whole_batch(store, server) for store in stores), return_exceptions=True)
    assert {type(each).__name__ for each in results} <= {"LeaseLost", "NoneType"}
    for store in stores:
        await store.database.close()
    await lived(tmp_path, server)
    await checked(tmp_path, batch_id)


FORM = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n' + line(1) + b"\r\n--b--\r\n"
)


async def uploaded(data_dir: Path) -> str | None:
    """One process that is sent a file; the id that it answered with, None where it died over it."""
    store = Store(data_dir)
    config = Batching(str(data_dir), None, 1 << 20, 86400.0, 16, 10)
    api = Api(config, store.files, store.batches, store.contents, store.usage)
    payload = StreamReader(Mock(_reading_paused=False), 1 << 16, loop=asyncio.get_running_loop())
    payload.feed_data(FORM)
    payload.feed_eof()
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    try:
        response = await api.upload(make_mocked_request("POST", "/v1/files", headers, payload=payload))
        return str(json.loads(response.body)["id"])  # type: ignore[arg-type]
    except Death:
        return None
    finally:
        await store.database.close()


@pytest.mark.parametrize("how", ["before", "after"])
async def test_an_upload_that_was_answered_is_there_and_of_another_nothing_stays(tmp_path: Path, how: str) -> None:
    template = tmp_path / "template"
    await prepared(template)
    for at in itertools.count():
        data_dir = tmp_path / str(at)
        shutil.copytree(template, data_dir)
        with pytest.MonkeyPatch.context() as patched:
            mortal = Mortal(at, how, patched)
            file_id = await uploaded(data_dir)
        store = Store(data_dir)
        for path in data_dir.glob("*/*"):
            os.utime(path, (1, 1))
        await Sweeper(store.files, store.batches, store.contents, 86400.0).leftovers()
        known, _ = await store.files.page(None, limit=9, after=None, purpose=None, ascending=False)
        kept = {path.name: path.read_bytes() for path in (data_dir / "files").iterdir()}
        assert set(kept) == {each.id for each in known}
        assert all(kept[each.id] == line(1) for each in known if each.filename == "in.jsonl")
        assert file_id is None or file_id in kept
        assert list((data_dir / "uploads").iterdir()) == []
        await store.database.close()
        if not mortal.dead:
            break
    assert at >= 4


async def test_what_is_deleted_or_has_expired_is_freed(store: Store) -> None:
    sweeper = Sweeper(store.files, store.batches, store.contents, 86400.0)
    old = FileRecord(new_id(FILE), None, "batch", "in", 1, 1, int(time()) - 1)
    gone = FileRecord(new_id(FILE), None, "batch", "in", 1, 1, None)
    kept = FileRecord(new_id(FILE), None, "batch", "in", 1, 1, None)
    for each in (old, gone, kept):
        store.contents.path(each.id).write_bytes(b"x")
        await store.files.add(each)
    await store.files.delete(gone.id, None)
    task = asyncio.create_task(sweeper.run())
    async with asyncio.timeout(10):
        while len(list(store.contents.path("x").parent.iterdir())) > 1:  # noqa: ASYNC110 - files are removed in a thread
            await asyncio.sleep(0.005)
        await store.files.delete(kept.id, None)
        sweeper.wake()
        while list(store.contents.path("x").parent.iterdir()):  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait({task})
