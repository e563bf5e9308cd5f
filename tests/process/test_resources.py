"""What many clients cost a gateway of its own process, and that none of them can take what others' requests need."""

import asyncio
import contextlib
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from gomodel.host.descriptors import most_clients

from ..conftest import LOOP
from ..harness.descriptors import limited_to
from ..harness.processes import RUN, WITHOUT_UVLOOP, Process
from ..harness.scripted import (
    LAST_CHUNK,
    SAFETY_S,
    SSE_HEAD,
    PeerGone,
    RawClient,
    Truncated,
    WaitFor,
    chunked,
    request,
    sse_event,
)
from ..harness.verdicts import OK, post

IDLE = 2000
IDLE_KIB = 12
STORM = 500
FEW = 64
PROBES = 2  # connections of the gateway's own, which come and go
HEALTH = request("GET", "/health")
START = RUN if LOOP == "uvloop" else WITHOUT_UVLOOP + RUN


def resident_kib(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


def sent_again(sock: socket.socket) -> int:
    """How often the kernel sent anything of this connection once more, its SYN included (tcpi_total_retrans)."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[100:104], sys.byteorder)


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


async def until(found, limit_s: float = SAFETY_S) -> None:
    """Another process has no event to wait for."""
    deadline = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_an_idle_connection_costs_little_memory(upstream, run, sockets):
    if most_clients(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20, 1) < IDLE + 200:
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
    if most_clients(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20, 1) < STORM + 1:
        pytest.skip("too few descriptors allowed")
    process: Process = await run({"VLLM_BASE_URL": upstream.base_url}, code=START)
    port = await process.listening()
    served(opened(sockets, port, 1))
    fds = descriptors(process.pid)
    # Stopped, it cannot take any of them: what is measured is how many may queue.
    process.signal(signal.SIGSTOP)
    poll, clients = select.poll(), []
    for _ in range(STORM):
        client = sockets.enter_context(socket.socket())
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", port))
        poll.register(client, select.POLLOUT)
        clients.append(client)
    waiting = STORM
    while waiting:
        ready = poll.poll(SAFETY_S * 1000)
        assert ready, f"{waiting} of {STORM} wait for ever"
        for fd, _ in ready:
            poll.unregister(fd)
        waiting -= len(ready)
    process.signal(signal.SIGCONT)
    assert [client for client in clients if sent_again(client)] == []
    for client in clients:
        client.settimeout(10)
    served(clients)
    sockets.close()
    await until(lambda: descriptors(process.pid) <= fds - 1 + PROBES)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_crowd_without_a_key_takes_no_descriptor_that_a_request_needs(upstream, run, connect, sockets, host):
    env = {"VLLM_BASE_URL": upstream.base_url.replace("127.0.0.1", host), "RETRY_MAX_RETRIES": "0"}
    process: Process = await run(env, code=limited_to(FEW) + START)
    port = await process.listening()
    event, go_on, over = sse_event("on"), [asyncio.Event() for _ in range(10)], asyncio.Event()
    events = [step for each in go_on for step in (WaitFor(each), chunked(event))]
    upstream.on_request(SSE_HEAD, *events, WaitFor(over), LAST_CHUNK)
    inside = await connect(SimpleNamespace(port=port))
    await inside.send(post())
    await inside.read_head()
    upstream.repeat(OK)
    await until(lambda: descriptors(process.pid) < FEW)

    highest = 0
    for each in go_on:
        opened(sockets, port, 50)
        each.set()
        assert event in (await inside.read_chunk() or b"")  # a stream that runs is nobody's to close
        highest = max(highest, descriptors(process.pid))
    assert highest < FEW

    async def newcomer_is_served() -> bool:
        try:
            client = await RawClient.connect(port)
            try:
                await client.send(request("POST", "/p/vllm/version", body=b"x"))
                status = (await client.read_response()).status
            finally:
                client.wire.close()
        except (OSError, PeerGone, Truncated):
            return False
        assert status in (0, 200, 503)
        return status == 200

    async with asyncio.timeout(SAFETY_S):
        while not await newcomer_is_served():  # noqa: ASYNC110 - who is idle has to be so for a moment
            await asyncio.sleep(0.05)
    assert "files allow" in process.text
    assert len(process.lines) < 60, process.text  # not one for each of five hundred
    assert not any(word in process.text for word in ("Traceback", "dns_error", "circuit_open", "is down"))
    over.set()
    assert (await inside.read_rest()).complete
    assert await process.stop() == 0
