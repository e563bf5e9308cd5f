"""How a batch ends before its last line, whether all lines are under way by then or some wait for a turn."""

import asyncio
import errno
import json
from time import time
from typing import Any

import pytest

from gomodel.batches import batch_store, patience, run
from gomodel.batches.database import DatabaseAway
from gomodel.batches.gate import Gate
from gomodel.batches.gateway_client import Answer, Outcome
from gomodel.batches.ids import BATCH, FILE, new_id
from gomodel.batches.politeness import Pace
from gomodel.batches.records import FileRecord, Work
from gomodel.batches.results import LeaseLost, Results
from gomodel.batches.run import Run
from gomodel.config.settings import Batching

from .conftest import Store

CONFIG = Batching("", None, 1 << 20, 86400.0, 16, 10)
LINES = 4


class Server:
    """Answers lines below `answers`, with `outcomes` before that where there are some; the others run for ever."""

    def __init__(self, answers: int = 0, outcomes: list[Answer] | None = None) -> None:
        self.answers = answers
        self.outcomes = outcomes or []
        self.asked: list[int] = []
        self.left: list[int] = []
        self.known: dict[str, bool | None] = {}
        self.changed = asyncio.Event()

    async def ask(self, work: Work, request_id: str, body: bytes) -> Answer:
        number = json.loads(body)["n"]
        self.asked.append(number)
        self.changed.set()
        if self.outcomes:
            return self.outcomes.pop(0)
        if number < self.answers:
            return Answer(Outcome.ANSWERED, 200, b"{}", "vllm")
        try:
            await asyncio.Event().wait()
        finally:
            self.left.append(number)
        raise AssertionError

    async def knows(self, model: str, owner: str | None) -> bool | None:
        return self.known.get(model, True)

    async def until(self, asked: int) -> None:
        async with asyncio.timeout(10):
            while len(self.asked) < asked:
                self.changed.clear()
                await self.changed.wait()


class Batch:
    """One batch of a store, and a run of it."""

    def __init__(self, store: Store, server: Server, gate: Gate) -> None:
        self.store = store
        self.server = server
        self.gate = gate
        self.id = new_id(BATCH)
        self.counted: dict[str, int] = {}
        self.run: Run

    async def make(self, window_s: int = 3600, lines: int = LINES, model: str = "m") -> "Batch":
        store = self.store
        record = FileRecord(new_id(FILE), None, "batch", "in", 1, 1, None)
        text = "".join(
            json.dumps({"custom_id": str(n), "method": "POST", "url": "/v1/x", "body": {"model": model, "n": n}}) + "\n"
            for n in range(lines)
        )
        store.contents.path(record.id).write_text(text)
        await store.files.add(record)
        values = {"id": self.id, "endpoint": "/v1/x", "input_file_id": record.id, "completion_window": "1h"}
        values |= {"metadata": None, "output_ttl_s": None, "expires_at": int(time()) + window_s}
        await store.batches.add(values, None)
        return await self.claim()

    async def claim(self) -> "Batch":
        work = await self.store.batches.claim([])
        assert work is not None
        client: Any = self.server
        store = self.store

        def count(state: str, number: int) -> None:
            self.counted[state] = self.counted.get(state, 0) + number

        self.run = Run(work, CONFIG, 1 << 20, store.batches, store.contents, client, lambda _: self.gate, count)
        return self

    async def row(self) -> Any:
        return await self.store.batches.get(self.id, None)

    async def errors(self) -> dict[str, str]:
        content = self.store.contents.path((await self.row()).error_file_id).read_bytes()
        return {each["custom_id"]: each["error"]["code"] for each in map(json.loads, content.splitlines())}


def gate(limit: int) -> Gate:
    pace = Pace(limit)
    pace.limit = limit
    return Gate(pace)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_SAVE_S", 0.01)
    monkeypatch.setattr(run, "_BACKOFF_S", 0.001)
    monkeypatch.setattr(patience, "_RETRY_S", 0.01)


# All of the lines are under way, or one of them is and the others wait.
UNDER_WAY = pytest.mark.parametrize("limit", [LINES, 1])


