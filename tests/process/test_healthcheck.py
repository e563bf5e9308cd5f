"""docker/healthcheck.py finds the listener wherever the environment puts it, and believes only a 200."""

import asyncio
import importlib.util
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from ..harness.scripted import SAFETY_S, GatewayHandle, ScriptedUpstream, Stall, response
from ..harness.tls import KEY_AND_CERTIFICATE

FILE = Path(__file__).resolve().parents[2] / "docker" / "healthcheck.py"
Gateway = Callable[..., Awaitable[GatewayHandle]]


@pytest.fixture(scope="module")
def module() -> ModuleType:
    """The file as a module; it belongs to no package."""
    spec = importlib.util.spec_from_file_location("healthcheck", FILE)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    loaded.TIMEOUT_S = SAFETY_S  # but where it is what a test is about
    return loaded


async def healthy(module: ModuleType, environ: Mapping[str, str]) -> bool:
    return bool(await asyncio.to_thread(module.healthy, environ))


@pytest.mark.parametrize(
    "listener",
    [
        {"HOST": "127.0.0.1"},
        {"HOST": "0.0.0.0"},
        {"HOST": "localhost"},
        {"HOST": "127.0.0.1", "BASE_PATH": "/gw"},
        {"HOST": "127.0.0.1", "BASE_PATH": "/gw/"},
        {"HOST": "127.0.0.1", "GOMODEL_MASTER_KEY": "secret"},
    ],
    ids=lambda listener: " ".join(f"{name}={value}" for name, value in listener.items()),
)
async def test_a_gateway_on_tcp_is_healthy(module: ModuleType, gateway: Gateway, listener: dict[str, str]) -> None:
    handle = await gateway(listener)
    assert await healthy(module, {**listener, "PORT": str(handle.port)})


async def test_a_gateway_on_a_unix_socket_is_healthy(module: ModuleType, gateway: Gateway, tmp_path: Path) -> None:
    path = str(tmp_path / "gomodel.sock")
    await gateway({"GOMODEL_UNIX_SOCKET": path, "HOST": "", "PORT": ""})
    assert await healthy(module, {"GOMODEL_UNIX_SOCKET": path})


async def test_a_gateway_on_both_is_asked_over_tcp(module: ModuleType, gateway: Gateway, tmp_path: Path) -> None:
    path = str(tmp_path / "gomodel.sock")
    handle = await gateway({"GOMODEL_UNIX_SOCKET": path})
    both = {"GOMODEL_UNIX_SOCKET": path, "HOST": "127.0.0.1", "PORT": str(handle.port)}
    assert await healthy(module, both)
    os.unlink(path)
    assert await healthy(module, both)


async def test_a_gateway_with_tls_is_healthy_whatever_its_certificate(
    module: ModuleType, gateway: Gateway, tmp_path: Path
) -> None:
    pem = tmp_path / "pem"
    pem.write_text(KEY_AND_CERTIFICATE)
    tls = {"TLS_CERT_FILE": str(pem), "TLS_KEY_FILE": str(pem)}
    handle = await gateway(tls)
    assert await healthy(module, {**tls, "HOST": "127.0.0.1", "PORT": str(handle.port)})


async def test_nobody_there_is_unhealthy(module: ModuleType, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    upstream.stop_listening()
    assert not await healthy(module, {"HOST": "127.0.0.1", "PORT": str(upstream.port)})
    assert not await healthy(module, {"GOMODEL_UNIX_SOCKET": str(tmp_path / "missing")})


async def test_any_other_answer_is_unhealthy(module: ModuleType, upstream: ScriptedUpstream) -> None:
    upstream.on_request(response(b"{}", 503))
    # Below a prefix, since the scripted upstream answers /health by itself.
    assert not await healthy(module, {"HOST": "127.0.0.1", "PORT": str(upstream.port), "BASE_PATH": "/gw"})


async def test_silence_is_unhealthy(
    module: ModuleType, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.on_request(Stall())
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    assert not await healthy(module, {"HOST": "127.0.0.1", "PORT": str(upstream.port), "BASE_PATH": "/gw"})


async def as_the_image_runs_it(environ: dict[str, str], directory: Path) -> int:
    """The exit status, with nothing of the environment's Python settings and nothing of this checkout."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-I", str(FILE)],
        env=environ,
        cwd=directory,
        check=False,
        capture_output=True,
    )
    assert b"Traceback" not in ended.stderr
    return int(ended.returncode)


@pytest.mark.parametrize(("running", "status"), [(True, 0), (False, 1)])
async def test_the_exit_status_tells_docker(gateway: Gateway, running: bool, status: int, tmp_path: Path) -> None:
    handle = await gateway()
    port = handle.port
    if not running:
        await handle.gateway.close()
    assert await as_the_image_runs_it({"HOST": "127.0.0.1", "PORT": str(port)}, tmp_path) == status


async def test_a_gateway_that_a_mounted_env_file_describes_is_healthy(gateway: Gateway, tmp_path: Path) -> None:
    (tmp_path / "pem").write_text(KEY_AND_CERTIFICATE)
    tls = {"TLS_CERT_FILE": str(tmp_path / "pem"), "TLS_KEY_FILE": str(tmp_path / "pem"), "BASE_PATH": "/gw"}
    handle = await gateway(tls)
    lines = {**tls, "HOST": "localhost", "PORT": "${P:-1}${Q}", "BODY_SIZE_LIMIT": "changed to nonsense since"}
    (tmp_path / ".env").write_text("".join(f'{name}="{value}"\n' for name, value in lines.items()) + "malformed\n")
    port = str(handle.port)
    assert await as_the_image_runs_it({"P": port[:1], "Q": port[1:]}, tmp_path) == 0
    assert await as_the_image_runs_it({"PORT": port, "HOST": "127.0.0.1"}, tmp_path) == 0
    assert await as_the_image_runs_it({"PORT": port, "BASE_PATH": ""}, tmp_path) == 1


async def test_a_port_that_is_none_is_unhealthy(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=http\n")
    assert await as_the_image_runs_it({}, tmp_path) == 1
