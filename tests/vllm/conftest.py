"""The servers of the suite: one vLLM for the whole session, and gomodel in front of it in the shapes the tests need.

`pytest integration` runs what one vLLM can show; `--slow` adds the tests that start, kill or outwait further servers.
What the chosen front end of vLLM lacks (`frontend`) is skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import frontend, processes, vllm_setup
from .processes import INSTANCE_KEY, MASTER_KEY, Server
from .questions import CALLER
from .tap import Tap
from .wire import get


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that start or kill a vLLM of their own")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: starts, kills or outwaits a vLLM; runs with --slow")
    config.addinivalue_line("markers", "asks(what): needs this of vLLM, a route or an ability that one front end lacks")
    try:
        vllm_setup.require()
    except vllm_setup.SetupError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="needs --slow"))
    for item in items:
        for asked in item.iter_markers("asks"):
            if reason := frontend.lacking(*asked.args):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def vllm(directory: Path) -> Iterator[Server]:
    """A vLLM that wants a key, keeps responses, comments on its silence every second, and can be paused."""
    server = processes.start_vllm(
        directory,
        "--sse-keep-alive-interval",
        "1",
        VLLM_API_KEY=INSTANCE_KEY,
        VLLM_ENABLE_RESPONSES_API_STORE="1",
        VLLM_SERVER_DEV_MODE="1",
    )
    yield server
    server.stop()


def settings(vllm_port: int, **more: str) -> dict[str, str]:
    return {
        "VLLM_BASE_URL": f"http://127.0.0.1:{vllm_port}/v1",
        "VLLM_API_KEY": INSTANCE_KEY,
        "GOMODEL_MASTER_KEY": MASTER_KEY,
        # A gomodel that gets no CPU for five seconds would take a connection it has for one that is not accepted.
        "HTTP_CONNECT_TIMEOUT": "1m",
        **more,
    }


@pytest.fixture(scope="session")
def gateway(directory: Path, vllm: Server) -> Iterator[Server]:
    """gomodel with the one instance `vllm`. SIGTERM must end it with status 0, and no key may stand in its log."""
    server = processes.start_gateway(directory, settings(vllm.port, LOG_LEVEL="debug"))
    yield server
    assert server.stop() == 0, server.log_tail()
    assert MASTER_KEY not in server.log_text()
    assert INSTANCE_KEY not in server.log_text()


@dataclass
class Tapped:
    """A gomodel whose traffic with vLLM is recorded."""

    gateway: Server
    tap: Tap


@pytest.fixture(scope="session")
def tapped_gateway(directory: Path, vllm: Server) -> Iterator[Tapped]:
    tap = Tap(vllm.port)
    try:
        # Only what a test asks for may go over the tap, so the model list is read once, here.
        server = processes.start_gateway(directory, settings(tap.port, CACHE_REFRESH_INTERVAL="1h"))
        assert get(server, "/v1/models", CALLER).status == 200
        yield Tapped(server, tap)
        server.stop()
    finally:
        tap.close()


@pytest.fixture
def tapped(tapped_gateway: Tapped) -> Tapped:
    """The recorded gateway with an empty record."""
    tapped_gateway.tap.forget()
    return tapped_gateway