@UNDER_WAY
@pytest.mark.parametrize("done", [0, 1])
async def test_a_cancel_ends_what_runs_and_writes_off_the_rest(store: Store, limit: int, done: int) -> None:
    batch = await Batch(store, Server(done), gate(limit)).make()
    running = asyncio.create_task(batch.run.run())
    await batch.server.until(min(LINES, done + limit))
    await store.batches.cancel(batch.id, None)
    async with asyncio.timeout(10):
        await running
    row = await batch.row()
    assert (row.status, row.completed, row.failed) == ("cancelled", done, LINES - done)
    assert await batch.errors() == {str(n): "batch_cancelled" for n in range(done, LINES)}
    assert sorted(batch.server.left) == list(range(done, min(LINES, done + limit)))
    assert (batch.gate.running, batch.gate.waiting) == (0, 0)
    assert batch.counted == {"completed": done, "failed": LINES - done} if done else {"failed": LINES}


@UNDER_WAY
async def test_the_end_of_its_time_ends_what_runs_too(store: Store, limit: int) -> None:
    batch = await Batch(store, Server(), gate(limit)).make(window_s=1)
    async with asyncio.timeout(10):
        await batch.run.run()
    assert (await batch.row()).status == "expired"
    assert await batch.errors() == {str(n): "batch_expired" for n in range(LINES)}
    assert sorted(batch.server.left) == sorted(batch.server.asked)  # none where the machine was too busy to begin
    assert len(batch.server.asked) <= limit
    assert batch.gate.running == 0


@UNDER_WAY
async def test_a_drain_waits_for_what_runs_and_begins_no_more(store: Store, limit: int) -> None:
    server = Server(LINES)
    batch = await Batch(store, server, gate(limit)).make()
    batch.run.drain()
    async with asyncio.timeout(10):
        await batch.run.run()
    assert (await batch.row()).status in ("validating", "in_progress")
    await store.batches.release(batch.run.work)
    async with asyncio.timeout(10):
        await (await batch.claim()).run.run()
    assert (await batch.row()).status == "completed"
    assert sorted(server.asked) == list(range(LINES))


@UNDER_WAY
async def test_who_is_told_to_go_leaves_a_batch_that_another_goes_on_with(store: Store, limit: int) -> None:
    batch = await Batch(store, Server(1), gate(limit)).make()
    running = asyncio.create_task(batch.run.run())
    await batch.server.until(min(LINES, 1 + limit))
    batch.run.abandon()
    async with asyncio.timeout(10):
        await running
    await store.batches.release(batch.run.work)
    batch.server.answers = LINES
    await (await batch.claim()).run.run()
    row = await batch.row()
    assert (row.status, row.completed) == ("completed", LINES)
    assert batch.server.asked.count(0) == 1
    assert batch.gate.running == 0


