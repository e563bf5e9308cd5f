"""The gateway that all suites talk to, in front of a simulated vLLM or of the real one that the environment names.

    GOMODEL_CLIENTS_VLLM_URL    base URL with /v1; without it the simulated vLLM is used
    GOMODEL_CLIENTS_MODEL       the id of its model
    GOMODEL_CLIENTS_VLLM_KEY    its key, if it wants one

A real vLLM needs VLLM_ENABLE_RESPONSES_API_STORE=1 and --enable-auto-tool-choice with a --tool-call-parser. A model
with random weights would fill JSON with blanks for ever: it needs --tool-call-parser xlam and
--structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}' too. The machine must not be so
busy that an answer of 7500 tokens is over before its first event is seen. What only the simulation can do (break on
order) and routes that the model does not have are skipped.
"""

import contextlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .servers import base_url, closed_port, gomodel, simulated_vllm, until

KEY = "clients-master-key"
VLLM_KEY = "clients-vllm-key"
MODEL, OTHER_MODEL = "demo/llama-sim", "demo/qwen-sim"
BODY_LIMIT_BYTES = 1 << 20
REAL_URL = os.environ.get("GOMODEL_CLIENTS_VLLM_URL")

# Variables with which the packages would go elsewhere, or report to somebody.
for _name in list(os.environ):
    if _name.startswith(("OPENAI_", "ANTHROPIC_", "LANGCHAIN_", "LANGSMITH_")) or _name.upper().endswith("_PROXY"):
        del os.environ[_name]


@dataclass(frozen=True)
class Gateway:
    """A running gomodel: what a client has to know of it, and what a test may ask it."""

    url: str
    key: str
    model: str  # the selector of the vLLM that is asked, "vllm/<id>"
    other_model: str  # the same of a second instance, which is always simulated
    dead_model: str  # the same of an instance that is not there
    log: Path

    @property
    def model_id(self) -> str:
        return self.model.partition("/")[2]

    def get(self, path: str) -> str:
        """The body of a GET. Raises urllib.error.HTTPError."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(response.read().decode())

    def running(self) -> int:
        """How many requests vLLM is working on, by its own count."""
        return int(_total(self.get("/p/vllm/metrics"), "vllm:num_requests_running"))

    def answered(self, code: int) -> int:
        """How many requests gomodel has answered with `code`."""
        return int(_total(self.get("/metrics"), "gomodel_requests_total", code=str(code)))

    def frees_the_slot(self) -> bool:
        """Wait until vLLM works on nothing any more. Raises AssertionError."""
        until("vllm:num_requests_running is 0", lambda: self.running() == 0)
        return True


def _total(metrics: str, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@dataclass(frozen=True)
class _Servers:
    model: str
    settings: dict[str, str]


@pytest.fixture(scope="session")
def servers() -> Iterator[_Servers]:
    """The instances: vllm, vllm-test beside it, and vllm-dead, which nobody serves."""
    with contextlib.ExitStack() as stack:
        one, other, dead = (stack.enter_context(closed_port()) for _ in range(3))
        stack.enter_context(simulated_vllm(other, OTHER_MODEL, VLLM_KEY))
        settings = {
            "GOMODEL_MASTER_KEY": KEY,
            "VLLM_TEST_BASE_URL": base_url(other),
            "VLLM_TEST_API_KEY": VLLM_KEY,
            "VLLM_DEAD_BASE_URL": base_url(dead),
        }
        if REAL_URL is not None:
            model = os.environ["GOMODEL_CLIENTS_MODEL"]
            settings["VLLM_BASE_URL"] = REAL_URL
            settings["VLLM_API_KEY"] = os.environ.get("GOMODEL_CLIENTS_VLLM_KEY", "")
        else:
            model = MODEL
            stack.enter_context(simulated_vllm(one, MODEL, VLLM_KEY))
            settings |= {"VLLM_BASE_URL": base_url(one), "VLLM_API_KEY": VLLM_KEY}
        yield _Servers(model, settings)


@contextlib.contextmanager
def _gateway(servers: _Servers, directory: Path, **settings: str) -> Iterator[Gateway]:
    with gomodel(directory, {**servers.settings, **settings}) as url:
        selectors = (f"vllm/{servers.model}", f"vllm-test/{OTHER_MODEL}", "vllm-dead/nothing")
        yield Gateway(url, KEY, *selectors, directory / "gomodel.log")


@pytest.fixture(scope="session")
def gateway(servers: _Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """gomodel as most people run it. Its breaker stays closed, so that what a test broke is no other test's trouble."""
    directory = tmp_path_factory.mktemp("gateway")
    with _gateway(
        servers,
        directory,
        BODY_SIZE_LIMIT=str(BODY_LIMIT_BYTES),
        CIRCUIT_BREAKER_FAILURE_THRESHOLD="1000000",
        GOMODEL_DATA_DIR=str(directory / "data"),
    ) as running:
        yield running


@pytest.fixture(scope="session")
def strict_gateway(servers: _Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """gomodel that waits for half a second only, and whose breaker has opened for vllm-dead."""
    directory = tmp_path_factory.mktemp("strict-gateway")
    with _gateway(
        servers,
        directory,
        CIRCUIT_BREAKER_FAILURE_THRESHOLD="20",
        CIRCUIT_BREAKER_TIMEOUT="10m",
        RETRY_MAX_RETRIES="0",
        HTTP_RESPONSE_HEADER_TIMEOUT="500ms",
        HTTP_STREAM_IDLE_TIMEOUT="500ms",
    ) as running:
        for _ in range(20):
            with pytest.raises(urllib.error.HTTPError):
                running.get("/p/vllm-dead/version")
        yield running


@pytest.fixture(autouse=True)
def _possible(request: pytest.FixtureRequest) -> None:
    """Skips what the real vLLM of this run cannot be asked."""
    if REAL_URL is None:
        return
    if request.node.get_closest_marker("simulated"):
        pytest.skip("only the simulated vLLM does this")
    serves = request.node.get_closest_marker("serves")
    if serves is not None and not _has(request.getfixturevalue("gateway"), serves.args[0]):
        pytest.skip(f"this vLLM has no {serves.args[0]}")


def _has(gateway: Gateway, path: str) -> bool:
    try:
        gateway.get(f"/p/vllm{path}")
    except urllib.error.HTTPError as error:
        return error.code != 404
    return True
