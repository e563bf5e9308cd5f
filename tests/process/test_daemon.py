"""A single process from its first line to its exit status: start-up, signals, drain."""

import asyncio
import contextlib
import json
import os
import pty
import re
import resource
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gomodel.version import build

from ..harness.gateways import AT_ONCE, LOOPS, chat, status, streaming
from ..harness.processes import LIMIT_S, RUN, Run, children, pause
from ..harness.scripted import (
    SAFETY_S,
    RawClient,
    ReadHead,
    ScriptedUpstream,
    Stall,
    env_for,
    request,
    response,
)


async def accepted(port: int) -> bool:
    try:
        (await RawClient.connect(port)).wire.close()
    except ConnectionError:
        return False
    return True


async def test_the_log_says_at_start_what_is_served_and_shows_no_key(run: Run) -> None:
    keys = {"GOMODEL_MASTER_KEY": "secret-1", "VLLM_TEST_API_KEY": "secret-2", "VLLM_API_KEY": "secret-3"}
    process = await run({**keys, "VLLM_TEST_BASE_URL": "http://127.0.0.1:1/root", "BODY_SIZE_LIMIT": "10M"})
    port = await process.listening()
    await process.says("is used as given")
    entries = [json.loads(line) for line in process.lines]
    assert [entry["level"] for entry in entries[:4]] == ["info"] * 4
    messages = process.messages
    assert messages[0].startswith(f"gomodel {build()} started: Python ")
    assert messages[1] == f"Listening on http://127.0.0.1:{port}"
    assert messages[2] == "Instance vllm: http://localhost:8000/v1, key: yes"
    assert messages[3] == "Instance vllm-test: http://127.0.0.1:1/root, key: yes"
    assert messages[4].startswith("Limits: body 10M, connect 5s, response head 600s, ")
    assert "VLLM_TEST_BASE_URL does not end in /v1; it is used as given" in messages
    assert await process.stop() == 0
    assert "secret" not in process.text


async def test_on_a_terminal_the_log_is_text(run: Run) -> None:
    ours, theirs = pty.openpty()
    process = await run(stderr=theirs)
    os.close(theirs)
    os.set_blocking(ours, False)
    text = ""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(ours, readable.set)
    async with asyncio.timeout(LIMIT_S):
        while "Limits: " not in text:
            await readable.wait()
            readable.clear()
            with contextlib.suppress(BlockingIOError):
                text += os.read(ours, 1 << 16).decode()
    loop.remove_reader(ours)
    assert await process.stop() == 0
    os.close(ours)
    assert re.search(r"^\S+Z INFO    Listening on http://127\.0\.0\.1:\d+\r$", text, re.MULTILINE)


async def test_a_missing_c_parser_is_a_warning(run: Run) -> None:
    process = await run({"AIOHTTP_NO_EXTENSIONS": "1"})
    assert '"level": "warning"' in await process.says("aiohttp's C parser is missing")
    assert await process.stop() == 0


