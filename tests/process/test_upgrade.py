"""SIGUSR2: the installed release takes over from the running one, and no client notices."""

import asyncio
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from ..harness.gateways import HEALTH, METRICS, streaming
from ..harness.processes import RUN, WITHOUT_UVLOOP, Process, Run, children
from ..harness.scripted import RawClient, ScriptedUpstream, env_for, request
from ..harness.systemd import Manager, activated
from ..harness.tls import PEM
from ..harness.verdicts import OK

KEPT = request("GET", "/health")
USAGE = request("GET", "/admin/usage", [("Connection", "close")])
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])
# What a release does instead of serving, where it is one that takes over.
INSTEAD = "import os, time\nif '_GOMODEL_HANDOVER' in os.environ: {}\n"
# The rest of .env is written after its first reading.
WRITING = """
import os
import gomodel.config.load as module
if "_GOMODEL_HANDOVER" in os.environ:
    load = module.load
    def reading(*args, **kwargs):
        config = load(*args, **kwargs)
        with open(".env", "w") as env:
            env.write("LOG_LEVEL=info\\nBASE_PATH=/whole\\n")
        return config
    module.load = reading
"""
# Of a release that takes over, worker 2 never comes, and worker 1 says when it is ready.
HANGING = """
import dataclasses, os, time
import gomodel.process.supervisor as module
if "_GOMODEL_HANDOVER" in os.environ:
    module.LIMITS = dataclasses.replace(module.LIMITS, attempts=1)
    work, heard = module.Supervisor.work, module.Crew._on_message
    def working(self, place, ends):
        if place.index == 2:
            os.write(2, b"%d is worker 2, a child of %d\\n" % (os.getpid(), os.getppid()))
            time.sleep(90)
        return work(self, place, ends)
    def hearing(self, worker, line, message):
        heard(self, worker, line, message)
        if message[0] == "ready":
            os.write(2, b"worker 1 is ready\\n")
    module.Supervisor.work, module.Crew._on_message = working, hearing
"""
# Of a release that takes over, what starts last fails when somebody writes to a pipe, and the loop has turned.
UNREADY = """
import asyncio, os
import gomodel.process.batching as module
if "_GOMODEL_HANDOVER" in os.environ:
    async def starting(self):
        os.write(2, b"unready\\n")
        await asyncio.to_thread(open, "fail")
        for _ in range(10):
            await asyncio.sleep(0)
        os._exit(3)
    module.Batching.start = starting
"""
# A new release that gets SIGTERM while it reads its configuration, or when it listens already.
STOPPED_EARLY = """
    import gomodel.process.start as start
    settled = start.settled
    start.settled = lambda *read: os.kill(os.getpid(), signal.SIGTERM) or settled(*read)
"""
STOPPED_LATE = """
    from gomodel.process.gateway import Gateway
    listen = Gateway.start
    async def start(*what, **how):
        await listen(*what, **how)
        os.kill(os.getpid(), signal.SIGTERM)
    Gateway.start = start
"""
NO_WORKERS = """
    import gomodel.process.supervisor as supervisor
    supervisor.serve = None
    supervisor.LIMITS = supervisor.Limits(attempts=1)
"""
SOON = "import gomodel.process.successor as s; s.LIMIT_S = 0.3\n"


class Gateway:
    """A gateway on a port, a TLS port or a unix socket, and its clients."""

    def __init__(self, process: Process, connect: Any, way: str, path: Path) -> None:
        self.process = process
        self._connect = connect
        self._options: dict[str, Any] = {"path": str(path)} if way == "unix" else {"tls": way == "tls"}

    async def client(self) -> RawClient:
        """A new connection."""
        client: RawClient = await self._connect(None if "path" in self._options else self.process, **self._options)
        return client

    async def stream(self, upstream: ScriptedUpstream) -> RawClient:
        """A client in the middle of a stream."""
        return await streaming(lambda _: self.client(), self.process, upstream)

    async def ask(self, message: bytes = HEALTH) -> Any:
        """An answer over a connection of its own."""
        client = await self.client()
        await client.send(message)
        answer = await client.read_response(message.split(b" ")[0].decode())
        client.wire.close()
        return answer

    async def counted(self) -> int:
        """How many requests for /health a scrape knows of."""
        scrape = (await self.ask(METRICS)).body.decode()
        found = re.findall(r'^gomodel_requests_total\{[^}]*route="/health"[^}]*\} (\S+)$', scrape, re.MULTILINE)
        return int(sum(map(float, found)))


