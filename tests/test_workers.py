"""Several processes on one port: who is started again, what signals mean, and that they answer as one."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from .processes import RUN, WITHOUT_UVLOOP, Process, Run, children
from .scripted import (
    LAST_CHUNK,
    SAFETY_S,
    SSE_HEAD,
    RawClient,
    ScriptedUpstream,
    Stall,
    chunked,
    env_for,
    let_peers_run,
    request,
    response,
)

HEALTH = request("GET", "/health", [("Connection", "close")])
PRIVATE = re.compile(r"gomodel-\w+")


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
    client: RawClient = await connect(process)
    await client.send(request("POST", "/v1/chat/completions", [("X-Request-Id", request_id)], b'{"model": "m"}'))
    await client.read_head("POST")
    await client.read_chunk()
    return client


async def number_of_children(process: Process, number: int) -> list[int]:
    async with asyncio.timeout(SAFETY_S):
        while len(found := children(process.pid)) != number:
            await let_peers_run()
    return found


async def asked_by_all(process: Process) -> None:
    """Ask often enough that every worker answers some, and see that one scrape knows of all."""
    for _ in range(30):
        await asked(process)
    scrape = (await asked(process, request("GET", "/metrics", [("Connection", "close")]))).body.decode()
    (count,) = re.findall(r'^gomodel_requests_total\{[^}]*route="/health"[^}]*\} (\S+)$', scrape, re.MULTILINE)
    assert float(count) == 30


def private_directories(temporary: Path) -> list[str]:
    return [name for name in os.listdir(temporary) if PRIVATE.fullmatch(name)]


@pytest.mark.parametrize("code", [None, WITHOUT_UVLOOP + RUN], ids=["uvloop", "asyncio"])
async def test_workers_share_a_port_end_with_status_0_and_leave_nothing(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, code: str | None
) -> None:
    process = await started(run, 3, {**env_for(vllm=upstream), "TMPDIR": str(tmp_path)}, code=code)
    assert len(children(process.pid)) == 3
    (directory,) = private_directories(tmp_path)
    assert (tmp_path / directory).stat().st_mode & 0o777 == 0o700
    assert {(await asked(process)).status for _ in range(20)} == {200}
    assert await process.stop() == 0
    assert private_directories(tmp_path) == []
    assert [message.endswith("3 workers") for message in process.messages if "started" in message] == [True]
    assert len([message for message in process.messages if "Listening" in message]) == 1


async def test_a_fixed_port_and_a_unix_socket_are_served_by_all_workers(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    path = tmp_path / "g.sock"
    environ = {**env_for(vllm=upstream), "PORT": str(port), "GOMODEL_UNIX_SOCKET": str(path)}
    process = await started(run, 2, environ)
    assert process.port == port
    assert (await asked(process)).status == 200
    client = await connect(path=str(path))
    await client.send(HEALTH)
    assert (await client.read_response()).status == 200
    (tmp_path / "bystander").touch()
    second = await run({**environ, "GOMODEL_UNIX_SOCKET": "", "GOMODEL_WORKERS": "2"})
    assert await second.ended() == 1
    assert (tmp_path / "bystander").exists()
    assert second.messages == [f"Cannot listen on 127.0.0.1 port {port}: another process listens there"]
    assert await process.stop() == 0
    assert not path.exists()


async def test_a_worker_that_dies_is_replaced_while_the_others_serve(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 2, env_for(vllm=upstream))
    killed, survivor = children(process.pid)
    os.kill(killed, signal.SIGKILL)
    await process.says(f"Worker 1-{killed} ended with SIGKILL")
    await process.says("Worker 1 starts again in 0.1s")
    assert (await asked(process)).status == 200
    fresh = await number_of_children(process, 2)
    assert survivor in fresh
    assert killed not in fresh
    assert await process.stop() == 0


async def test_a_worker_told_alone_to_end_drains_and_another_takes_its_place(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "g.sock"
    process = await started(run, 2, {**env_for(vllm=upstream), "GOMODEL_UNIX_SOCKET": str(path)})
    before = children(process.pid)
    clients = [await streaming(connect, process, upstream) for _ in range(4)]
    os.kill(before[0], signal.SIGTERM)
    await process.says("Draining: ")
    upstream.release()
    assert [(await client.read_rest()).complete for client in clients] == [True] * 4
    await process.says(f"Worker 1-{before[0]} ended; another takes its place")
    assert await number_of_children(process, 2) != before
    assert path.exists()  # shared by all of them
    assert await process.stop() == 0


async def test_the_lines_of_a_worker_name_it_also_after_a_reload(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 2, env_for(vllm=upstream))
    process.signal(signal.SIGHUP)
    await process.says("The configuration was read again")
    workers = {f"{index}-{pid}" for index, pid in enumerate(children(process.pid), 1)}
    assert await process.stop() == 0
    entries = [json.loads(line) for line in process.lines]
    for part in ("Draining: ", "Drained: "):
        assert {entry.get("worker") for entry in entries if part in entry["message"]} == workers
    assert {entry.get("worker") for entry in entries if "SIGTERM: ending" in entry["message"]} == {None}


@pytest.mark.parametrize("what", ["w.serve", "w.os.fork"])
async def test_workers_that_never_start_are_given_up_on(run: Run, tmp_path: Path, what: str) -> None:
    failing = (
        f"import gomodel.workers as w\ndef fail(*_): raise OSError(11, 'no luck')\n{what} = fail; w.BACKOFF_S = 0.01\n"
    )
    process = await run({"GOMODEL_WORKERS": "2", "TMPDIR": str(tmp_path)}, code=failing + RUN)
    assert await process.ended() == 1
    assert re.search(r"Worker [12] does not start; giving up", process.text)
    assert "no luck" in process.text
    assert private_directories(tmp_path) == []


IMPATIENT = "import gomodel.workers as w; w.BACKOFF_S = 0.01\n" + RUN


async def test_workers_that_all_keep_dying_after_a_good_start_are_given_up_on(run: Run, tmp_path: Path) -> None:
    process = await started(run, 2, {"TMPDIR": str(tmp_path)}, code=IMPATIENT)
    ended = asyncio.create_task(process.ended())
    while not ended.done():
        for pid in children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await let_peers_run()
    assert await ended == 1
    assert re.search(r"Worker [12] does not stay up; giving up", process.text)
    assert private_directories(tmp_path) == []


async def test_a_worker_that_keeps_dying_does_not_end_those_that_serve(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 2, env_for(vllm=upstream), code=IMPATIENT)
    dying, survivor = children(process.pid)
    for _ in range(7):
        os.kill(dying, signal.SIGKILL)
        await process.says(f"Worker 1-{dying} ended with SIGKILL")
        (dying,) = set(await number_of_children(process, 2)) - {survivor}
    assert (await asked(process)).status == 200
    assert await process.stop() == 0


async def test_workers_whose_directory_was_removed_are_replaced_and_answer_as_one(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    process = await started(run, 2, {**env_for(vllm=upstream), "TMPDIR": str(tmp_path)})
    (directory,) = private_directories(tmp_path)
    await asyncio.to_thread(shutil.rmtree, tmp_path / directory)
    killed, _ = children(process.pid)
    os.kill(killed, signal.SIGKILL)
    await process.says("The directory of the workers' sockets was removed; they move to another")
    fresh = await number_of_children(process, 2)
    (directory,) = private_directories(tmp_path)
    wanted = sorted(f"{number}-{pid}.sock" for number, pid in zip((2, 1), fresh, strict=True))
    async with asyncio.timeout(SAFETY_S):
        while sorted(os.listdir(tmp_path / directory)) != wanted:
            await let_peers_run()
    await asked_by_all(process)
    assert await process.stop() == 0
    assert private_directories(tmp_path) == []
    assert "Traceback" not in process.text


async def test_a_worker_that_finds_no_place_for_its_socket_says_so_in_a_line(run: Run, tmp_path: Path) -> None:
    lost = "import gomodel.workers as w, pathlib; w._directory = lambda: pathlib.Path('/nowhere'); w.BACKOFF_S = 0.01\n"
    process = await run({"GOMODEL_WORKERS": "2"}, code=lost + RUN)
    assert await process.ended() == 1
    assert re.search(r"Worker 1-\d+ cannot be asked by the others, in /nowhere: No such file or dir", process.text)
    assert "Traceback" not in process.text


async def test_a_changed_log_format_reaches_supervisor_and_workers_started_later(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("LOG_FORMAT=json\n")
    process = await started(run, 2, env_for(vllm=upstream))
    await process.says("Instance vllm is up", 2)
    (tmp_path / ".env").write_text("LOG_FORMAT=text\n")
    process.signal(signal.SIGHUP)
    await process.says("The configuration was read again")
    killed, _ = children(process.pid)
    os.kill(killed, signal.SIGKILL)
    said = [await process.says(f"Worker 1-{killed} ended with SIGKILL"), await process.says("Worker 1 starts again")]
    said.append(await process.says("Instance vllm is up", 3))
    assert [line for line in said if line.startswith("{")] == []
    assert await process.stop() == 0


async def test_a_signal_to_the_whole_group_counts_once(run: Run, connect: Any, upstream: ScriptedUpstream) -> None:
    process = await started(run, 2, env_for(vllm=upstream))
    clients = [await streaming(connect, process, upstream) for _ in range(4)]
    # What systemd does to all processes of a service, and a terminal to those in the foreground.
    for pid in [*children(process.pid), process.pid]:
        os.kill(pid, signal.SIGINT)
    for number in (1, 2):
        await process.says("Draining: ", number)
    upstream.release()
    assert [(await client.read_rest()).complete for client in clients] == [True] * 4
    assert await process.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_aborts_the_requests_of_all_workers(
    run: Run, connect: Any, upstream: ScriptedUpstream, number: int
) -> None:
    at_once = "import gomodel.signals as s; s.DUPLICATE_S = 0.0; "
    process = await started(run, 2, env_for(vllm=upstream), code=at_once + RUN)
    clients = [await streaming(connect, process, upstream) for _ in range(4)]
    process.signal(signal.SIGTERM)
    await process.says("Draining: ", 2)
    process.signal(number)
    assert await process.ended() == 128 + number
    assert [(await client.read_rest()).complete for client in clients] == [False] * 4


async def test_signals_at_once_with_nothing_to_abort_are_status_0(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 2, env_for(vllm=upstream))
    process.signal(signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
    assert await process.ended() == 0


async def test_a_worker_that_does_not_end_is_killed(run: Run, connect: Any, upstream: ScriptedUpstream) -> None:
    code = "import gomodel.workers as w; w.MARGIN_S = 0.2\n" + RUN
    process = await started(run, 2, {**env_for(vllm=upstream), "GOMODEL_DRAIN_TIMEOUT": "0"}, code=code)
    stuck = children(process.pid)[0]
    os.kill(stuck, signal.SIGSTOP)
    process.signal(signal.SIGTERM)
    assert await process.ended() == 1
    assert f"Worker 1-{stuck} does not end and is killed" in process.messages


async def test_workers_whose_supervisor_was_killed_end_their_streams_and_free_the_port(
    run: Run, connect: Any, upstream: ScriptedUpstream
) -> None:
    process = await started(run, 2, env_for(vllm=upstream))
    client = await streaming(connect, process, upstream)
    process.signal(signal.SIGKILL)
    await process.says("The supervisor is gone; ending", 2)
    upstream.release()
    assert (await client.read_rest()).complete
    # Their end of the pipe is the last one.
    assert await process.ended() == -signal.SIGKILL
    with socket.create_server(("127.0.0.1", process.port)):
        pass


async def test_sighup_reaches_every_worker_and_those_started_later(
    run: Run, make_upstream: Any, tmp_path: Path
) -> None:
    old, new = await make_upstream(), await make_upstream()
    old.repeat(response(b"old"))
    new.repeat(response(b"new"))
    env = tmp_path / ".env"
    env.write_text(f"VLLM_BASE_URL={old.base_url}\n")
    process = await started(run, 2, {})
    chat = request("POST", "/v1/chat/completions", [("Connection", "close")], b'{"model": "m"}')
    assert {(await asked(process, chat)).body for _ in range(10)} == {b"old"}
    env.write_text("PORT=x\nVLLM_BASE_URL=" + new.base_url + "\nBODY_SIZE_LIMIT=much\n")
    process.signal(signal.SIGHUP)
    await process.says("The new configuration is not used, the old one stays: BODY_SIZE_LIMIT")
    assert {(await asked(process, chat)).body for _ in range(10)} == {b"old"}
    env.write_text(f"VLLM_BASE_URL={new.base_url}\n")
    process.signal(signal.SIGHUP)
    await process.says(f"Instance vllm: {new.base_url}")
    async with asyncio.timeout(SAFETY_S):
        while {(await asked(process, chat)).body for _ in range(10)} != {b"new"}:
            pass
    before = children(process.pid)
    os.kill(before[0], signal.SIGKILL)
    await process.says("starts again")
    await number_of_children(process, 2)
    assert {(await asked(process, chat)).body for _ in range(10)} == {b"new"}
    assert await process.stop() == 0
    assert process.text.count("The configuration was read again") == 1


async def test_one_scrape_counts_the_requests_of_all_workers(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 3, env_for(vllm=upstream))
    await asked_by_all(process)
    assert await process.stop() == 0


async def test_a_request_is_found_and_aborted_through_any_worker(
    run: Run, connect: Any, upstream: ScriptedUpstream
) -> None:
    process = await started(run, 2, env_for(vllm=upstream))
    clients = {f"id-{number}": await streaming(connect, process, upstream, f"id-{number}") for number in range(6)}
    listed = (await asked(process, request("GET", "/admin/requests", [("Connection", "close")]))).json()
    assert {each["id"] for each in listed["requests"]} == set(clients)
    for request_id, client in clients.items():
        message = request("DELETE", f"/admin/requests/{request_id}", [("Connection", "close")])
        assert (await asked(process, message)).status == 200
        assert not (await client.read_rest()).complete
    assert await process.stop() == 0
