"""Limits over several worker processes: never one too many at the instance, and no place lost with a worker."""

import asyncio
import json
import os
import signal
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..harness.processes import RUN, Process, Run, children
from ..harness.scripted import SSE_HEAD, RawClient, ScriptedUpstream, Stall, chunked, env_for, request, sse_event
from ..harness.verdicts import turned

QUICK = "import gomodel.process.supervisor as s; s.LIMITS = s.Limits(backoff_s=0.01); "
BODY = b'{"model":"vllm/m"}'
CHAT = "/v1/chat/completions"


async def started(run: Run, tmp_path: Path, upstream: ScriptedUpstream, workers: int, **limits: Any) -> Process:
    fields = "".join(f"{name} = {json.dumps(value)}\n" for name, value in limits.items())
    path = tmp_path / "keys.toml"
    path.write_text(f'[keys.alice]\nsha256 = "{sha256(b"alice").hexdigest()}"\n{fields}')
    environ = {"GOMODEL_KEYS_FILE": str(path), "GOMODEL_WORKERS": str(workers), **env_for(vllm=upstream)}
    process = await run(environ, code=QUICK + RUN)
    await process.listening()
    return process


async def asked(process: Process) -> RawClient:
    """A connection of its own, which any worker may get, with a request on it."""
    client = await RawClient.connect(process.port)
    await client.send(request("POST", CHAT, [("Authorization", "Bearer alice"), ("Connection", "close")], BODY))
    return client


async def statuses(process: Process, count: int) -> tuple[list[RawClient], int]:
    """`count` requests at once: the clients whose answer has begun, and how many were refused."""
    clients = await asyncio.gather(*(asked(process) for _ in range(count)))
    heads = await asyncio.gather(*(client.read_head() for client in clients))
    let_in = [client for client, head in zip(clients, heads, strict=True) if head.status == 200]
    for client in clients:
        if client not in let_in:
            client.wire.close()
    assert {head.status for head in heads} <= {200, 429}
    return let_in, count - len(let_in)


async def said_of_alice(process: Process) -> dict[str, Any]:
    """What GET /admin/keys has, asked with the key itself."""
    client = await RawClient.connect(process.port)
    await client.send(request("GET", "/admin/keys", [("Authorization", "Bearer alice"), ("Connection", "close")]))
    (alice,) = (await client.read_response()).json()["keys"]
    client.wire.close()
    return dict(alice)


async def test_never_more_run_at_the_instance_and_no_place_stays_empty(
    run: Run, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.repeat(SSE_HEAD, chunked(sse_event("1")), Stall())
    process = await started(run, tmp_path, upstream, 3, in_flight=4)
    for _ in range(3):
        running, refused = await statuses(process, 40)
        assert (len(running), refused) == (4, 36)
        for client in running:
            client.wire.close()
        open_now = [each for each in upstream.requests if each.ended is None]
        await turned(lambda open_now=open_now: all(each.ended for each in open_now))
        # The gateway has closed the connections to the instance; each worker counts that in the same turn.
    assert len([each for each in upstream.requests if not each.is_probe]) == 12
    assert await process.stop() == 0


async def test_a_worker_that_is_killed_leaves_no_place_behind(
    run: Run, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.repeat(SSE_HEAD, chunked(sse_event("1")), Stall())
    process = await started(run, tmp_path, upstream, 2, in_flight=6, admin=True)
    running, _ = await statuses(process, 30)
    assert len(running) == 6
    before = await said_of_alice(process)
    assert (before["running"], before["used"], before["refused"]) == (7, {"in_flight": 6}, {"in_flight": 24})
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    for client in running:
        await client.closed
        client.wire.close()
    await process.says("starts again", 2)
    while True:
        try:
            (await RawClient.connect(process.port)).wire.close()
            break
        except ConnectionRefusedError:
            pass
    let_in: list[RawClient] = []
    while len(let_in) < 6:
        more, _ = await statuses(process, 6)
        let_in += more
    more, refused = await statuses(process, 10)
    assert (more, refused) == ([], 10)
    after = await said_of_alice(process)
    assert (after["running"], after["used"]) == (7, {"in_flight": 6})
    assert after["requests"] >= before["requests"] + 10  # what both workers counted that were killed, and more
    assert after["refused"]["in_flight"] >= 24 + 10
    for client in let_in:
        client.wire.close()
    assert await process.stop() == 0


async def test_requests_a_minute_are_those_of_all_workers(run: Run, tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.repeat(SSE_HEAD, b"0\r\n\r\n")
    process = await started(run, tmp_path, upstream, 3, requests_per_minute=20)
    let_in, refused = 0, 0
    for _ in range(6):
        more, no = await statuses(process, 10)
        let_in, refused = let_in + len(more), refused + no
        for client in more:
            client.wire.close()
    assert (let_in, refused) == (20, 40)
    assert await process.stop() == 0