async def asked(client: RawClient, message: bytes = KEPT) -> tuple[int, str | None]:
    """The status of one more request over this connection, and what is said of the connection then."""
    await client.send(message)
    answer = await client.read_response(message.split(b" ")[0].decode())
    return answer.status, answer.get("Connection")


async def started(
    run: Run,
    connect: Any,
    upstream: ScriptedUpstream,
    tmp_path: Path,
    *,
    way: str = "port",
    workers: str = "1",
    code: str | None = None,
    **environ: str,
) -> Gateway:
    path = tmp_path / "g.sock"
    ways = {"tls": {"TLS_CERT_FILE": PEM, "TLS_KEY_FILE": PEM}, "unix": {"PORT": "", "GOMODEL_UNIX_SOCKET": str(path)}}
    process = await run(
        {**env_for(vllm=upstream), "GOMODEL_WORKERS": workers, **ways.get(way, {}), **environ}, code=code
    )
    await process.listening()
    return Gateway(process, connect, way, path)


@pytest.mark.parametrize(
    ("way", "workers"),
    [("port", "1"), ("port", "2"), ("tls", "2"), ("unix", "1"), ("unix", "2"), ("port on asyncio's loop", "1")],
)
async def test_streams_end_kept_connections_are_answered_once_more_and_counters_go_on(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, way: str, workers: str
) -> None:
    way, _, asyncios = way.partition(" on ")
    code = WITHOUT_UVLOOP + RUN if asyncios else None
    gateway = await started(run, connect, upstream, tmp_path, way=way, workers=workers, code=code)
    process, former = gateway.process, gateway.process.pid
    since = (await gateway.ask(USAGE)).json()["since"]
    kept = [await gateway.client() for _ in range(4)]
    assert [await asked(each) for each in kept] == [(200, None)] * 4
    stream = await gateway.stream(upstream)
    await process.upgrade()
    assert (await gateway.ask()).status == 200
    assert await gateway.counted() == 5
    assert [await asked(each) for each in kept] == [(200, "close")] * 4
    upstream.release()
    assert (await stream.read_rest()).complete
    assert await asked(stream) == (200, "close")
    await process.says("Drained: every request ended by itself", int(workers))
    await process.gone(former)
    assert await gateway.counted() == 10
    assert (await gateway.ask(USAGE)).json()["since"] == since
    assert (await gateway.ask()).status == 200
    assert (tmp_path / "g.sock").exists() == (way == "unix")
    assert await process.stop() == 0
    assert not (tmp_path / "g.sock").exists()


