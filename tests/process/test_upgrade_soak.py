"""Upgrades under load: clients of a standard library, streams and batches, of which nobody notices any.

GOMODEL_SOAK is for how many requests; `make soak` takes many, and two-minute streams.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from ..harness.batches import CHAT, ENDS, MODEL, Caller, Vllm, each_once, line, serving
from ..harness.processes import Run
from ..harness.scripted import let_peers_run

REQUESTS = int(os.environ.get("GOMODEL_SOAK", "200"))
LONG = REQUESTS > 1000
UPGRADES = 10 if LONG else 1
KEPT, FRESH = 8, 4  # clients that keep their connection, and that open one for each request
STREAMS, EVENTS, EVENT_S = (10, 240, 0.5) if LONG else (2, 20, 0.05)
LINES = 3000 if LONG else 20
WAYS = [("port", "1"), ("port", "2"), ("unix", "1"), ("unix", "2")] if LONG else [("unix", "2")]
BODY = {"model": f"vllm/{MODEL}", "n": 1}


@pytest.fixture
async def vllm() -> AsyncIterator[Vllm]:
    async with serving() as found:
        yield found


def connector(path: Path | None, *, fresh: bool = False) -> aiohttp.BaseConnector:
    if path is not None:
        return aiohttp.UnixConnector(str(path), force_close=fresh)
    return aiohttp.TCPConnector(force_close=fresh)


async def asking(session: aiohttp.ClientSession, url: str, left: list[int], outcomes: Counter[str]) -> None:
    """One client: a request after the other, until all have been made and all upgrades are over."""
    while left[0] > 0 or left[1]:
        left[0] -= 1
        try:
            async with session.post(url + CHAT, json=BODY) as response:
                await response.read()
                outcomes[str(response.status)] += 1
        except (aiohttp.ClientError, OSError) as error:
            outcomes[type(error).__name__] += 1
        await asyncio.sleep(0)


@pytest.mark.parametrize(("way", "workers"), WAYS)
async def test_no_request_is_lost(run: Run, vllm: Vllm, tmp_path: Path, way: str, workers: str) -> None:
    path = tmp_path / "g.sock" if way == "unix" else None
    where = {} if path is None else {"PORT": "", "GOMODEL_UNIX_SOCKET": str(path)}
    process = await run({"VLLM_BASE_URL": vllm.url, "GOMODEL_WORKERS": workers, **where})
    port = await process.listening()
    url = f"http://127.0.0.1:{port}" if path is None else "http://gateway"
    outcomes: dict[str, Counter[str]] = {"kept": Counter(), "new": Counter()}
    left = [REQUESTS, UPGRADES]
    async with (
        aiohttp.ClientSession(connector=connector(path)) as kept,
        aiohttp.ClientSession(connector=connector(path, fresh=True)) as fresh,
    ):
        clients = [asyncio.create_task(asking(kept, url, left, outcomes["kept"])) for _ in range(KEPT)]
        clients += [asyncio.create_task(asking(fresh, url, left, outcomes["new"])) for _ in range(FRESH)]
        try:
            for _ in range(UPGRADES):
                await process.upgrade()
                left[1] -= 1
            await asyncio.gather(*clients)
        finally:
            for each in clients:
                each.cancel()
    assert await process.stop() == 0
    print(f"{way}, {workers} worker(s), {UPGRADES} upgrades:", {kind: dict(each) for kind, each in outcomes.items()})
    assert {kind: set(each) for kind, each in outcomes.items()} == {"kept": {"200"}, "new": {"200"}}
    assert sum(each.total() for each in outcomes.values()) >= REQUESTS


async def streamed(session: aiohttp.ClientSession, url: str) -> list[int]:
    """The numbers of the events of one stream."""
    async with session.post(url + CHAT, json={**BODY, "stream": True}) as response:
        text = (await response.read()).decode()
    return [int(event.removeprefix("data: ")) for event in text.split("\n\n") if event]


@pytest.mark.parametrize("workers", ["1", "2"] if LONG else ["1"])
async def test_streams_and_batches_outlive_upgrades(run: Run, vllm: Vllm, tmp_path: Path, workers: str) -> None:
    vllm.events, vllm.event_s = EVENTS, EVENT_S
    environ = {"VLLM_BASE_URL": vllm.url, "GOMODEL_WORKERS": workers, "GOMODEL_DATA_DIR": str(tmp_path / "data")}
    process = await run(environ)
    url = f"http://127.0.0.1:{await process.listening()}"
    # Each call over a connection of its own: for these, as for all that keep theirs, see above.
    async with aiohttp.ClientSession(connector=connector(None, fresh=True)) as session:
        caller = Caller(session, process.port)
        batch_id = await caller.batch(b"".join(line(number) for number in range(LINES)))
        streams = [asyncio.create_task(streamed(session, url)) for _ in range(STREAMS)]
        while len([each for each in vllm.asked if b"stream" in each[0]]) < STREAMS:
            await let_peers_run()
        for _ in range(3 if LONG else 1):
            await process.upgrade()
            await asyncio.sleep(EVENTS * EVENT_S / 5)
        assert await asyncio.gather(*streams) == [list(range(EVENTS))] * STREAMS
        batch = await caller.until(batch_id, *ENDS)
        assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", LINES)
        await each_once(caller, batch, LINES)
    assert await process.stop() == 0
    sent = len([each for each in vllm.asked if b"stream" not in each[0]])
    print(f"{workers} worker(s): {STREAMS} streams of {EVENTS * EVENT_S:g} s whole; {LINES} lines, {sent} sent")
