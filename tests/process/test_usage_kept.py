"""Usage is kept by the hour: none is lost at SIGTERM, none counts twice, and it outlives every process."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

from ..harness.batches import everybody, kill
from ..harness.gateways import asked
from ..harness.processes import RUN, Process, Run, pause
from ..harness.scripted import (
    RawClient,
    ReadRequest,
    ScriptedUpstream,
    WaitFor,
    env_for,
    json_response,
    request,
)
from ..harness.verdicts import post, turned

ANSWER = json_response({"usage": {"prompt_tokens": 10, "total_tokens": 12, "completion_tokens": 2}})
KEPT = request("GET", "/admin/usage?from=0&by=instance", [("Connection", "close")])
# Says what was used every other moment.
OFTEN = "import gomodel.process.batching as b\nb._TELL_S = 0.02\n" + RUN


async def started(run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: int, **options: Any) -> Process:
    environ = {**env_for(vllm=upstream), "GOMODEL_DATA_DIR": str(tmp_path / "data"), "GOMODEL_WORKERS": str(workers)}
    process = await run(environ, **options)
    await process.listening()
    return process


async def kept(process: Process) -> tuple[int, int]:
    """Requests and prompt tokens in the hours of the database, once it can be asked."""
    while (answer := await asked(process, KEPT)).status == 503:
        await pause()
    assert answer.status == 200
    rows = json.loads(answer.body)["data"]
    return sum(row["requests"] for row in rows), sum(row["prompt_tokens"] for row in rows)


async def test_all_that_was_used_until_the_end_is_there_after_it(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.repeat(ANSWER)
    process = await started(run, upstream, tmp_path, 2)
    for _ in range(6):
        await asked(process, post(headers=[("Connection", "close")]))
    # Some still run when the end begins, in any of the workers.
    go_on = asyncio.Event()
    upstream.repeat(ReadRequest(), WaitFor(go_on), ANSWER)
    clients = [await RawClient.connect(process.port) for _ in range(6)]
    for client in clients:
        await client.send(post())
    await turned(lambda: len(upstream.requests) == 12)
    process.signal(signal.SIGTERM)
    await process.says("ending, 2 workers")
    go_on.set()
    for client in clients:
        assert (await client.read_response()).status == 200
        client.wire.close()
    assert await process.ended() == 0
    again = await started(run, upstream, tmp_path, 1)
    assert await kept(again) == (12, 120)
    answer = await asked(again, request("GET", "/admin/usage?from=0&to=3600&format=csv", [("Connection", "close")]))
    assert (answer.status, answer.get("Content-Type"), answer.body.count(b"\r\n")) == (
        200,
        "text/csv; charset=utf-8",
        1,
    )
    there = {**env_for(vllm=upstream), "PORT": str(again.port)}
    printed = await run(there, "usage", "--by", "instance", "--from", "2026-01-01", "--to", "2999-01-01T00:00Z")
    assert await printed.ended() == 0, printed.text
    assert printed.output.splitlines()[1].split()[:2] == ["vllm", "12"]
    assert "From 2026-01-01T00:00:00Z to 2999-01-01T00:00:00Z" in printed.output
    assert await again.stop() == 0


async def test_what_was_kept_outlives_the_death_of_all_and_nothing_counts_twice(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.repeat(ANSWER)
    process = await started(run, upstream, tmp_path, 1, code=OFTEN)
    for _ in range(6):
        await asked(process, post(headers=[("Connection", "close")]))
    while await kept(process) != (6, 60):
        await pause()
    (batcher,) = everybody(process.pid)[1:]
    os.kill(batcher, signal.SIGKILL)  # another one goes on where it stood
    await process.says("The process for batches ended with status -9")
    await asked(process, post(headers=[("Connection", "close")]))
    while await kept(process) != (7, 70):
        await pause()
    kill(*everybody(process.pid))
    await process.ended()
    again = await started(run, upstream, tmp_path, 1)
    assert await kept(again) == (7, 70)
    assert await again.stop() == 0


async def test_without_a_database_a_time_cannot_be_asked_for(run: Run, upstream: ScriptedUpstream) -> None:
    process = await run(env_for(vllm=upstream))
    await process.listening()
    answer = await asked(process, KEPT)
    assert answer.status == 400
    assert "GOMODEL_DATA_DIR" in answer.json()["error"]["message"]
    assert await process.stop() == 0