@WORKERS
async def test_clients_that_wait_to_be_accepted_are_served(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    gateway = await started(run, connect, upstream, tmp_path, workers=workers)
    process = gateway.process
    serving = children(process.pid) if workers != "1" else []
    for pid in serving:
        os.kill(pid, signal.SIGSTOP)
    clients = [await gateway.client() for _ in range(24)]
    for each in clients:
        await each.send(KEPT)
    upgrading = asyncio.create_task(process.upgrade())
    assert [(await each.read_response()).status for each in clients] == [200] * 24
    for pid in serving:
        os.kill(pid, signal.SIGCONT)
    await upgrading
    assert await process.stop() == 0


@pytest.mark.parametrize(
    ("instead", "why", "workers"),
    [
        ("os._exit(3)", "ended with status 3 before it served; what it said of it is above", "1"),
        ("os.kill(os.getpid(), 9)", "ended with SIGKILL before it served", "2"),
        ("time.sleep(3600)", "did not serve within 0.3 s and was killed", "1"),
        ("time.sleep(3600)", "did not serve within 0.3 s and was killed", "2"),
    ],
)
async def test_a_release_that_does_not_come_about_changes_nothing_but_a_line_in_the_log(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, workers: str, instead: str, why: str
) -> None:
    code = INSTEAD.format(instead) + (SOON if "sleep" in instead else "") + RUN
    gateway = await started(run, connect, upstream, tmp_path, workers=workers, code=code)
    process = gateway.process
    kept = await gateway.client()
    assert await asked(kept) == (200, None)
    process.signal(signal.SIGUSR2)
    assert '"level": "error"' in await process.says(f"The new release {why}")
    assert await asked(kept) == (200, None)
    assert await gateway.counted() == 2
    assert await process.stop() == 0


async def test_a_configuration_that_cannot_be_used_keeps_the_release_that_serves(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    env = tmp_path / ".env"
    env.write_text("GOMODEL_MASTER_KEY=k\n")
    code = "import gomodel.process.reload as r; r.SETTLE_S = 0.01\n" + RUN
    gateway = await started(run, connect, upstream, tmp_path, code=code)
    process = gateway.process
    refused = [
        ("HTTP_TIMEOUT", "HTTP_TIMEOUT=x\n"),
        ("GOMODEL_MASTER_KEY was set and is gone", ""),
        ("the last line of .env has lost its line end", "GOMODEL_MASTER_KEY=ano"),
    ]
    for times, (problem, wrong) in enumerate(refused, 1):
        env.write_text(wrong)
        process.signal(signal.SIGUSR2)
        await process.says(problem)
        await process.says("The new release ended with status 64 before it served", times)
    assert (await gateway.ask(request("GET", "/v1/models"))).status == 401
    env.write_text("GOMODEL_MASTER_KEY=another\n")
    await process.upgrade()
    keyed = request("GET", "/admin/instances", [("x-api-key", "another")])
    assert (await gateway.ask(keyed)).status == 200
    assert await process.stop() == 0


@pytest.mark.parametrize(
    ("instead", "status", "workers"),
    [
        (STOPPED_EARLY, 0, "1"),
        (STOPPED_EARLY, 0, "2"),
        (STOPPED_LATE, 0, "1"),
        (NO_WORKERS, 1, "2"),
    ],
    ids=["stopped", "stopped of two", "stopped late", "no workers"],
)
async def test_a_release_that_is_stopped_or_fails_before_it_serves_ends_alone_and_leaves_the_socket_its_file(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, workers: str, instead: str, status: int
) -> None:
    code = f"import os, signal\nif '_GOMODEL_HANDOVER' in os.environ:\n{instead}" + RUN
    gateway = await started(run, connect, upstream, tmp_path, way="unix", workers=workers, code=code)
    process = gateway.process
    process.signal(signal.SIGUSR2)
    await process.says(f"The new release ended with status {status} before it served")
    assert (await gateway.ask()).status == 200
    assert await process.stop() == 0
    assert not (tmp_path / "g.sock").exists()


async def test_files_that_are_being_written_are_read_when_they_are_whole(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("LOG_LEVEL=info\n")
    gateway = await started(run, connect, upstream, tmp_path, code=WRITING + RUN)
    await gateway.process.upgrade()
    assert (await gateway.ask(request("GET", "/whole/health", [("Connection", "close")]))).status == 200
    assert await gateway.process.stop() == 0


@WORKERS
async def test_a_second_signal_while_a_release_starts_is_ignored_and_sigterm_ends_both(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    code = INSTEAD.format("time.sleep(3600)") + RUN
    process = (await started(run, connect, upstream, tmp_path, workers=workers, code=code)).process
    process.signal(signal.SIGUSR2)
    await process.says("of the installed release is starting")
    process.signal(signal.SIGUSR2)
    await process.says("SIGUSR2 changes nothing: a new release is being started already")
    assert await process.stop() == 0
    assert process.text.count("is starting") == 1


@WORKERS
async def test_streams_outlive_several_upgrades_and_so_do_the_counts_of_all_of_them(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    gateway = await started(run, connect, upstream, tmp_path, workers=workers)
    process, former = gateway.process, [gateway.process.pid]
    streams = []
    for times in range(3):
        streams.append(await gateway.stream(upstream))
        assert (await gateway.ask()).status == 200
        assert await gateway.counted() == times + 1
        if times < 2:
            former.append(await process.upgrade())
    os.kill(former[0], signal.SIGHUP)
    await process.says("SIGHUP comes too late")
    os.kill(former[0], signal.SIGUSR2)
    await process.says("SIGUSR2 comes too late")
    upstream.release()
    assert [(await each.read_rest()).complete for each in streams] == [True] * 3
    for each in streams:
        each.wire.close()
    for pid in former[:2]:
        await process.gone(pid)
    assert await gateway.counted() == 3
    assert await process.stop() == 0


@WORKERS
@pytest.mark.parametrize("who", ["the old one", "the new one"])
async def test_sigterm_sets_the_limit_of_time_that_an_upgrade_does_not_have(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, workers: str, who: str
) -> None:
    gateway = await started(run, connect, upstream, tmp_path, workers=workers, GOMODEL_DRAIN_TIMEOUT="0")
    process, former = gateway.process, gateway.process.pid
    old = await gateway.stream(upstream)
    await process.upgrade()
    new = await gateway.stream(upstream)
    if who == "the old one":
        os.kill(former, signal.SIGTERM)
        assert not (await old.read_rest()).complete
        upstream.release()
        assert (await new.read_rest()).complete
        new.wire.close()
        await process.gone(former)
        assert await process.stop() == 0
    else:
        assert await process.stop() == 0
        assert not (await old.read_rest()).complete
        assert not (await new.read_rest()).complete


async def test_a_release_in_the_middle_that_is_killed_leaves_those_before_it_to_the_newest(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    gateway = await started(run, connect, upstream, tmp_path, workers="2", GOMODEL_DRAIN_TIMEOUT="0")
    process, first = gateway.process, gateway.process.pid
    old = await gateway.stream(upstream)
    second = await process.upgrade()
    third = await process.upgrade()
    os.kill(second, signal.SIGKILL)
    await process.says(f"what it took over from still runs (process {first})")
    await process.says("The process that took over ended with SIGKILL")
    assert (await gateway.ask()).status == 200
    os.kill(third, signal.SIGTERM)
    assert not (await old.read_rest()).complete
    await process.gone(first)
    await process.gone(third)
    assert await process.ended() == 0


async def test_the_number_of_workers_and_the_addresses_may_change(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    env = tmp_path / ".env"
    process = await run({**env_for(vllm=upstream), "GOMODEL_MASTER_KEY": "k"})
    port = await process.listening()
    gateway = Gateway(process, connect, "port", tmp_path)
    for workers, pids in (("3", 3), ("2", 2)):
        env.write_text(f"GOMODEL_WORKERS={workers}\n")
        await process.upgrade()
        assert [(await gateway.ask()).status for _ in range(24)] == [200] * 24
        assert len(children(process.pid)) == pids
    path = tmp_path / "g.sock"
    env.write_text(f"GOMODEL_UNIX_SOCKET={path}\n")
    await process.upgrade()
    assert await asked(await connect(path=str(path))) == (200, None)
    assert (await gateway.ask()).status == 200
    assert process.text.count(f"Listening on http://127.0.0.1:{port}") == 4
    assert await process.stop() == 0


async def test_clients_that_wait_at_an_address_that_is_given_up_are_served_and_later_ones_are_refused(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    env, before, after = tmp_path / ".env", tmp_path / "before.sock", tmp_path / "after.sock"
    env.write_text(f"GOMODEL_UNIX_SOCKET={before}\n")
    process = await run({**env_for(vllm=upstream), "GOMODEL_WORKERS": "2"})
    await process.listening()
    stopped = children(process.pid)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    clients: list[RawClient] = [await connect(path=str(before)) for _ in range(24)]
    for each in clients:
        await each.send(HEALTH)
    env.write_text(f"GOMODEL_UNIX_SOCKET={after}\n")
    upgrading = asyncio.create_task(process.upgrade())
    await process.says("serves; what runs here")
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    await upgrading
    assert [(await each.read_response()).status for each in clients] == [200] * 24
    assert await asked(await connect(path=str(after))) == (200, None)
    with pytest.raises(FileNotFoundError):
        await connect(path=str(before))
    assert await process.stop() == 0


@WORKERS
async def test_systemd_follows_the_new_process_and_its_sockets_are_handed_on(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    manager = Manager(tmp_path / "notify")
    environ = {**env_for(vllm=upstream), "GOMODEL_WORKERS": workers, "GOMODEL_DRAIN_TIMEOUT": "30s"}
    path = str(tmp_path / "activated.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        process = await activated(run, sock, {**environ, "NOTIFY_SOCKET": manager.path})
        assert await manager.told() == "READY=1"
        await process.listening()
        pid = await process.upgrade()
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", await manager.told())
        assert [await manager.told() for _ in range(2)] == [f"MAINPID={pid}\nREADY=1"] * 2
        client = await RawClient.connect(path=path)
        assert await asked(client) == (200, None)
        client.wire.close()
        assert await process.stop() == 0
    assert await manager.told() == "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000"
    manager.close()


async def test_what_is_out_of_rotation_stays_out(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.repeat(OK)
    gateway = await started(run, connect, upstream, tmp_path, workers="2")
    drain = request("POST", "/admin/instances/vllm/drain", body=b"")
    assert (await gateway.ask(drain)).status == 200
    await gateway.process.upgrade()
    chat = request("POST", "/v1/chat/completions", body=b'{"model": "m"}')
    assert (await gateway.ask(chat)).status == 503
    assert await gateway.process.stop() == 0


async def hanging(process: Process) -> tuple[int, int]:
    """SIGUSR2; worker 2 and the supervisor of a release that is HANGING, with its worker 1 ready."""
    process.signal(signal.SIGUSR2)
    worker, supervisor = re.findall(r"\d+", (await process.says("is worker 2")).replace("worker 2", ""))
    await process.says("worker 1 is ready")
    return int(worker), int(supervisor)


async def test_nothing_is_left_of_a_release_whose_supervisor_is_killed_while_a_worker_hangs(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    process = (await started(run, connect, upstream, tmp_path, workers="2", code=HANGING + RUN)).process
    worker, supervisor = await hanging(process)
    others = children(supervisor)
    os.kill(supervisor, signal.SIGKILL)
    await process.says("The new release ended with SIGKILL before it served")
    for pid in (worker, *others):
        await process.gone(pid)
    assert await process.stop() == 0


@WORKERS
async def test_a_release_that_fails_while_its_workers_start_has_taken_no_client(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    env = tmp_path / ".env"
    env.write_text(f"GOMODEL_WORKERS={workers}\n")
    process = await run(env_for(vllm=upstream), code=HANGING + RUN)
    gateway = Gateway(process, connect, "port", tmp_path)
    await process.listening()
    serving = children(process.pid) or [process.pid]
    env.write_text("GOMODEL_WORKERS=2\n")
    worker, _ = await hanging(process)
    for pid in serving:
        os.kill(pid, signal.SIGSTOP)
    clients = [await gateway.client() for _ in range(24)]
    os.kill(worker, signal.SIGKILL)
    await process.says("Worker 2 does not start; giving up")
    for pid in serving:
        os.kill(pid, signal.SIGCONT)
    await process.says("The new release ended with status 1 before it served")
    assert [await asked(each) for each in clients] == [(200, None)] * 24
    assert await process.stop() == 0


async def test_a_worker_that_waits_for_the_others_of_its_release_ends_when_told_to(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    process = (await started(run, connect, upstream, tmp_path, workers="2", code=HANGING + RUN)).process
    worker, supervisor = await hanging(process)
    [waiting] = set(children(supervisor)) - {worker}
    os.kill(supervisor, signal.SIGTERM)
    await process.gone(waiting)
    os.kill(worker, signal.SIGKILL)
    assert await process.stop() == 0


async def test_a_single_process_takes_no_client_before_all_of_it_has_started(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    data = str(tmp_path / "data")
    gateway = await started(run, connect, upstream, tmp_path, code=UNREADY + RUN, GOMODEL_DATA_DIR=data)
    process = gateway.process
    os.mkfifo(tmp_path / "fail")
    process.signal(signal.SIGUSR2)
    await process.says("unready")
    process.signal(signal.SIGSTOP)
    clients = [await gateway.client() for _ in range(4)]
    await asyncio.to_thread((tmp_path / "fail").write_bytes, b"")
    process.signal(signal.SIGCONT)
    await process.says("The new release ended with status 3 before it served")
    assert [await asked(each) for each in clients] == [(200, None)] * 4
    assert await process.stop() == 0
