"""What many clients cost a gateway of its own process, and what happens when the process runs out of descriptors."""

import asyncio
import contextlib
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from .conftest import LOOP
from .processes import RUN, WITHOUT_UVLOOP, Process
from .scripted import request
from .verdicts import OK, own_error, post

IDLE = 2000
IDLE_KIB = 12
STORM = 500
PROBES = 2  # connections of the gateway's own, which come and go
HEALTH = request("GET", "/health")
START = RUN if LOOP == "uvloop" else WITHOUT_UVLOOP + RUN


def resident_kib(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    """Closes all of them; there may be as many as the machine allows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    with contextlib.ExitStack() as stack:
        yield stack
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def opened(stack: contextlib.ExitStack, port: int, count: int) -> list[socket.socket]:
    return [stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(count)]


def served(clients: list[socket.socket]) -> None:
    """Each gets an answer; they ask all at once."""
    for client in clients:
        client.sendall(HEALTH)
    for client in clients:
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            piece = client.recv(4096)
            assert piece, answer
            answer += piece


async def until(found, limit_s: float = 10.0) -> None:
    """Another process has no event to wait for."""
    deadline = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_an_idle_connection_costs_little_memory(upstream, run, sockets):
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < IDLE + 500:
        pytest.skip("too few descriptors allowed")
    process: Process = await run({"VLLM_BASE_URL": upstream.base_url}, code=START)
    port = await process.listening()
    served(opened(sockets, port, 200))  # what the first clients bring with them is no other client's cost
    before, fds = resident_kib(process.pid), descriptors(process.pid)
    clients = opened(sockets, port, IDLE)
    served(clients[::2])  # idle after a request, and before the first one
    await until(lambda: descriptors(process.pid) >= fds + IDLE - PROBES)
    assert (resident_kib(process.pid) - before) / IDLE <= IDLE_KIB
    served(clients[-1:])
    sockets.close()
    await until(lambda: descriptors(process.pid) <= fds - 200 + PROBES)


async def test_nobody_in_a_storm_of_connections_waits_for_a_second_syn(upstream, run, sockets):
    process: Process = await run({"VLLM_BASE_URL": upstream.base_url}, code=START)
    port = await process.listening()
    served(opened(sockets, port, 1))
    fds = descriptors(process.pid)
    # Stopped, it cannot take any of them: what is measured is how many may queue.
    process.signal(signal.SIGSTOP)
    begun = time.monotonic()
    poll, clients = select.poll(), []
    for _ in range(STORM):
        client = sockets.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        poll.register(client, select.POLLOUT)
        clients.append(client)
    waiting = STORM
    while waiting and time.monotonic() - begun < 1:
        for fd, _ in poll.poll(100):
            poll.unregister(fd)
            waiting -= 1
    process.signal(signal.SIGCONT)
    assert waiting == 0
    for client in clients:
        client.settimeout(10)
    served(clients)
    sockets.close()
    await until(lambda: descriptors(process.pid) <= fds - 1 + PROBES)


async def test_without_descriptors_those_inside_are_served_and_the_rest_as_soon_as_there_are_some(
    upstream, run, connect, sockets
):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
    env = {"VLLM_BASE_URL": upstream.base_url, "RETRY_MAX_RETRIES": "0", "HTTP_UPSTREAM_KEEPALIVE": "60s"}
    process: Process = await run(env, code=limit + START)
    port = await process.listening()
    upstream.repeat(OK)
    inside = await connect(SimpleNamespace(port=port))
    await inside.send(post())
    assert (await inside.read_response()).status == 200
    await until(lambda: "access" in process.text)
    lines = len(process.lines)

    crowd = []
    while descriptors(process.pid) < 64:
        crowd += opened(sockets, port, 10)
        await asyncio.sleep(0.05)
    crowd += opened(sockets, port, 100)
    for _ in range(20):
        await inside.send(HEALTH)
        assert (await inside.read_response()).status == 200
        await inside.send(post())
        assert (await inside.read_response()).status == 200  # on the connection there is
        await asyncio.sleep(0.05)
    await inside.send(request("POST", "/p/vllm/version", body=b"x"))
    answer = await inside.read_response()
    assert answer.get("Retry-After") == "1"
    own_error(answer, 503, "connection_limit", "overloaded_error")
    asked = 41
    assert len(process.lines) - lines <= asked + 10, process.text
    assert "Traceback" not in process.text

    sockets.close()
    outside = await connect(SimpleNamespace(port=port))
    await outside.send(post())
    assert (await outside.read_response()).status == 200
    assert await process.stop() == 0
