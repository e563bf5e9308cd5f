"""SIGHUP: what changes with the configuration while requests run, what does not, and which one is refused."""

import asyncio
import contextlib
import shutil
import signal
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..harness.gateways import LOOPS, chat, status, streaming
from ..harness.processes import Run
from ..harness.scripted import (
    ScriptedUpstream,
    env_for,
    request,
    response,
)


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
