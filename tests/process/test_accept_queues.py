"""Clients that the kernel has accepted and no worker yet: served, whatever becomes of the worker they waited for."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from ..harness.gateways import HEALTH, LOOPS, asked, number_of_children, started, streaming
from ..harness.processes import RUN, WITHOUT_UVLOOP, Process, Run, children
from ..harness.scripted import RawClient, ScriptedUpstream, env_for
from ..harness.tls import PEM

# More than enough for the kernel to give each of two workers some.
WAITING = 24
# A worker that died is not started again while the test runs.
NEVER_AGAIN = "import gomodel.process.supervisor as s; s.LIMITS = s.Limits(backoff_s=3600.0, backoff_max_s=3600.0)\n"


class Waiting:
    """Clients that have sent a request and are not accepted by anybody."""

    def __init__(self, clients: list[RawClient]) -> None:
        self._clients = clients

    @classmethod
    async def at(cls, process: Process, path: Path | None = None) -> "Waiting":
        """They connect and ask."""
        clients = [await RawClient.connect(process.port, path=path and str(path)) for _ in range(WAITING)]
        for each in clients:
            await each.send(HEALTH)
        return cls(clients)

    async def served(self) -> bool:
        """Whether each got its answer."""
        statuses = [(await each.read_response()).status for each in self._clients]
        for each in self._clients:
            each.wire.close()
        return statuses == [200] * WAITING


@LOOPS
@pytest.mark.parametrize("way", ["port", "unix"])
async def test_clients_outlive_all_workers_at_once(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, code: str | None, way: str
) -> None:
    path = tmp_path / "g.sock" if way == "unix" else None
    where = {} if path is None else {"PORT": "", "GOMODEL_UNIX_SOCKET": str(path)}
    process = await started(run, 2, {**env_for(vllm=upstream), **where}, code=code)
    workers = children(process.pid)
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    waiting = await Waiting.at(process, path)
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    assert await waiting.served()
    assert await process.stop() == 0


@LOOPS
async def test_clients_outlive_a_worker_told_alone_to_end(
    run: Run, connect: Any, upstream: ScriptedUpstream, code: str | None
) -> None:
    process = await started(run, 2, env_for(vllm=upstream), code=code)
    streams = [await streaming(connect, process, upstream) for _ in range(4)]
    first, second = children(process.pid)
    for pid in (first, second):
        os.kill(pid, signal.SIGSTOP)
    waiting = await Waiting.at(process)
    os.kill(first, signal.SIGTERM)
    for pid in (first, second):
        os.kill(pid, signal.SIGCONT)
    assert await waiting.served()
    await process.says("Draining: ")
    # And as long as its streams take to end, the other reads for it.
    assert {(await asked(process)).status for _ in range(WAITING)} == {200}
    # Both are told now: the second goes on until somebody takes its place.
    os.kill(second, signal.SIGTERM)
    assert {(await asked(process)).status for _ in range(WAITING)} == {200}
    upstream.release()
    assert [(await client.read_rest()).complete for client in streams] == [True] * 4
    for pid in (first, second):
        await process.says(f"-{pid} ended; another takes its place")
    await number_of_children(process, 2)
    assert {(await asked(process)).status for _ in range(WAITING)} == {200}
    assert await process.stop() == 0


@pytest.mark.parametrize("without", ["", WITHOUT_UVLOOP], ids=["uvloop", "asyncio"])
async def test_another_worker_serves_the_clients_of_one_that_waits_to_be_started_again(
    run: Run, upstream: ScriptedUpstream, without: str
) -> None:
    process = await started(run, 2, env_for(vllm=upstream), code=without + NEVER_AGAIN + RUN)
    first, second = children(process.pid)
    os.kill(first, signal.SIGKILL)
    await process.says(f"Worker 1-{first} ended with SIGKILL")
    assert {(await asked(process)).status for _ in range(WAITING)} == {200}
    os.kill(second, signal.SIGSTOP)
    waiting = await Waiting.at(process)
    process.signal(signal.SIGTERM)
    await process.says("SIGTERM: ending")
    os.kill(second, signal.SIGCONT)
    assert await waiting.served()
    assert await process.ended() == 0


async def test_clients_of_a_tls_port_outlive_a_worker(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(
        run, 2, {**env_for(vllm=upstream), "TLS_CERT_FILE": PEM, "TLS_KEY_FILE": PEM}, code=NEVER_AGAIN + RUN
    )
    first, _ = children(process.pid)
    os.kill(first, signal.SIGKILL)
    await process.says(f"Worker 1-{first} ended with SIGKILL")
    for _ in range(8):
        client = await RawClient.connect(process.port, tls=True)
        await client.send(HEALTH)
        assert (await client.read_response()).status == 200
        client.wire.close()
    assert await process.stop() == 0
