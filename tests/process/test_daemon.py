"""A single process from its first line to its exit status: start-up, signals, drain, reload."""

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
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gomodel.version import VERSION

from ..harness.processes import LIMIT_S, RUN, WITHOUT_UVLOOP, Process, Run, children, pause
from ..harness.scripted import (
    LAST_CHUNK,
    SAFETY_S,
    SSE_HEAD,
    RawClient,
    ReadHead,
    ScriptedUpstream,
    Stall,
    chunked,
    env_for,
    request,
    response,
)

HEALTH = request("GET", "/health")
# Every signal counts, however soon it follows another.
AT_ONCE = "import gomodel.host.signals as s; s.DUPLICATE_S = 0.0; "
LOOPS = pytest.mark.parametrize("code", [None, WITHOUT_UVLOOP + RUN], ids=["uvloop", "asyncio"])


def chat(*headers: tuple[str, str]) -> bytes:
    return request("POST", "/v1/chat/completions", headers, b'{"model": "m", "stream": true}')


async def streaming(connect: Any, process: Process, upstream: ScriptedUpstream) -> RawClient:
    """A client in the middle of a stream that goes on when the upstream is released."""
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), chunked(b"data: 2\n\n") + LAST_CHUNK)
    await process.listening()
    client: RawClient = await connect(process)
    await client.send(chat())
    await client.read_head("POST")
    await client.read_chunk()
    return client


async def accepted(port: int) -> bool:
    try:
        (await RawClient.connect(port)).wire.close()
    except ConnectionError:
        return False
    return True


async def status(client: RawClient, message: bytes = HEALTH) -> int:
    await client.send(message)
    return int((await client.read_response(message.split(b" ")[0].decode())).status)


async def test_the_log_says_at_start_what_is_served_and_shows_no_key(run: Run) -> None:
    keys = {"GOMODEL_MASTER_KEY": "secret-1", "VLLM_TEST_API_KEY": "secret-2", "VLLM_API_KEY": "secret-3"}
    process = await run({**keys, "VLLM_TEST_BASE_URL": "http://127.0.0.1:1/root", "BODY_SIZE_LIMIT": "10M"})
    port = await process.listening()
    await process.says("is used as given")
    entries = [json.loads(line) for line in process.lines]
    assert [entry["level"] for entry in entries[:4]] == ["info"] * 4
    messages = process.messages
    assert messages[0].startswith(f"gomodel {VERSION} started: Python ")
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


@LOOPS
async def test_sighup_changes_the_instances_without_dropping_a_client(
    run: Run, connect: Any, make_upstream: Any, tmp_path: Path, code: str | None
) -> None:
    old, new = await make_upstream(), await make_upstream()
    env = tmp_path / ".env"
    env.write_text(f"VLLM_BASE_URL={old.base_url}\n")
    process = await run(code=code)
    stream = await streaming(connect, process, old)
    await process.listening()
    client = await connect(process)
    assert await status(client) == 200
    env.write_text(f"VLLM_BASE_URL={new.base_url}\nGOMODEL_MASTER_KEY=new-key\n")
    process.signal(signal.SIGHUP)
    await process.says("The configuration was read again")
    await process.says(f"Instance vllm: {new.base_url}", 1)
    assert await status(client, chat()) == 401
    new.on_request(response(b"new"))
    await process.listening()
    client = await connect(process)
    assert await status(client, chat(("x-api-key", "new-key"))) == 200
    old.release()
    assert (await stream.read_rest()).complete
    assert (len(old.requests), len(new.requests)) == (1, 1)
    assert await process.stop() == 0
    assert "new-key" not in process.text


