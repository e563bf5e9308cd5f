"""What files and batches cost, and what they cost others: `python -m bench.batches`.

Looks at 50,000 lines, runs lines on a server that answers at once, uploads 200 MB, and asks for streams beside a batch
on a server with few slots. Knows no other proxy: none of the peers has batches of its own.
"""

import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, FormData, web

from gomodel.batches.validation import MOST_LINES, validate

_CHAT = "/v1/chat/completions"
_MODEL = "org/model"
_LINES = 5000
_UPLOAD_BYTES = 200 << 20
# A vLLM that generates for so many at once, and how long it takes for one.
_SLOTS, _GENERATION_S = 12, 0.25
_STREAMS_PER_S, _MEASURED_S = 12.0, 30.0


class Server:
    """Answers at once, or after a slot is free and the generation over."""

    def __init__(self, slots: int | None) -> None:
        self._slots = asyncio.Semaphore(slots) if slots else None
        self.lines = 0

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models."""
        return web.json_response({"object": "list", "data": [{"id": _MODEL, "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        streamed = b'"stream":true' in await request.read()
        if self._slots is None:
            self.lines += 1
            return web.json_response({"id": "x", "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if streamed:
            await response.prepare(request)  # as vLLM, before it is anybody's turn
        async with self._slots:
            if not streamed:
                await asyncio.sleep(_GENERATION_S)
                self.lines += 1
                return web.json_response({"id": "x", "usage": {"prompt_tokens": 9, "completion_tokens": 1}})
            await response.write(b"data: 1\n\n")
            await asyncio.sleep(_GENERATION_S)
            await response.write(b"data: [DONE]\n\n")
        return response


@asynccontextmanager
async def _gateway(slots: int | None) -> AsyncIterator[tuple[Server, ClientSession, str, int]]:
    """A server, a gateway in front, a client of it, the base URL and the gateway's pid."""
    server = Server(slots)
    app = web.Application()
    app.add_routes(
        [web.get("/v1/models", server.models), web.get("/health", server.models), web.post(_CHAT, server.chat)]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    environ = {**os.environ, "VLLM_BASE_URL": f"http://127.0.0.1:{runner.addresses[0][1]}/v1", "HOST": "127.0.0.1"}
    with tempfile.TemporaryDirectory() as place:
        environ |= {"PORT": "0", "GOMODEL_DATA_DIR": f"{place}/data", "LOG_FORMAT": "text"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gomodel", env=environ, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr is not None
        port = 0
        async for line in process.stderr:
            if b"Listening on" in line:
                port = int(line.rsplit(b":", 1)[1])
            if b"Limits:" in line:
                break
        reading = asyncio.create_task(_read(process.stderr))
        try:
            async with ClientSession() as session:
                yield server, session, f"http://127.0.0.1:{port}/v1", process.pid
        finally:
            process.terminate()
            await process.wait()
            await reading
    await runner.cleanup()


async def _read(stream: asyncio.StreamReader) -> None:
    while await stream.read(1 << 16):
        pass


def _batcher(pid: int) -> int:
    found = [each for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()]
    return int(found[0])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int, what: str = "VmRSS") -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def _line(number: int) -> bytes:
    messages = [{"role": "system", "content": "You are a helpful assistant. " * 5}]
    messages.append({"role": "user", "content": f"Summarise text number {number}. " * 10})
    body = {"model": f"vllm/{_MODEL}", "max_tokens": 200, "messages": messages}
    return json.dumps({"custom_id": f"request-{number}", "method": "POST", "url": _CHAT, "body": body}).encode() + b"\n"


async def _call(session: ClientSession, method: str, url: str, **kwargs: Any) -> Any:
    async with session.request(method, url, **kwargs) as response:
        return await response.json()


async def _begin(session: ClientSession, url: str, lines: int) -> str:
    form = FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", b"".join(map(_line, range(lines))), filename="in.jsonl", content_type="application/jsonl")
    file = await _call(session, "POST", f"{url}/files", data=form)
    body = {"input_file_id": file["id"], "endpoint": _CHAT, "completion_window": "24h"}
    return str((await _call(session, "POST", f"{url}/batches", json=body))["id"])


def looking() -> None:
    """How long the look at the largest batch takes."""
    with tempfile.NamedTemporaryFile() as file:
        for number in range(MOST_LINES):
            file.write(_line(number))
        file.flush()
        began = time.process_time()
        verdict = validate(Path(file.name), _CHAT, 100 << 20)
        assert verdict.total == MOST_LINES
        assert not verdict.errors
        size = os.path.getsize(file.name) / 1e6
        print(f"look at {MOST_LINES:,} lines, {size:.0f} MB: {time.process_time() - began:.2f} s of CPU")


async def running() -> None:
    """What a line costs the batcher, and the gateway."""
    async with _gateway(None) as (_, session, url, pid):
        await _call(session, "GET", f"{url}/files")
        batcher = _batcher(pid)
        before = _cpu_s(batcher), _cpu_s(pid)
        began = time.monotonic()
        batch_id = await _begin(session, url, _LINES)
        batch = await _call(session, "GET", f"{url}/batches/{batch_id}")
        while batch["status"] != "completed":
            await asyncio.sleep(0.5)
            batch = await _call(session, "GET", f"{url}/batches/{batch_id}")
        seconds = time.monotonic() - began
        cost = [
            (after - start) / _LINES * 1e6 for after, start in zip((_cpu_s(batcher), _cpu_s(pid)), before, strict=True)
        ]
        assert batch["request_counts"]["completed"] == _LINES
        print(
            f"{_LINES:,} lines in {seconds:.1f} s: "
            f"{cost[0]:.0f} us of CPU each in the batcher, {cost[1]:.0f} in the gateway"
        )


async def uploading() -> None:
    """What 200 MB cost in memory."""
    async with _gateway(None) as (_, session, url, pid):
        await _call(session, "GET", f"{url}/files")
        batcher = _batcher(pid)
        before = _memory_mib(batcher), _memory_mib(pid)
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(_UPLOAD_BYTES - 4096)
            form = FormData()
            form.add_field("purpose", "batch")
            form.add_field("file", open(file.name, "rb"), filename="in.jsonl")  # noqa: SIM115, ASYNC230 - the client closes it
            began = time.monotonic()
            found = await _call(session, "POST", f"{url}/files", data=form)
        assert found["bytes"] == _UPLOAD_BYTES - 4096
        seconds = time.monotonic() - began
        most = _memory_mib(batcher, "VmHWM"), _memory_mib(pid, "VmHWM")
        grown = [after - start for after, start in zip(most, before, strict=True)]
        print(
            f"upload of 200 MB in {seconds:.1f} s: {grown[0]:.0f} MiB more in the batcher, {grown[1]:.0f} in the other"
        )


async def _stream(session: ClientSession, url: str, found: list[float]) -> None:
    body = {"model": f"vllm/{_MODEL}", "stream": True, "messages": []}
    began = time.monotonic()
    async with session.post(url + "/chat/completions", data=json.dumps(body, separators=(",", ":"))) as response:
        await response.content.readany()
        found.append(time.monotonic() - began)
        await response.read()


async def _streams(session: ClientSession, url: str) -> list[float]:
    """The times to the first byte of streams that come at random."""
    found: list[float] = []
    asked = []
    until = time.monotonic() + _MEASURED_S
    while time.monotonic() < until:
        asked.append(asyncio.create_task(_stream(session, url, found)))
        await asyncio.sleep(random.expovariate(_STREAMS_PER_S))
    await asyncio.gather(*asked)
    return sorted(found)


async def beside() -> None:
    """What others wait for their first byte, without a batch and beside one."""
    async with _gateway(_SLOTS) as (server, session, url, _):
        await _call(session, "GET", f"{url}/files")
        alone = await _streams(session, url)
        batch_id = await _begin(session, url, MOST_LINES // 5)
        while not server.lines:  # noqa: ASYNC110 - what is waited for is in another process
            await asyncio.sleep(0.1)
        lines = server.lines
        with_batch = await _streams(session, url)
        rate = (server.lines - lines) / _MEASURED_S
        await _call(session, "POST", f"{url}/batches/{batch_id}/cancel")
        for name, times in (("alone", alone), ("beside a batch", with_batch)):
            p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
            print(f"first byte of {len(times)} streams {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        most = (_SLOTS / _GENERATION_S) - len(with_batch) / _MEASURED_S
        print(f"the batch got {rate:.1f} lines a second of the {most:.1f} that were free")


if __name__ == "__main__":
    looking()
    for each in (running, uploading, beside):
        asyncio.run(each())