async def test_an_address_that_is_taken_is_one_line_and_status_1(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await run({"PORT": str(port)})
        assert await process.ended() == 1
    assert process.messages == [f"Cannot listen on 127.0.0.1 port {port}: another process listens there"]
    (tmp_path / "data").touch()
    process = await run({"GOMODEL_UNIX_SOCKET": str(tmp_path / "data")})
    assert await process.ended() == 1
    assert len(process.lines) == 1


async def test_a_certificate_that_is_none_is_a_problem_of_the_configuration(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    process = await run({"TLS_CERT_FILE": "empty", "TLS_KEY_FILE": "empty"})
    assert await process.ended() == 64
    assert process.lines[1:] == ["  TLS_CERT_FILE, TLS_KEY_FILE: one of the files holds no valid PEM"]


@LOOPS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_idle_process_with_status_0(
    run: Run, connect: Any, number: int, code: str | None
) -> None:
    process = await run(code=code)
    await process.listening()
    client = await connect(process)
    assert await status(client) == 200
    process.signal(number)
    assert await process.ended() == 0
    assert await client.closed == "fin"
    assert "Drained: every request ended by itself" in process.messages


@LOOPS
async def test_two_signals_at_once_end_a_process_with_nothing_to_abort_with_status_0(
    run: Run, code: str | None
) -> None:
    process = await run(code=code)
    await process.listening()
    process.signal(signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    assert await process.ended() == 0


@pytest.mark.parametrize("line", ["gomodel.config.load", "asyncio.events", "aiohttp.web", "gomodel.process.start"])
async def test_a_signal_before_anything_is_listened_on_ends_the_process_with_status_0(run: Run, line: str) -> None:
    process = await run(python=["-X", "importtime"])
    await process.says(f" {line}")
    process.signal(signal.SIGTERM, signal.SIGTERM)
    assert await process.ended() == 0


@LOOPS
async def test_a_drain_refuses_new_clients_and_lets_a_stream_end_whole(
    run: Run, connect: Any, upstream: ScriptedUpstream, code: str | None
) -> None:
    process = await run(env_for(vllm=upstream), code=code)
    port = await process.listening()
    client = await streaming(connect, process, upstream)
    process.signal(signal.SIGTERM)
    await process.says("Draining: 1 request is running")
    async with asyncio.timeout(SAFETY_S):
        while await accepted(port):  # the log line comes first, by a moment
            pass
    upstream.release()
    answer = await client.read_rest()
    assert (answer.body, answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)
    assert await process.ended() == 0


async def test_uploads_and_requests_that_wait_for_a_head_count_as_running(
    run: Run, connect: Any, upstream: ScriptedUpstream
) -> None:
    process = await run(env_for(vllm=upstream))
    upstream.on_request(Stall(), response(b"late"))
    upstream.on_request(ReadHead(), Stall(), response(b"later"))
    await process.listening()
    waiting, uploading = await connect(process), await connect(process)
    await waiting.send(chat())
    await upstream.wait_for_request(1)
    upload = request("POST", "/p/vllm/tokenize", [], b"0123456789")
    await uploading.send(upload[:-5])
    await upstream.wait_for_request(2)
    process.signal(signal.SIGTERM)
    await process.says("Draining: 2 requests are running")
    await uploading.send(upload[-5:])
    upstream.release()
    assert (await waiting.read_response("POST")).body == b"late"
    assert (await uploading.read_response("POST")).body == b"later"
    assert await process.ended() == 0


async def test_the_drain_limit_aborts_without_a_clean_end_and_the_log_says_how_many(
    run: Run, connect: Any, upstream: ScriptedUpstream
) -> None:
    process = await run({**env_for(vllm=upstream), "GOMODEL_DRAIN_TIMEOUT": "50ms"})
    clients = [await streaming(connect, process, upstream) for _ in range(3)]
    process.signal(signal.SIGTERM)
    assert await process.ended() == 0
    for client in clients:
        answer = await client.read_rest()
        assert (answer.body[:16], answer.complete) == (b"data: 1\n\ndata: {", False)
    assert "Aborted 3 requests at the drain limit" in process.messages


@LOOPS
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_aborts_what_runs_and_the_status_names_it(
    run: Run, connect: Any, upstream: ScriptedUpstream, number: int, code: str | None
) -> None:
    process = await run(env_for(vllm=upstream), code=AT_ONCE + (code or RUN))
    client = await streaming(connect, process, upstream)
    process.signal(signal.SIGTERM)
    await process.says("Draining: 1 request is running")
    process.signal(number)
    assert await process.ended() == 128 + number
    assert not (await client.read_rest()).complete
    assert f"{signal.Signals(number).name}, a second signal: ending now" in process.messages
    assert "Aborted 1 request on order" in process.messages


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_signal_that_is_delivered_twice_cuts_no_stream(
    run: Run, connect: Any, upstream: ScriptedUpstream, workers: str
) -> None:
    environ = {**env_for(vllm=upstream), "GOMODEL_WORKERS": workers, "LOG_LEVEL": "debug"}
    process = await run(environ, code="import gomodel.host.signals as s; s.DUPLICATE_S = 3600.0; " + RUN)
    client = await streaming(connect, process, upstream)
    process.signal(signal.SIGTERM)
    await process.says("Draining: 1 request is running")
    process.signal(signal.SIGTERM)
    await process.says("SIGTERM, delivered twice")
    upstream.release()
    assert (await client.read_rest()).complete
    assert await process.ended() == 0


async def test_sigusr1_logs_how_busy_the_process_is(run: Run, connect: Any, upstream: ScriptedUpstream) -> None:
    process = await run(env_for(vllm=upstream, vllm_test="http://127.0.0.1:1/v1"))
    client = await streaming(connect, process, upstream)
    process.signal(signal.SIGUSR1)
    await process.says("Running: 1 request on 1 connection; in flight: vllm 1, vllm-test 0")
    upstream.release()
    await client.read_rest()
    assert await process.stop() == 0


async def test_a_unix_socket_is_served_and_gone_after_the_end(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "g.sock"
    process = await run({**env_for(vllm=upstream), "GOMODEL_UNIX_SOCKET": str(path), "PORT": ""})
    assert await process.listening() == 0
    client = await connect(path=str(path))
    assert await status(client) == 200
    second = await run({**env_for(vllm=upstream), "GOMODEL_UNIX_SOCKET": str(path), "PORT": ""})
    assert await second.ended() == 1
    assert second.messages == [f"Cannot listen on the unix socket {path}: another process listens there"]
    assert await process.stop() == 0
    assert not path.exists()


UNSHARE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


def may_unshare() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="no pid namespaces here")
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_as_pid_1_a_signal_ends_it_and_no_zombie_stays(
    run: Run, upstream: ScriptedUpstream, workers: str
) -> None:
    environ = {**env_for(vllm=upstream), "GOMODEL_WORKERS": workers}
    process = await run(environ, wrapper=UNSHARE)
    await process.listening()
    (first,) = children(process.pid)
    # A process of the namespace whose parent ends: it falls to PID 1.
    script = "(sleep 0.01; echo orphan ends) & exit 0"
    enter = await asyncio.create_subprocess_exec(
        "nsenter", "--target", str(first), "--pid", "sh", "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert b"orphan ends" in (await enter.communicate())[0]
    async with asyncio.timeout(SAFETY_S):
        while "Z" in [state_of(pid) for pid in children(first)]:
            await pause()
    os.kill(first, signal.SIGTERM)
    assert await process.ended() == 0


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):  # reaped before the open, or between it and the read
        return ""


async def test_it_serves_on_when_it_is_out_of_descriptors(run: Run, connect: Any, upstream: ScriptedUpstream) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))

    process = await run(env_for(vllm=upstream), preexec_fn=few)
    await process.listening()
    first = await connect(process)
    assert await status(first) == 200
    crowd = [await RawClient.connect(await process.listening()) for _ in range(60)]
    assert await status(first) == 200
    for each in crowd:
        each.wire.close()
    async with asyncio.timeout(SAFETY_S):
        found = 0
        while found != 200:
            await process.listening()
            client = await connect(process)
            with contextlib.suppress(Exception):
                found = await status(client)
            client.wire.close()
    assert await process.stop() == 0