async def test_a_bad_new_configuration_is_logged_and_the_old_one_stays(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    process = await run(env_for(vllm=upstream))
    await process.listening()
    client = await connect(process)
    (tmp_path / ".env").write_text("BODY_SIZE_LIMIT=much\nVLLM_A_API_KEY=secret-4711\n")
    process.signal(signal.SIGHUP)
    line = await process.says("The new configuration is not used, the old one stays")
    assert '"level": "error"' in line
    assert "BODY_SIZE_LIMIT" in line
    assert "VLLM_A_API_KEY" in line
    upstream.on_request(response(b"still here"))
    assert await status(client, chat()) == 200
    assert await process.stop() == 0
    assert "secret-4711" not in process.text


async def test_what_only_a_restart_can_change_is_named_and_the_rest_takes_effect(
    run: Run, connect: Any, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    process = await run(env_for(vllm=upstream))
    await process.listening()
    client = await connect(process)
    settings = {
        "GOMODEL_UNIX_SOCKET": "/tmp/g.sock",
        "GOMODEL_WORKERS": "4",
        "BODY_SIZE_LIMIT": "1K",
        "LOG_LEVEL": "warn",
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    process.signal(signal.SIGHUP)
    await process.says("Changed but ignored until a restart: GOMODEL_UNIX_SOCKET, GOMODEL_WORKERS")
    body = b'{"model": "m", "padding": "%s"}' % (b"x" * 2000)
    await client.send(request("POST", "/v1/chat/completions", [], body))
    assert (await client.read_response("POST")).status == 413
    assert await process.stop() == 0
    assert "SIGTERM" not in process.text


def make_certificate(directory: Path, name: str) -> None:
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    make += ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost", "-keyout", "tls.key", "-out", "tls.crt"]
    subprocess.run(make, cwd=directory, check=True, capture_output=True)


@LOOPS
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_https_is_served_and_sighup_reads_a_renewed_certificate(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, code: str | None
) -> None:
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE

    async def shown(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
        writer.write(request("GET", "/health", [("Connection", "close")]))
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return certificate

    await asyncio.to_thread(make_certificate, tmp_path, "one")
    process = await run({**env_for(vllm=upstream), "TLS_CERT_FILE": "tls.crt", "TLS_KEY_FILE": "tls.key"}, code=code)
    port = await process.listening()
    await process.says(f"Listening on https://127.0.0.1:{port}")
    before = await shown(port)
    assert await shown(port) == before
    (tmp_path / "tls.key").write_text("broken\n")
    process.signal(signal.SIGHUP)
    await process.says("one of the files holds no valid PEM")
    assert await shown(port) == before
    await asyncio.to_thread(make_certificate, tmp_path, "renewed")
    process.signal(signal.SIGHUP)
    await process.says("The configuration was read again")
    assert await shown(port) != before
    assert await process.stop() == 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(("trusted", "expected"), [("tls.crt", 200), ("other.crt", 502)])
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_an_instance_that_becomes_https_at_a_reload_is_verified(
    run: Run, connect: Any, tmp_path: Path, trusted: str, expected: int, workers: str
) -> None:
    await asyncio.to_thread(make_certificate, tmp_path, "other")
    (tmp_path / "tls.crt").rename(tmp_path / "other.crt")
    await asyncio.to_thread(make_certificate, tmp_path, "vllm")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response(b"{}", headers=[("Connection", "close")]))
        writer.close()

    upstream = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with upstream:
        env = tmp_path / ".env"
        env.write_text("VLLM_BASE_URL=http://127.0.0.1:1/v1\n")
        process = await run({"SSL_CERT_FILE": trusted, "GOMODEL_WORKERS": workers, "RETRY_MAX_RETRIES": "0"})
        await process.listening()
        env.write_text(f"VLLM_BASE_URL=https://localhost:{upstream.sockets[0].getsockname()[1]}/v1\n")
        process.signal(signal.SIGHUP)
        await process.says("Instance vllm: https://localhost:")
        await process.says(
            f"Instance vllm is {'up' if expected == 200 else 'down: tls_certificate_error'}", int(workers)
        )
        client = await connect(process)
        assert await status(client, request("POST", "/p/vllm/tokenize", [], b"{}")) == expected
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


class Manager:
    """systemd's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._sock.setblocking(False)
        self.notices: list[str] = []

    async def all_told(self) -> None:
        """Collect every notice from now on in `notices`."""
        while True:
            self.notices.append((await asyncio.get_running_loop().sock_recv(self._sock, 1000)).decode())

    async def told(self) -> str:
        """The next notice."""
        async with asyncio.timeout(LIMIT_S):
            return (await asyncio.get_running_loop().sock_recv(self._sock, 1000)).decode()

    async def told_but_for(self, unwanted: str) -> str:
        """The next notice that is not `unwanted`."""
        while (notice := await self.told()) == unwanted:
            pass
        return notice

    def close(self) -> None:
        self._sock.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_systemd_is_told_of_every_change_of_state(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    manager = Manager(tmp_path / "notify")
    environ = {**env_for(vllm=upstream), "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000"}
    process = await run({**environ, "GOMODEL_WORKERS": workers, "GOMODEL_DRAIN_TIMEOUT": "30s"})
    assert await manager.told() == "READY=1"
    for _ in range(3):
        assert await manager.told() == "WATCHDOG=1"
    process.signal(signal.SIGHUP)
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", await manager.told_but_for("WATCHDOG=1"))
    assert await manager.told_but_for("WATCHDOG=1") == "READY=1"
    process.signal(signal.SIGTERM)
    assert await manager.told_but_for("WATCHDOG=1") == "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000"
    assert await process.ended() == 0
    manager.close()


# What systemd does between fork and exec: the socket becomes descriptor 3 and the variables name the new process.
ACTIVATED = (
    "import os, sys; os.dup2({fd}, 3); os.environ |= {{'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())}}; "
    "os.execv(sys.executable, [sys.executable, '-c', {code!r}])"
)


async def activated(run: Run, sock: socket.socket, environ: dict[str, str], code: str = RUN) -> Process:
    fd = sock.fileno()
    return await run(environ, code=ACTIVATED.format(fd=fd, code=code), pass_fds=[fd])


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_unix_socket_of_systemd_is_served_and_stays(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    path = str(tmp_path / "activated.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        process = await activated(run, sock, {**env_for(vllm=upstream), "GOMODEL_WORKERS": workers})
        await process.says(f"Listening on unix:{path}")
        client = await RawClient.connect(path=path)
        assert await status(client) == 200
        client.wire.close()
        assert await process.stop() == 0
    assert "activated.sock" in os.listdir(tmp_path)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_restart_behind_a_socket_of_systemd_fails_no_request(
    run: Run, upstream: ScriptedUpstream, workers: str
) -> None:
    upstream.repeat(response(b"answer"))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        port = sock.getsockname()[1]
        environ = {**env_for(vllm=upstream), "GOMODEL_WORKERS": workers, "LOG_LEVEL": "info"}
        answers: list[int] = []
        over = asyncio.Event()

        async def ask(connection: str) -> None:
            client = None
            while not over.is_set():
                client = client or await RawClient.connect(port)
                await client.send(chat(("Connection", connection)))
                answer = await client.read_response("POST")
                answers.append(int(answer.status))
                if answer.must_close:
                    client.wire.close()
                    client = None
                await asyncio.sleep(0.005)  # the daemons that start need the processor too
            if client is not None:
                client.wire.close()

        # A test on a busy machine may leave a client alone for longer than an honest one is idle.
        patient = f"import gomodel.process.gateway; gomodel.process.gateway.GRACE_S = 20.0; {RUN}"
        processes = [await activated(run, sock, environ, patient)]
        await processes[0].says("Limits: ")
        asking = [asyncio.create_task(ask(connection)) for connection in ("close", "close", "keep-alive", "keep-alive")]
        for _ in range(3):
            processes.append(await activated(run, sock, environ, patient))
            await processes[-1].says("Limits: ")
            assert await processes[-2].stop() == 0
        over.set()
        await asyncio.gather(*asking)
        assert await processes[-1].stop() == 0
    assert set(answers) == {200}
    assert len(answers) > 50


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