@UNDER_WAY
async def test_who_has_lost_the_lease_stops(store: Store, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await Batch(store, Server(1), gate(limit)).make()
    running = asyncio.create_task(batch.run.run())
    await batch.server.until(min(LINES, 1 + limit))
    monkeypatch.setattr(batch_store, "LEASE_S", -1.0)
    await store.batches.renew(batch.run.work)
    assert await store.batches.claim([]) is not None
    async with asyncio.timeout(10):
        with pytest.raises(LeaseLost):
            await running
    assert batch.gate.running == 0


BUSY, AWAY = Answer(Outcome.BUSY, 503, b"{}", "vllm"), Answer(Outcome.AWAY)
LOST, GATEWAY_502 = Answer(Outcome.NOTHING), Answer(Outcome.NOTHING, 502, b'{"error":{"code":"x"}}', "vllm")


@pytest.mark.parametrize(
    ("outcomes", "asked", "completed"),
    [
        ([BUSY] * 8, 9, 1),
        ([AWAY] * 8, 9, 1),
        ([LOST], 2, 1),
        ([LOST, BUSY, LOST], 4, 1),
        ([LOST] * 3, 3, 0),
        ([GATEWAY_502] * 3, 3, 0),
        ([Answer(Outcome.ANSWERED, 500, b"{}", "vllm")], 1, 0),
        ([Answer(Outcome.ANSWERED, 400, b"{}", "vllm")], 1, 0),
        ([Answer(Outcome.ANSWERED, 204, b"", "vllm")], 1, 1),
    ],
)
async def test_a_line_is_sent_again_only_where_that_is_safe(
    store: Store, outcomes: list[Answer], asked: int, completed: int
) -> None:
    batch = await Batch(store, Server(1, list(outcomes)), gate(1)).make(lines=1)
    async with asyncio.timeout(10):
        await batch.run.run()
    row = await batch.row()
    assert (len(batch.server.asked), row.completed, row.failed) == (asked, completed, 1 - completed)


async def test_a_line_whose_answer_never_came_says_so(store: Store) -> None:
    batch = await Batch(store, Server(1, [LOST] * 3), gate(1)).make(lines=1)
    await batch.run.run()
    assert await batch.errors() == {"0": "connection_terminated"}


@pytest.mark.parametrize(("known", "status"), [(False, "failed"), (True, "completed"), (None, "completed")])
async def test_a_model_that_is_known_to_be_unknown_fails_the_batch(
    store: Store, known: bool | None, status: str
) -> None:
    server = Server(LINES)
    server.known["vllm/nobody"] = known
    batch = await Batch(store, server, gate(2)).make(model="vllm/nobody")
    await batch.run.run()
    row = await batch.row()
    assert (row.status, row.model) == (status, None if status == "failed" else "vllm/nobody")


async def test_a_file_that_is_gone_fails_the_batch(store: Store) -> None:
    batch = await Batch(store, Server(), gate(1)).make()
    store.contents.remove(batch.run.work.input_file_id)
    await batch.run.run()
    row = await batch.row()
    assert (row.status, json.loads(row.errors)[0]["code"]) == ("failed", "file_not_found")


async def test_lines_that_begin_alike_follow_each_other(store: Store) -> None:
    """So that a prefix that was computed for one is there for the next."""
    server = Server(1000)
    batch = await Batch(store, server, gate(1)).make(lines=1)
    text = ""
    for n in range(30):
        body = {"system": f"prompt {n % 3}", "n": n}
        text += json.dumps({"custom_id": str(n), "method": "POST", "url": "/v1/x", "body": body}) + "\n"
    store.contents.path(batch.run.work.input_file_id).write_text(text)
    await batch.run.run()
    assert [n % 3 for n in server.asked] == [0] * 10 + [1] * 10 + [2] * 10


@pytest.mark.parametrize(
    "why", ["the disk is full", "the database does not answer", "the disk of the database is full"]
)
async def test_what_cannot_be_kept_now_is_kept_later(
    store: Store, monkeypatch: pytest.MonkeyPatch, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(LINES)
    batch = await Batch(store, server, gate(LINES)).make()
    failing = 3
    said: list[str] = []
    record, write = type(store.batches).record, Results._write

    async def away(stores: Any, *args: Any) -> Any:
        nonlocal failing
        failing -= why != "the disk is full"
        if failing >= 0 and why != "the disk is full":
            said.append(batch.run.paused)
            raise DatabaseAway(full="disk" in why)
        return await record(stores, *args)

    def full(results: Results, pieces: dict[str, bytes]) -> None:
        nonlocal failing
        failing -= why == "the disk is full"
        if failing >= 0 and why == "the disk is full":
            said.append(batch.run.paused)
            raise OSError(errno.ENOSPC, "full")
        write(results, pieces)

    monkeypatch.setattr(type(store.batches), "record", away)
    monkeypatch.setattr(Results, "_write", full if why == "the disk is full" else write)
    async with asyncio.timeout(10):
        await batch.run.run()
    row = await batch.row()
    assert (row.status, row.completed, row.paused, batch.run.paused) == ("completed", LINES, None, "")
    assert said == ["", why, why]
    assert sorted(server.asked) == list(range(LINES))
    assert sum(record.levelname == "ERROR" for record in caplog.records) == 1


async def test_a_disk_that_fails_otherwise_is_no_pause(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = await Batch(store, Server(LINES), gate(LINES)).make()

    def broken(results: Results, pieces: dict[str, bytes]) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(Results, "_write", broken)
    with pytest.raises(OSError, match="broken"):
        await batch.run.run()
    assert (await batch.row()).status == "in_progress"
