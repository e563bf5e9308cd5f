"""Each path that breaks something is found in each of three runs, and none that is good is accused.

The engine is the simulated vLLM at a real pace. nginx is the real one; without it its trials are skipped.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gomodel.config.settings import Secret
from gomodel.doctor.diagnosis import Diagnosis, diagnose
from gomodel.doctor.examination import Effort, Examination
from gomodel.doctor.places import Place, place_of
from gomodel.simulator import build_app

from ..harness import bad_paths
from ..harness.gateway import GatewayHandle
from ..harness.leaks import Inventory

MODEL = "org/m"
EFFORT = Effort(events=24, most_events=24, large_bytes=2 << 20, patience_s=1.0, idle_s=1.5)
RUNS = range(3)
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")

# What an operator has to write so that nginx breaks nothing.
GOOD = """
proxy_http_version 1.1;
proxy_set_header Connection $connection_upgrade;
proxy_set_header Upgrade $http_upgrade;
proxy_buffering off;
proxy_request_buffering off;
proxy_read_timeout 600s;
client_max_body_size 0;
"""
# It passes chunks on as they come whatever proxy_buffering says; what comes over HTTP/1.0 has none.
BUFFERING = GOOD.replace("proxy_buffering off", "proxy_buffering on").replace("proxy_http_version 1.1;", "")
CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    server {{
        listen unix:{directory}/sock;
        location / {{ proxy_pass http://127.0.0.1:{port}; {directives} }}
        location @own {{ return 502 "own"; }}
    }}
}}
"""


@pytest.fixture
async def engine(no_leaks: Inventory) -> AsyncIterator[int]:
    """The simulated vLLM's port: forty tokens a second."""
    app = build_app(model=MODEL, tokens_per_s=40)

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["X-Engine"] = "7"

    app.on_response_prepare.append(sign)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def place(where: int | str, key: str | None = None, model: str = MODEL) -> Place:
    secret = None if key is None else Secret(key)
    if isinstance(where, str):
        return Place(f"unix:{where}", "localhost", 80, unix_socket=where, model=model)
    made = place_of(f"http://127.0.0.1:{where}", secret)
    return Place(made.shown, made.host, made.port, key=secret, model=model)


async def examined(engine: int, through: Place) -> tuple[Diagnosis, set[str]]:
    direct = place(engine)
    seen = await Examination(direct, [direct], [through], EFFORT, lambda what: None).run()
    diagnosis = diagnose("vllm", "0.33.0", seen)
    return diagnosis, {fault.finding.kind for fault in diagnosis.faults}


@asynccontextmanager
async def nginx(port: int, directives: str, directory: Path) -> AsyncIterator[str]:
    """nginx before a port; the path of its socket."""
    path = directory / "nginx.conf"
    path.write_text(CONFIGURATION.format(directory=directory, port=port, directives=directives))
    assert NGINX is not None
    process = await asyncio.create_subprocess_exec(NGINX, "-p", str(directory), "-c", str(path))
    try:
        sock = directory / "sock"
        async with asyncio.timeout(30):
            while not sock.exists():
                assert process.returncode is None, "nginx does not start"
                await asyncio.sleep(0.01)
        yield str(sock)
    finally:
        process.terminate()
        await process.wait()


needs_nginx = pytest.mark.skipif(NGINX is None, reason="needs nginx (Debian: apt-get install nginx-light)")


@needs_nginx
@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("directives", "kinds"),
    [
        pytest.param(GOOD, set(), id="as it should be"),
        pytest.param("", {"buffered", "large", "websocket"}, id="as it is installed"),
        pytest.param(BUFFERING, {"buffered"}, id="buffering"),
        pytest.param(GOOD + "gzip on; gzip_types text/event-stream; gzip_proxied any;", {"compressed"}, id="gzip"),
        pytest.param(GOOD.replace("client_max_body_size 0;", ""), {"large"}, id="limit of bodies"),
        pytest.param(GOOD.replace("600s", "1s"), {"idle"}, id="limit of silence"),
        pytest.param(GOOD + "proxy_ignore_client_abort on;", {"never_cancels"}, id="clients that leave are ignored"),
        pytest.param(GOOD + "proxy_hide_header X-Engine;", {"dropped_headers"}, id="a field is hidden"),
        pytest.param(
            GOOD + "proxy_intercept_errors on; error_page 400 404 = @own;", {"error_status"}, id="errors of its own"
        ),
        pytest.param(GOOD + "keepalive_timeout 0;", {"closed"}, id="no kept connections"),
        pytest.param(GOOD.replace("Upgrade $http_upgrade", 'Upgrade ""'), {"websocket"}, id="no upgrades"),
    ],
)
async def test_nginx(engine: int, tmp_path: Path, directives: str, kinds: set[str], run: int) -> None:
    async with nginx(engine, directives, tmp_path) as sock:
        diagnosis, found = await examined(engine, place(sock))
    assert found == kinds, diagnosis.faults
    assert diagnosis.products == ("nginx",)
    assert diagnosis.well == (kinds <= {"compressed", "closed"})


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        (bad_paths.Path, set()),
        (bad_paths.Buffers, {"buffered"}),
        (bad_paths.NeverCancels, {"never_cancels"}),
        (bad_paths.CutsSilence, {"idle"}),
        (bad_paths.SetsTemperature, {"fields"}),
        (bad_paths.DropsLastEvent, {"last_event"}),
        (bad_paths.DropsHeaders, {"dropped_headers"}),
        (bad_paths.RewritesErrors, {"error_body"}),
        (bad_paths.WantsLength, {"chunked"}),
        (bad_paths.LimitsBodies, {"large"}),
    ],
)
async def test_scripted_paths(engine: int, path: type[bad_paths.Path], kinds: set[str], run: int) -> None:
    async with bad_paths.serving(path(engine)) as port:
        diagnosis, found = await examined(engine, place(port))
    assert found == kinds, diagnosis.faults


@pytest.mark.parametrize("run", RUNS)
async def test_gomodel(engine: int, gateway: Callable[..., Awaitable[GatewayHandle]], run: int) -> None:
    handle = await gateway(vllm=f"http://127.0.0.1:{engine}/v1", GOMODEL_MASTER_KEY="k")
    diagnosis, found = await examined(engine, place(handle.port, "k", f"vllm/{MODEL}"))
    assert found == set(), diagnosis.faults
    assert [row.name for row in diagnosis.rows if row.outcomes[0].state.value != "ok"] == []


@needs_nginx
@pytest.mark.parametrize("run", RUNS)
async def test_the_hop_that_buffers_is_named(
    engine: int, gateway: Callable[..., Awaitable[GatewayHandle]], tmp_path: Path, run: int
) -> None:
    handle = await gateway(vllm=f"http://127.0.0.1:{engine}/v1")
    async with AsyncExitStack() as stack:
        # It has to be told not to heed X-Accel-Buffering, by which gomodel forbids it.
        deaf = BUFFERING + "proxy_ignore_headers X-Accel-Buffering;"
        sock = await stack.enter_async_context(nginx(handle.port, deaf, tmp_path))
        inner, outer = place(handle.port, model=f"vllm/{MODEL}"), place(sock, model=f"vllm/{MODEL}")
        direct = place(engine)
        seen = await Examination(direct, [direct], [inner, outer], EFFORT, lambda what: None).run()
    found = diagnose("vllm", "0.33.0", seen)
    assert [(fault.at, fault.finding.kind) for fault in found.faults] == [(1, "buffered"), (1, "websocket")]
    assert found.products == ("gomodel", "nginx")
