"""5,000 lines and a kill every 500 of them: every id exactly once, and no byte of a body changed."""

import asyncio
import random
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from ..harness.batches import ENDS, Vllm, each_once, everybody, kill, line, started
from ..harness.processes import Run, children

LINES, EVERY = 5000, 500


async def after(vllm: Vllm, asked: int) -> None:
    """Wait until the server has been asked so often, or for everything."""
    async with asyncio.timeout(120):
        while len(vllm.asked) < asked and len({body for body, _ in vllm.asked}) < LINES:  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("victims", ["the whole gateway", "the batcher", "the gateway's process"])
async def test_nothing_is_lost_or_twice(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path, victims: str
) -> None:
    process, caller = await started(run, session, vllm, tmp_path)
    batch_id = await caller.batch(b"".join(line(number) for number in range(LINES)))
    for _ in range(LINES // EVERY - 1):
        await after(vllm, len(vllm.asked) + EVERY)
        await asyncio.sleep(random.uniform(0, 0.2))
        if victims == "the batcher":
            kill(*children(process.pid))
            continue
        kill(*(everybody(process.pid) if victims == "the whole gateway" else [process.pid]))
        await process.ended()
        process, caller = await started(run, session, vllm, tmp_path)
    for _ in range(600):
        try:
            batch = await caller.json("GET", f"/batches/{batch_id}")
        except (ClientError, AssertionError):  # another batcher is on its way
            batch = {"status": "in_progress"}
        if batch["status"] in ENDS:
            break
        await asyncio.sleep(0.1)
    assert (batch["status"], batch["request_counts"]) == (
        "completed",
        {"total": LINES, "completed": LINES, "failed": 0},
    )
    await each_once(caller, batch, LINES)
    assert len({body for body, _ in vllm.asked}) == LINES
    assert list((tmp_path / "data" / "work").iterdir()) == []
    assert await process.stop() == 0


async def test_a_gateway_that_drains_in_the_middle_is_gone_on_with(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    process, caller = await started(run, session, vllm, tmp_path)
    batch_id = await caller.batch(b"".join(line(number) for number in range(LINES)))
    for _ in range(3):
        await after(vllm, len(vllm.asked) + EVERY)
        assert await process.stop() == 0
        process, caller = await started(run, session, vllm, tmp_path)
    batch = await caller.until(batch_id, *ENDS)
    await each_once(caller, batch, LINES)
    assert len(vllm.asked) == LINES  # what ran was waited for, and what was done is not done again
