"""What tests ask of a gateway that runs as processes of its own: an answer, a stream that stands still, its workers."""

import asyncio
from typing import Any

import pytest

from .processes import RUN, WITHOUT_UVLOOP, Process, Run, children, pause
from .scripted import LAST_CHUNK, SAFETY_S, SSE_HEAD, RawClient, ScriptedUpstream, Stall, chunked, request

HEALTH = request("GET", "/health", [("Connection", "close")])
KEPT_HEALTH = request("GET", "/health")
METRICS = request("GET", "/metrics", [("Connection", "close")])
# Every signal counts, however soon it follows another.
AT_ONCE = "import gomodel.host.signals as s; s.DUPLICATE_S = 0.0; "
LOOPS = pytest.mark.parametrize("code", [None, WITHOUT_UVLOOP + RUN], ids=["uvloop", "asyncio"])


def chat(*headers: tuple[str, str]) -> bytes:
    return request("POST", "/v1/chat/completions", headers, b'{"model": "m", "stream": true}')


async def started(run: Run, workers: int, environ: dict[str, str], **options: Any) -> Process:
    process = await run({**environ, "GOMODEL_WORKERS": str(workers)}, **options)
    await process.listening()
    return process


async def asked(process: Process, message: bytes = HEALTH) -> Any:
    """One answer, on a connection of its own."""
    client = await RawClient.connect(process.port)
    await client.send(message)
    answer = await client.read_response(message.split(b" ")[0].decode())
    client.wire.close()
    return answer


async def streaming(connect: Any, process: Process, upstream: ScriptedUpstream, request_id: str = "x") -> RawClient:
    """A client in the middle of a stream that goes on when the upstream is released."""
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), chunked(b"data: 2\n\n") + LAST_CHUNK)
    await process.listening()
    client: RawClient = await connect(process)
    await client.send(chat(("X-Request-Id", request_id)))
    await client.read_head("POST")
    await client.read_chunk()
    return client


async def number_of_children(process: Process, number: int) -> list[int]:
    async with asyncio.timeout(SAFETY_S):
        while len(found := children(process.pid)) != number:
            await pause()
    return found


async def have_listened(process: Process, number: int) -> None:
    """Waits until so many workers have taken connections, those that are gone included: from then on each asks its
    instance, and says once that it is up. Before the one, connections to a port without others are refused."""
    await process.says("Instance vllm is up", number)


async def status(client: RawClient, message: bytes = KEPT_HEALTH) -> int:
    await client.send(message)
    return int((await client.read_response(message.split(b" ")[0].decode())).status)
