"""Fixtures for tests that talk to a gateway over real sockets, and the choice of event loop.

GOMODEL_TEST_LOOP=asyncio|uvloop; without it uvloop where it is installed. GOMODEL_TEST_WAY=task: see harness.gateway.
"""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any, NamedTuple

import hypothesis
import pytest

from gomodel.version import build, compiled

from .harness.client import RawClient
from .harness.clock import clock  # noqa: F401 - a fixture
from .harness.collector import collector  # noqa: F401 - a fixture
from .harness.gateway import DEFAULTS, GatewayHandle, env_for, start_gateway
from .harness.leaks import Inventory, Records, nothing_left, open_fds
from .harness.names import Names
from .harness.processes import run  # noqa: F401 - a fixture
from .harness.stalls import Stalls
from .harness.tls import PEM, client_context
from .harness.upstream import ScriptedUpstream

try:
    import uvloop
except ImportError:
    uvloop = None

# Nothing here is timed: an example may take long on a machine that is busy with something else.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

STALLS = "event loop stalls"

COMPILED = compiled()

LOOP = os.environ.get("GOMODEL_TEST_LOOP") or ("asyncio" if uvloop is None else "uvloop")


def pytest_configure(config: pytest.Config) -> None:
    if LOOP not in ("asyncio", "uvloop") or (LOOP == "uvloop" and uvloop is None):
        raise pytest.UsageError(f"GOMODEL_TEST_LOOP={LOOP}: want asyncio or an installed uvloop")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Half as many again as there are CPUs: a third of the time a test waits for a limit to pass."""
    cpus = len(os.sched_getaffinity(0))
    return cpus + (cpus + 1) // 2


def pytest_runtest_setup(item: pytest.Item) -> None:
    if COMPILED and item.get_closest_marker("interpreted") is not None:
        pytest.skip("what is compiled cannot be replaced")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was collected stays: thousands of tests that no collector looks at again while they run."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    return f"event loop: {LOOP}; gomodel {build()}"


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Callable[[], Any]]:
    return {LOOP: uvloop.new_event_loop if LOOP == "uvloop" else asyncio.SelectorEventLoop}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Stalls are reported and fail nothing, since a machine may be busy with something else."""
    found = [
        (report.nodeid, content)
        for report in terminalreporter.stats.get("", [])
        if getattr(report, "when", "") == "teardown"
        for name, content in report.sections
        if STALLS in name
    ]
    if found:
        terminalreporter.section("the event loop stood still", yellow=True)
        for test, content in found:
            terminalreporter.write_line(f"{test}: {content}")


