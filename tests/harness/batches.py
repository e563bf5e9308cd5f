"""A server to run batches on, a client that makes them, and a gateway that has them."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import ClientSession, FormData, web

from .processes import Process, Run, children

CHAT = "/v1/chat/completions"
MODEL = "org/model"
ENDS = {"completed", "failed", "cancelled", "expired"}


class Vllm:
    """A server that answers at once, and remembers the very bytes of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, Any]] = []
        self.answer: Callable[[bytes], Awaitable[web.StreamResponse]] | None = None
        self.events, self.event_s = 0, 0.0  # of an answer that is a stream
        self.url = ""

    async def models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.asked.append((body, request.headers))
        if self.answer is not None:
            return await self.answer(body)
        if self.events and json.loads(body).get("stream"):
            return await self._stream(request)
        text = json.dumps(
            {"id": "x", "echo": json.loads(body)["n"], "usage": {"prompt_tokens": 2, "completion_tokens": 1}}
        )
        return web.Response(body=text.replace(", ", ",\n ").encode(), content_type="application/json")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number in range(self.events):
            await response.write(b"data: %d\n\n" % number)
            await asyncio.sleep(self.event_s)
        return response


@asynccontextmanager
async def serving() -> AsyncIterator[Vllm]:
    """A Vllm that listens."""
    found = Vllm()
    app = web.Application()
    app.add_routes([web.get("/v1/models", found.models), web.post(CHAT, found.chat), web.get("/health", found.models)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    found.url = f"http://127.0.0.1:{port}/v1"
    yield found
    await runner.cleanup()


class Caller:
    """What a client of the gateway does."""

    def __init__(self, session: ClientSession, port: int, key: str = "") -> None:
        self.session = session
        self.url = f"http://127.0.0.1:{port}/v1"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    async def status(self, method: str, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> int:
        async with self.session.request(method, self.url + path, headers={**self._headers, **headers}) as response:
            return response.status

    async def json(self, method: str, path: str, **kwargs: Any) -> Any:
        async with self.session.request(method, self.url + path, headers=self._headers, **kwargs) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def upload(self, content: bytes) -> str:
        form = FormData()
        form.add_field("purpose", "batch")
        form.add_field("file", content, filename="in.jsonl")
        return str((await self.json("POST", "/files", data=form))["id"])

    async def batch(self, content: bytes, **more: Any) -> str:
        body = {"input_file_id": await self.upload(content), "endpoint": CHAT, "completion_window": "24h", **more}
        return str((await self.json("POST", "/batches", json=body))["id"])

    async def until(self, batch_id: str, *statuses: str) -> Any:
        async with asyncio.timeout(30):
            while True:
                batch = await self.json("GET", f"/batches/{batch_id}")
                if batch["status"] in statuses:
                    return batch
                await asyncio.sleep(0.02)

    async def lines(self, file_id: str | None) -> list[Any]:
        if file_id is None:
            return []
        async with self.session.get(f"{self.url}/files/{file_id}/content", headers=self._headers) as response:
            return [json.loads(line) for line in (await response.read()).splitlines()]


def line(number: int, **body: Any) -> bytes:
    said = json.dumps({"model": f"vllm/{MODEL}", "n": number, **body}).replace(" ", "  ")
    return b'{"custom_id": "%d", "method":"POST", "url": "%b", "body": %b}\n' % (number, CHAT.encode(), said.encode())


async def started(run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path, **more: str) -> tuple[Process, Caller]:
    environ = {"VLLM_BASE_URL": vllm.url, "GOMODEL_DATA_DIR": str(tmp_path / "data"), **more}
    process = await run(environ)
    return process, Caller(session, await process.listening())


def everybody(pid: int) -> list[int]:
    """A gateway's process and all that it has started, workers and the batcher."""
    found = [pid]
    for child in children(pid):
        found += everybody(child)
    return found


def kill(*pids: int) -> None:
    """The end of these, whatever they are doing; some may be gone already."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


async def each_once(caller: Caller, batch: Any, count: int) -> None:
    """Every line stands in the output or the error file of a batch, and no line twice."""
    lines = await caller.lines(batch["output_file_id"]) + await caller.lines(batch["error_file_id"])
    assert sorted(int(each["custom_id"]) for each in lines) == list(range(count))
    assert {each["response"]["body"]["echo"] == int(each["custom_id"]) for each in lines} == {True}
