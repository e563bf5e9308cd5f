"""Several processes on one port: who is started again, what signals mean, and that they answer as one."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from ..harness.gateways import HEALTH, METRICS, asked, have_listened, number_of_children, started, streaming
from ..harness.processes import PATIENT, RUN, WITHOUT_UVLOOP, Process, Run, children, pause
from ..harness.scripted import (
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
from ..harness.systemd import Manager
from ..harness.verdicts import OK

# Workers that are started again soon.
SOON = "import gomodel.process.supervisor as s\ns.LIMITS = s.Limits(backoff_s=0.01)\n"
# And taken for hung after half a second of silence.
IMPATIENT = (
    "import gomodel.process.supervisor as s\ns.LIMITS = s.Limits(backoff_s=0.01, beat_s=0.05, silent_beats=10)\n"
)


async def counted(process: Process) -> int:
    """How many requests for /health one scrape knows of."""
    scrape = (await asked(process, METRICS)).body.decode()
    found = re.findall(r'^gomodel_requests_total\{[^}]*route="/health"[^}]*\} (\S+)$', scrape, re.MULTILINE)
    return int(sum(map(float, found)))


@pytest.mark.parametrize("code", [None, WITHOUT_UVLOOP + RUN], ids=["uvloop", "asyncio"])
async def test_workers_share_a_port_end_with_status_0_and_leave_nothing(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, code: str | None
) -> None:
    process = await started(run, 3, {**env_for(vllm=upstream), "TMPDIR": str(tmp_path)}, code=code)
    assert len(children(process.pid)) == 3
    assert os.listdir(tmp_path) == []
    assert {(await asked(process)).status for _ in range(20)} == {200}
    assert await process.stop() == 0
    assert os.listdir(tmp_path) == []
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
    await process.says("Worker 1 starts again in 0.1 s")
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


@pytest.mark.parametrize("what", ["s.serve", "w.fork"])
async def test_workers_that_never_start_are_given_up_on(run: Run, tmp_path: Path, what: str) -> None:
    failing = (
        f"{SOON}import gomodel.process.workers as w\ndef fail(*_, **__): raise OSError(11, 'no luck')\n{what} = fail\n"
    )
    process = await run({"GOMODEL_WORKERS": "2", "TMPDIR": str(tmp_path)}, code=failing + RUN)
    assert await process.ended() == 1
    assert re.search(r"Worker [12] does not start; giving up", process.text)
    assert "no luck" in process.text
    assert os.listdir(tmp_path) == []


async def test_workers_that_all_keep_dying_after_a_good_start_are_given_up_on(run: Run, tmp_path: Path) -> None:
    process = await started(run, 2, {"TMPDIR": str(tmp_path)}, code=SOON + RUN)
    ended = asyncio.create_task(process.ended())
    while not ended.done():
        for pid in children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await let_peers_run()
    assert await ended == 1
    assert re.search(r"Worker [12] does not stay up; giving up", process.text)
    assert os.listdir(tmp_path) == []


async def test_a_worker_that_keeps_dying_does_not_end_those_that_serve(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 2, env_for(vllm=upstream), code=SOON + RUN)
    dying, survivor = children(process.pid)
    for _ in range(7):
        os.kill(dying, signal.SIGKILL)
        await process.says(f"Worker 1-{dying} ended with SIGKILL")
        (dying,) = set(await number_of_children(process, 2)) - {survivor}
    assert (await asked(process)).status == 200
    assert await process.stop() == 0


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
    at_once = "import gomodel.host.signals as s; s.DUPLICATE_S = 0.0; "
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
    code = "import gomodel.process.supervisor as s; s.MARGIN_S = 0.2\n" + RUN
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
            await pause()
    before = children(process.pid)
    os.kill(before[0], signal.SIGKILL)
    await process.says("starts again")
    await number_of_children(process, 2)
    assert {(await asked(process, chat)).body for _ in range(10)} == {b"new"}
    assert await process.stop() == 0
    assert process.text.count("The configuration was read again") == 1


async def test_one_scrape_counts_the_requests_of_all_workers(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 3, env_for(vllm=upstream), code=PATIENT + RUN)
    for _ in range(30):
        await asked(process)
    assert {await counted(process) for _ in range(5)} == {30}
    assert await process.stop() == 0


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_no_counter_falls_when_one_worker_after_the_other_is_replaced(
    run: Run, upstream: ScriptedUpstream, number: int, workers: int
) -> None:
    process = await started(run, workers, env_for(vllm=upstream), code=SOON + PATIENT + RUN)
    for _ in range(20):
        await asked(process)
    if number == signal.SIGKILL:  # it has no last words; what was shown once stays
        assert await counted(process) == 20
    for times, pid in enumerate(children(process.pid), 1):
        os.kill(pid, number)
        await process.says(f"-{pid} ended")
        await have_listened(process, workers + times)
        assert await counted(process) == 20
    assert await process.stop() == 0


async def test_a_worker_that_hangs_is_noticed_killed_and_replaced_and_its_counters_stay(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    code = f"import gomodel.process.hub as h; h.PATIENCE_S = 0.05\n{IMPATIENT}{RUN}"
    # Whoever runs takes what comes on the unix socket; of a TCP port each worker has its share.
    path = str(tmp_path / "g.sock")
    process = await started(run, 2, {**env_for(vllm=upstream), "GOMODEL_UNIX_SOCKET": path, "PORT": "0"}, code=code)
    for _ in range(20):
        await asked(process)
    assert await counted(process) == 20
    stopped, _ = children(process.pid)
    os.kill(stopped, signal.SIGSTOP)
    client = await connect(path=path)
    await client.send(METRICS)
    assert re.search(rb'route="/health"[^}]*\} 20\.0\n', (await client.read_response()).body)
    await process.says(f"Worker 1-{stopped} has been silent for over 0.5 s and is killed")
    await process.says(f"Worker 1-{stopped} ended with SIGKILL")
    await process.says("Instance vllm is up", 3)
    assert stopped not in await number_of_children(process, 2)
    assert await counted(process) == 20
    assert await process.stop() == 0


async def test_a_worker_that_hangs_during_the_drain_is_not_waited_for(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 2, env_for(vllm=upstream), code=IMPATIENT + RUN)
    stopped, _ = children(process.pid)
    os.kill(stopped, signal.SIGSTOP)
    process.signal(signal.SIGTERM)
    assert await process.ended() == 1
    assert f"Worker 1-{stopped} ended with SIGKILL while draining" in process.messages


async def test_the_watchdog_is_not_fed_while_a_worker_hangs(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    manager = Manager(tmp_path / "notify")
    # Fed 100 times a second; the last beat counts for a fifth of a second and the kill comes after nine tenths.
    limits = "import gomodel.process.supervisor as s; s.LIMITS = s.Limits(beat_s=0.1, silent_beats=8)\n"
    environ = {**env_for(vllm=upstream), "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "20000"}
    process = await started(run, 2, environ, code=limits + RUN)
    assert await manager.told() == "READY=1"
    assert await manager.told() == "WATCHDOG=1"
    reading = asyncio.create_task(manager.all_told())
    stopped, _ = children(process.pid)
    os.kill(stopped, signal.SIGSTOP)
    before = len(manager.notices)
    await process.says(f"Worker 1-{stopped} has been silent for over 0.8 s and is killed")
    assert len(manager.notices) - before < 45
    await process.says("Worker 1 starts again")
    known = len(manager.notices)
    async with asyncio.timeout(SAFETY_S):
        while len(manager.notices) == known:
            await pause()
    assert await process.stop() == 0
    reading.cancel()
    await asyncio.wait([reading])
    manager.close()


@pytest.mark.parametrize("shared", [False, True], ids=["a port", "a unix socket"])
async def test_clients_that_came_while_the_workers_stood_still_are_served_at_sigterm(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, shared: bool
) -> None:
    path = str(tmp_path / "g.sock")
    environ = {**env_for(vllm=upstream), **({"GOMODEL_UNIX_SOCKET": path, "PORT": ""} if shared else {})}
    process = await started(run, 2, environ)
    for pid in children(process.pid):
        os.kill(pid, signal.SIGSTOP)
    clients = [await RawClient.connect(process.port, path=path if shared else None) for _ in range(50)]
    for client in clients:
        await client.send(HEALTH)
    process.signal(signal.SIGTERM)
    await process.says("SIGTERM: ending")
    for pid in children(process.pid):
        os.kill(pid, signal.SIGCONT)
    assert [(await client.read_response()).status for client in clients] == [200] * 50
    for client in clients:
        client.wire.close()
    assert await process.ended() == 0


async def test_a_temporary_directory_that_is_none_is_not_missed(run: Run, upstream: ScriptedUpstream) -> None:
    process = await started(run, 2, {**env_for(vllm=upstream), "TMPDIR": "/nowhere/" + "x" * 131}, code=PATIENT + RUN)
    for _ in range(10):
        await asked(process)
    assert await counted(process) == 10
    assert await process.stop() == 0


async def test_a_signal_that_comes_as_the_last_worker_is_ready_ends_with_status_0(run: Run) -> None:
    early = """
