"""Requests that meet an instance closing its idle connections: none is lost, none is doubled beyond the one safe retry.

GOMODEL_SOAK=10000 sends that many in each test; a default run sends enough to hit the instant many times.
"""

import asyncio
import contextlib
import os
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn

from ..harness.scripted import GatewayHandle, request
from ..harness.verdicts import CHAT, aborted, counted

POSTS = int(os.environ.get("GOMODEL_SOAK", "600"))
CLIENTS = 50
# uvicorn's 5 s, made short; the gateway is told to keep connections for far longer, which is the mistake to survive.
IDLE_S = 0.05
LATE = {"HTTP_UPSTREAM_KEEPALIVE": "60s", "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1"}
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Seen = Counter[str]


def value(head: bytes, name: bytes) -> str:
    """The value of a field, "" without one."""
    return head.lower().partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0].decode()


class Fickle(asyncio.Protocol):
    """An instance that closes a connection once it was idle for IDLE_S, or at the very moment of its second request."""

    def __init__(self, seen: Seen, drop: str | None) -> None:
        self._seen = seen
        self._drop = drop
        self._buffer = b""
        self._served = 0
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.connection_lost(None)
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end or len(body) < int(value(head, b"content-length") or 0):
            return
        self._buffer = b""
        if head.startswith(b"POST"):
            self._seen[value(head, b"x-request-id")] += 1
            self._served += 1
        if self._drop and self._served == 2:
            getattr(self._transport, self._drop)()
            return
        self._transport.write(ANSWER)
        if not self._drop:
            self._timer = asyncio.get_running_loop().call_later(IDLE_S, self._transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@contextlib.asynccontextmanager
async def fickle(drop: str | None = None) -> AsyncIterator[tuple[str, Seen]]:
    """A base URL, and how often each request id was seen there."""
    seen: Seen = Counter()
    server = await asyncio.get_running_loop().create_server(lambda: Fickle(seen, drop), "127.0.0.1", 0, backlog=1024)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", seen
    finally:
        server.close()


class QuietServer(uvicorn.Server):
    """uvicorn without a hand on the process's signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def real_uvicorn() -> AsyncIterator[tuple[str, Seen]]:
    """The server vLLM runs on, with its keep-alive timeout made short."""
    seen: Seen = Counter()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        if scope["method"] == "POST":
            seen[dict(scope["headers"])[b"x-request-id"].decode()] += 1
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, http="httptools", loop="none")
    config.timeout_keep_alive = IDLE_S  # type: ignore[assignment]
    server = QuietServer(config)
    sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1", seen
    finally:
        server.should_exit = True
        await serving


async def bombard(handle: GatewayHandle, path: str, pause_s: tuple[float, float]) -> Counter[int]:
    """Send POSTS requests over CLIENTS connections, each pausing between two; how many ended with each status."""
    statuses: Counter[int] = Counter()
    left = iter(range(POSTS))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", handle.port)
        for number in left:
            writer.write(request("POST", path, [("X-Request-Id", f"r{number}")], body=b'{"model":"vllm/m"}'))
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(value(head, b"content-length")))
            statuses[int(head[9:12])] += 1
            await asyncio.sleep(random.uniform(*pause_s))
        writer.close()
        await writer.wait_closed()

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(client())
    return statuses


AROUND = (IDLE_S - 0.004, IDLE_S + 0.004)


@pytest.mark.parametrize("instance", [fickle, real_uvicorn])
@pytest.mark.parametrize("keepalive", ["60s", "45ms"])
async def test_requests_around_the_instant_of_an_idle_close_are_all_answered_once(gateway, instance, keepalive):
    async with instance() as (url, seen):
        handle = await gateway(LATE, vllm=url, HTTP_UPSTREAM_KEEPALIVE=keepalive)
        assert await bombard(handle, CHAT, AROUND) == {200: POSTS}
        # What reached a connection that was being closed was never read there, so not one was doubled.
        assert seen == {f"r{number}": 1 for number in range(POSTS)}
        assert await aborted(handle, POSTS) == {}
        assert await counted(handle, POSTS) == {200: POSTS}
        await handle.gateway.close()


@pytest.mark.parametrize("drop", ["close", "abort"])
async def test_requests_that_are_dropped_at_the_very_moment_they_arrive_are_made_good_once(gateway, drop):
    async with fickle(drop) as (url, seen):
        handle = await gateway(LATE, vllm=url)
        assert await bombard(handle, CHAT, (0, 0.002)) == {200: POSTS}
        assert set(seen.values()) <= {1, 2}
        assert len(seen) == POSTS
        doubled = sum(seen.values()) - POSTS
        assert doubled == handle.gateway.telemetry.retries["vllm"] > POSTS / 10
        assert await aborted(handle, POSTS) == {}
        await handle.gateway.close()


@pytest.mark.parametrize("drop", [None, "abort"])
async def test_what_may_not_be_repeated_is_out_of_reach_of_the_race(gateway, drop):
    async with fickle(drop) as (url, seen):
        handle = await gateway(LATE, vllm=url)
        assert await bombard(handle, "/p/vllm/anything", (0, 0.002) if drop else AROUND) == {200: POSTS}
        assert seen == {f"r{number}": 1 for number in range(POSTS)}
        assert handle.gateway.telemetry.retries == {}
        await handle.gateway.close()