class Transports(NamedTuple):
    """What clients and instances are connected over: "tcp", "tls" or "unix"."""

    client: str
    instance: str


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.transports("tcp", "tls", "unix>tcp")` runs a test, or all of a module, over each: both sides over
    the same, or client over the one and instance over the other. The mark of a test stands above that of its module."""
    mark = metafunc.definition.get_closest_marker("transports")
    if mark is not None and "transports" in metafunc.fixturenames:
        cells = [Transports(*each.split(">") if ">" in each else (each, each)) for each in mark.args]
        metafunc.parametrize("transports", cells, indirect=True, ids=mark.args)


@pytest.fixture
def transports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Transports:
    """What this test is run over; TCP without a mark. Tests that know a difference ask for it."""
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", client_context())
    cell: Transports = getattr(request, "param", Transports("tcp", "tcp"))
    return cell


@pytest.fixture
async def no_leaks(request: pytest.FixtureRequest) -> AsyncIterator[Inventory]:
    """Fails a test after which more tasks or descriptors exist than before, and reports at the end of the run where
    the loop stood still during it. The fixtures below bring it along; each that is async costs two runs of the loop.
    """
    stalls, inventory = Stalls(), Inventory()
    yield inventory
    try:
        await nothing_left(inventory.leaked)
    finally:
        for each in stalls.stop():
            request.node.add_report_section("teardown", STALLS, each)


@pytest.fixture
def logs(no_leaks: Inventory) -> Iterator[Records]:
    """Everything logged during the test; a record at ERROR that was not announced in `logs.expected` fails it."""
    records = Records(no_leaks.loop)
    records.attach()
    yield records
    records.detach()
    assert records.unexpected == []


@pytest.fixture
def socket_path(request: pytest.FixtureRequest, transports: Transports) -> Callable[[str], str]:
    """Where a unix socket of this name belongs; only what is run over one gets a directory."""
    directory = request.getfixturevalue("tmp_path") if "unix" in transports else None
    return lambda name: f"{directory}/{name}"


@pytest.fixture
async def make_upstream(
    no_leaks: Inventory, transports: Transports, socket_path: Callable[[str], str]
) -> AsyncIterator[Callable[..., Awaitable[ScriptedUpstream]]]:
    """`await make_upstream(unix_path=..., receive_buffer=..., send_buffer=..., models=(...))`.

    At the end the upstream is closed, and the test fails when a script failed or a request was malformed.
    """
    upstreams: list[ScriptedUpstream] = []

    async def make(**options: Any) -> ScriptedUpstream:
        if transports.instance == "unix":
            options.setdefault("unix_path", socket_path(f"i{len(upstreams)}"))
        elif transports.instance == "tls":
            options.setdefault("tls", True)
        upstreams.append(await ScriptedUpstream.start(**options))
        return upstreams[-1]

    yield make
    for upstream in upstreams:
        await upstream.close()
    assert [problem for upstream in upstreams for problem in upstream.problems if not upstream.lenient] == []


@pytest.fixture
async def upstream(make_upstream: Callable[..., Awaitable[ScriptedUpstream]]) -> ScriptedUpstream:
    """One scripted upstream with the ordinary settings."""
    return await make_upstream()


@pytest.fixture
def connect(no_leaks: Inventory) -> Iterator[Callable[..., Awaitable[RawClient]]]:
    """`await connect(target, receive_buffer=..., path=...)`; target is a gateway, an upstream or None with a path.

    At the end the client is closed, and the test fails when a gateway's response was malformed.
    """
    clients: list[tuple[RawClient, bool]] = []

    async def open_client(target: GatewayHandle | ScriptedUpstream | None = None, **options: Any) -> RawClient:
        if isinstance(target, GatewayHandle):
            if target.config.port is None:
                options.setdefault("path", target.config.unix_socket)
            elif target.config.certificate is not None:
                options.setdefault("tls", True)
        client = await RawClient.connect(target.port if target is not None else None, **options)
        clients.append((client, isinstance(target, ScriptedUpstream)))
        return client

    yield open_client
    for client, _ in clients:
        client.wire.close()
    assert [problem for client, lenient in clients for problem in client.problems if not lenient] == []


@pytest.fixture
async def gateway(
    logs: Records,
    make_upstream: object,
    connect: object,
    transports: Transports,
    socket_path: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Callable[..., Awaitable[GatewayHandle]]]:
    """`await gateway(env, vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="200ms")`.

    Names in lower case are instances (env_for), those in upper case are environment variables. Instances are probed
    in the background with `probes=True` only, since a probe is one more connection at the upstream. All gateways of
    a test are closed while its upstreams and clients still live, and must not need them to leave nothing behind.
    """
    from gomodel.balancing import rotation

    handles: list[GatewayHandle] = []

    async def start(env: Mapping[str, str] | None = None, **settings: Any) -> GatewayHandle:
        if not settings.pop("probes", False):
            monkeypatch.setattr("gomodel.upstream.probes.Probes.start", lambda self: None)
        instances = {name: value for name, value in settings.items() if name.islower()}
        variables = {name: value for name, value in settings.items() if not name.islower()}
        listener = {}
        if transports.client == "unix":
            listener = {"GOMODEL_UNIX_SOCKET": socket_path(f"g{len(handles)}"), "PORT": "", "HOST": ""}
        elif transports.client == "tls":
            listener = {"TLS_CERT_FILE": PEM, "TLS_KEY_FILE": PEM}
        handles.append(await start_gateway({**listener, **(env or {}), **env_for(**instances), **variables}, logs))
        return handles[-1]

    yield start
    for handle in handles:
        await handle.gateway.close()
    rotation.shared.clear()
    for handle in handles:
        await nothing_left(handle.remains)


@pytest.fixture
def names() -> Iterator[Names]:
    """Host names of this test's own: `names.answer("gpu.test", "127.0.0.1")`, `names.silence("far.test")`."""
    names = Names()
    yield names
    names.close()


@pytest.fixture
def first_of_equals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of candidates with equally few requests in flight the first takes the next one, in place of any of them."""
    monkeypatch.setitem(DEFAULTS, "ROUTING", "least")
    monkeypatch.setattr("gomodel.balancing.choice.random", lambda: 0.0)


@pytest.fixture
def spools() -> Callable[[], int]:
    """`spools()`: how many are on disk now; their files have no name from the start. pytest has such files as well."""

    def nameless() -> int:
        return sum(count for kind, count in open_fds().items() if kind.endswith("(deleted)"))

    before = nameless()
    return lambda: nameless() - before
