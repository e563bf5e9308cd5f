"""Which signals end a process in good order, that no other does it harm, and that it can start with nothing open."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gomodel.host import signals as signal_module

from ..harness.gateways import AT_ONCE, LOOPS, status, streaming
from ..harness.processes import LIMIT_S, RUN, Process, Run, children
from ..harness.scripted import ScriptedUpstream, env_for


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_first_signal_says_what_a_second_one_does(
    run: Run, connect: Any, upstream: ScriptedUpstream, workers: str
) -> None:
    process = await run({**env_for(vllm=upstream), "GOMODEL_WORKERS": workers})
    client = await streaming(connect, process, upstream)
    process.signal(signal.SIGINT)
    said = await process.says("Draining: 1 request is running and may take 600 s; a second signal (Ctrl-C) ends it now")
    assert '"level": "warning"' in said  # or nobody would know, with LOG_LEVEL=warn, what is waited for
    upstream.release()
    assert (await client.read_rest()).complete
    assert await process.ended() == 0


IGNORED = sorted(
    signal.valid_signals()
    - {*signal_module.STOPPING, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    - {signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP}
    - {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}
)


@LOOPS
async def test_no_other_signal_ends_or_stops_it(run: Run, connect: Any, upstream: ScriptedUpstream, code: str) -> None:
    process = await run(env_for(vllm=upstream), code=code)
    client = await streaming(connect, process, upstream)
    process.signal(*IGNORED, signal.SIGUSR1)
    await process.says("Running: 1 request")
    upstream.release()
    assert (await client.read_rest()).complete
    assert await process.stop() == 0


async def test_no_other_signal_ends_or_stops_workers_or_their_supervisor(
    run: Run, connect: Any, upstream: ScriptedUpstream
) -> None:
    process = await run({**env_for(vllm=upstream), "GOMODEL_WORKERS": "2"})
    client = await streaming(connect, process, upstream)
    workers = children(process.pid)
    for number in IGNORED:
        for pid in [process.pid, *workers]:
            os.kill(pid, number)
    for pid in workers:
        os.kill(pid, signal.SIGUSR2)
    process.signal(signal.SIGUSR1)
    await process.says("Running: 1 request")
    upstream.release()
    assert (await client.read_rest()).complete
    assert children(process.pid) == workers
    assert await process.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGPWR])
async def test_other_signals_to_stop_drain_as_sigterm_does(
    run: Run, connect: Any, upstream: ScriptedUpstream, number: int, workers: str
) -> None:
    process = await run({**env_for(vllm=upstream), "GOMODEL_WORKERS": workers}, code=AT_ONCE + RUN)
    client = await streaming(connect, process, upstream)
    process.signal(number)
    await process.says("Draining: 1 request is running")
    process.signal(number)
    assert await process.ended() == 128 + number
    assert not (await client.read_rest()).complete


CLOSED = [("sh", "-c", f'exec "$0" "$@" {closed}') for closed in ("<&-", "<&- >&-", "<&- >&- 2>&-", "2>&-")]


@LOOPS
@pytest.mark.parametrize("wrapper", CLOSED, ids=lambda wrapper: wrapper[2])
async def test_closed_standard_descriptors_do_no_harm(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, wrapper: tuple[str, ...], code: str | None
) -> None:
    await serves_and_ends(await run(unix(upstream, tmp_path), code=code, wrapper=wrapper), connect, tmp_path)


async def test_closed_standard_descriptors_do_no_harm_to_workers(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    environ = {**unix(upstream, tmp_path), "GOMODEL_WORKERS": "2"}
    await serves_and_ends(await run(environ, wrapper=CLOSED[2]), connect, tmp_path)


def unix(upstream: ScriptedUpstream, directory: Path) -> dict[str, str]:
    return {**env_for(vllm=upstream), "GOMODEL_UNIX_SOCKET": str(directory / "g.sock"), "PORT": ""}


async def serves_and_ends(process: Process, connect: Any, directory: Path) -> None:
    client = None
    async with asyncio.timeout(LIMIT_S):
        while client is None:  # nothing can be read of its log
            with contextlib.suppress(OSError):
                client = await connect(path=str(directory / "g.sock"))
            await asyncio.sleep(0.01)
    assert await status(client) == 200
    assert await process.stop() == 0
