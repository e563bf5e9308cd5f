"""Gateways that share a database and a directory share the work, and go on with that of one that died."""

import asyncio
import json
from pathlib import Path

from aiohttp import ClientSession, web

from ..harness.batches import ENDS, Vllm, each_once, everybody, kill, line, started
from ..harness.postgresql import PostgreSQL
from ..harness.processes import Run

LINES = 400


def slowly(vllm: Vllm, seconds: float) -> None:
    async def answer(body: bytes) -> web.Response:
        await asyncio.sleep(seconds)
        return web.json_response({"echo": json.loads(body)["n"]})

    vllm.answer = answer


async def test_another_gateway_goes_on_within_a_minute(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path, server: PostgreSQL
) -> None:
    slowly(vllm, 0.2)
    url = server.database()
    one, caller = await started(run, session, vllm, tmp_path, GOMODEL_DATABASE_URL=url)
    _, other = await started(run, session, vllm, tmp_path, GOMODEL_DATABASE_URL=url)
    ids = [await caller.batch(b"".join(line(number) for number in range(LINES))) for _ in range(2)]
    async with asyncio.timeout(60):
        while len(vllm.asked) < LINES // 2:  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.05)
    kill(*everybody(one.pid))
    killed_at = asyncio.get_running_loop().time()
    for batch_id in ids:
        async with asyncio.timeout(150):
            while (  # noqa: ASYNC110
                batch := await other.json("GET", f"/batches/{batch_id}")
            )["status"] not in ENDS:
                await asyncio.sleep(0.2)
        assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
        await each_once(other, batch, LINES)
    assert asyncio.get_running_loop().time() - killed_at < 60 + LINES * 2 * 0.2 / 2


async def test_a_database_that_is_away_for_a_while_costs_nothing(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path, server: PostgreSQL
) -> None:
    slowly(vllm, 0.02)
    process, caller = await started(run, session, vllm, tmp_path, GOMODEL_DATABASE_URL=server.database())
    batch_id = await caller.batch(b"".join(line(number) for number in range(LINES)))
    async with asyncio.timeout(60):
        while len(vllm.asked) < 50:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await asyncio.to_thread(server.stop)
    await process.says("is paused: the database does not answer")
    async with session.get(f"{caller.url}/batches/{batch_id}") as response:
        assert response.status == 503
        assert (await response.json())["error"]["code"] == "database_unavailable"
    await asyncio.to_thread(server.start)
    batch = await caller.until(batch_id, *ENDS)
    assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    await each_once(caller, batch, LINES)
    assert len(vllm.asked) == LINES