import gomodel.process.supervisor as s
on_message = s.Crew._on_message
def late(self, place, line, message):
    if message == ("ready",) and not self._ending.begun:
        self._employer._on_signal(15)
    on_message(self, place, line, message)
s.Crew._on_message = late
"""
    process = await run({"GOMODEL_WORKERS": "2"}, code=early + RUN)
    assert await process.ended() == 0
    assert "Traceback" not in process.text
    assert "Listening on" not in process.text


async def test_a_request_is_found_and_aborted_through_any_worker(
    run: Run, connect: Any, upstream: ScriptedUpstream
) -> None:
    process = await started(run, 2, env_for(vllm=upstream), code=PATIENT + RUN)
    clients = {f"id-{number}": await streaming(connect, process, upstream, f"id-{number}") for number in range(6)}
    listed = (await asked(process, request("GET", "/admin/requests", [("Connection", "close")]))).json()
    assert {each["id"] for each in listed["requests"]} == set(clients)
    for request_id, client in clients.items():
        message = request("DELETE", f"/admin/requests/{request_id}", [("Connection", "close")])
        assert (await asked(process, message)).status == 200
        assert not (await client.read_rest()).complete
    assert await process.stop() == 0


async def test_every_worker_sends_a_conversation_to_the_same_server(run: Run, connect: Any, make_upstream: Any) -> None:
    upstreams = {name: await make_upstream() for name in ("vllm", "vllm_b", "vllm_c")}
    for each in upstreams.values():
        each.repeat(OK)
    models = dict.fromkeys(("VLLM_MODELS", "VLLM_B_MODELS", "VLLM_C_MODELS"), "m")
    process = await started(run, 3, env_for(**upstreams) | {"CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"} | models)
    homes: dict[str, set[str | None]] = {}
    for number in range(48):
        name = f"s-{number % 6}"
        fields = [("X-Session-ID", name), ("Connection", "close")]
        answer = await asked(process, request("POST", "/v1/chat/completions", fields, b'{"model":"m"}'))
        homes.setdefault(name, set()).add(answer.get("X-GoModel-Provider"))
    assert [len(each) for each in homes.values()] == [1] * 6
    assert len(set.union(*homes.values())) > 1
    assert await process.stop() == 0


async def test_workers_share_the_counts_by_which_they_choose_and_forget_those_of_a_dead_one(
    run: Run, connect: Any, make_upstream: Any
) -> None:
    upstreams = [await make_upstream(), await make_upstream()]
    listed = {"CONFIGURED_PROVIDER_MODELS_MODE": "allowlist", "VLLM_MODELS": "m", "VLLM_B_MODELS": "m"}
    process = await started(run, 3, env_for(vllm=upstreams[0], vllm_b=upstreams[1]) | listed)
    clients = []
    for each in upstreams:
        each.repeat(SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), LAST_CHUNK)
    for _ in range(12):
        client: RawClient = await connect(process)
        await client.send(request("POST", "/v1/chat/completions", [], b'{"model": "m"}'))
        await client.read_head("POST")
        clients.append(client)
    assert [len(each.requests) for each in upstreams] == [6, 6]

    async def in_flight() -> list[int]:
        found = (await asked(process, request("GET", "/health/ready", [("Connection", "close")]))).json()
        return [entry["in_flight"] for entry in found["instances"].values()]

    assert [await in_flight() for _ in range(10)] == [[6, 6]] * 10
    killed = children(process.pid)[0]
    os.kill(killed, signal.SIGKILL)
    await process.says(f"Worker 1-{killed} ended with SIGKILL")
    await let_peers_run()
    lost = [client for client in clients if client.closed.done]
    assert sum(await in_flight()) == len(clients) - len(lost)
    for each in upstreams:
        each.release()
    assert await process.stop() == 0
